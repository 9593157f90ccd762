"""Experience: what a reader has learnt about nodes, kept up to date from its ledger, its jobs and those it trusts.

Nothing is kept beside the ledger: what own jobs say is read from their rows and receipts at the start. Of the keys that
the reader trusts their assertions are followed, and the receipts that these stand by are fetched by id; of everybody,
fraud proofs, since a proof needs no trust (RM-05).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import anyio

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.booking import book_ended, book_stored
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.records import EvidenceRecord, JobRecord
from relaymesh.market.capability import slowest_claim
from relaymesh.market.directory import Directory
from relaymesh.market.fraud import Verdict, decide
from relaymesh.market.probation import NEWCOMER_MSAT
from relaymesh.market.reputation import HOUR_SECONDS, MAXIMUM_SUBJECTS, Reputation
from relaymesh.market.stake_book import StakeBook
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import JobQuery, Ledger
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.protocol.assertion import read_assertion
from relaymesh.protocol.codec import TOPIC
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import SignedReceipt, read_receipt
from relaymesh.protocol.fraud_proof import read_fraud_proof
from relaymesh.protocol.lightning_message import recover_signer
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.protocol.stake import read_stake
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock
from relaymesh.units import AmountMsat, Timestamp

RECALLED_JOBS: Final = 256
"""So many of the newest jobs are read at the start; what is older weighs little."""
MAXIMUM_WANTED: Final = 256
"""So many receipts are fetched by id at a time."""
FETCH_SECONDS: Final = 10
TOLD_AT_ONCE: Final = 500
"""So many standings are put into the directory before one choice."""
PROOFS_PER_SECOND: Final = 50
"""So many fraud proofs are decided in a second, since each takes a millisecond; those beyond are not looked at."""
WEIGHED_SECONDS: Final = 60
"""So often stakes are weighed again, since they decay; those that come are weighed within a second."""
_BUSY: Final = frozenset({RefusalCode.BUSY, RefusalCode.DRAINING})


@dataclass(frozen=True, slots=True)
class ExperienceSettings:
    """Whom a reader believes beside itself.

    Args:
        trusted: The keys whose word it takes, with their weights in thousandths.
        newcomer_msat: What the first job with a node may cost that nobody has seen work; None sets no limit.
        recalled_proofs: So many of the newest fraud proofs are read at the start, and those that come are followed; 0
            follows none.
    """

    trusted: Mapping[PublicKey, int] = field(default_factory=dict)
    newcomer_msat: AmountMsat | None = NEWCOMER_MSAT
    recalled_proofs: int = 100


class Experience:
    """One reader's reputation of nodes, with what feeds it.

    Attributes:
        reputation: What is held.
        on_fraud: Told of every fraud that is proven and was not known, with the id of its proof.
    """

    def __init__(self, settings: ExperienceSettings | None = None) -> None:
        chosen = settings or ExperienceSettings()
        self.reputation = Reputation(chosen.trusted, newcomer_msat=chosen.newcomer_msat)
        self.on_fraud: Callable[[Verdict, EventId], None] = lambda verdict, proof: None
        self._trusted, self._recalled_proofs = tuple(sorted(chosen.trusted)), chosen.recalled_proofs
        self._told: tuple[Standing, int] | None = None
        self._machines: dict[PublicKey, None] = {}
        self._stale: dict[PublicKey, None] = {}
        self._stakes = StakeBook(recover_signer)
        self._weigh_at = Timestamp(0)
        self._decided = (Timestamp(0), 0)

    async def recall(self, ledger: Ledger) -> None:
        """Book the newest jobs of the client's ledger."""
        jobs = await ledger.find_jobs(JobQuery(side="client", limit=RECALLED_JOBS))
        for found in jobs:
            self._book_stored(found.job, await ledger.find_evidence(found.job.job_id))

    def book(self, contract: SessionContract, ended: JobEnded, model: str, now: Timestamp) -> None:
        """Book a job that ended."""
        outcome = book_ended(ended, contract.client, model, now)
        if outcome is not None:
            self.reputation.book(contract.node, outcome)

    def book_refusals(self, refusals: Iterable[tuple[PublicKey, Refusal]]) -> None:
        """Count who refused; being busy is no failure, nor is any other refusal."""
        for node, refusal in refusals:
            self.reputation.book_refusal(node, is_busy=refusal.code in _BUSY)

    def take(self, event: VerifiedEvent, now: Timestamp) -> tuple[EventId, ...]:
        """Take in what somebody published about nodes; the receipts to fetch, if it is a trusted key's assertion."""
        try:
            match event.kind:
                case Kind.RECEIPT:
                    self.reputation.add_receipt(read_receipt(event, verify), now)
                case Kind.REPUTATION_ASSERTION:
                    return self.reputation.add_assertion(read_assertion(event), now)
                case Kind.FRAUD_PROOF if self._may_decide(now):
                    self.take_fraud_proof(event, now)
                case Kind.STAKE_COMMITMENT:
                    self._stakes.place(read_stake(event))
                    self._weigh_at = min(self._weigh_at, Timestamp(now + 1))
                case Kind.MANIFEST:
                    self._note_manifest(event.public_key)
        except RemoteProtocolError:
            return ()  # it says nothing
        return ()

    def take_fraud_proof(self, event: VerifiedEvent, now: Timestamp) -> Verdict:
        """Decide a fraud proof (8772), and hold it against the accused if it proves something that was not known.

        Raises:
            RemoteProtocolError: It is not a valid fraud proof.
        """
        verdict = decide(read_fraud_proof(event).proof, verify)
        if self._stakes.convict(verdict):
            at = min(event.created_at, now)
            self.reputation.add_fraud(verdict.accused, verdict.claim, verdict.key, event.id, at)
            self._weigh_at = now
            self.on_fraud(verdict, event.id)
        return verdict

    def stake_units(self, key: PublicKey, now: Timestamp) -> int:
        """What a key has at stake, as far as it counts; weighed anew once a minute, and when fraud was proven."""
        self._weigh(now)
        return self._stakes.units(key)

    def _weigh(self, now: Timestamp) -> None:
        if now >= self._weigh_at:
            self._stale.update(dict.fromkeys(self._stakes.weigh(now)))
            self._weigh_at = Timestamp(now + WEIGHED_SECONDS)

    def _may_decide(self, now: Timestamp) -> bool:
        second, decided = self._decided
        self._decided = (now, 1 if second != now else decided + 1)
        return self._decided[1] <= PROOFS_PER_SECOND

    def _note_manifest(self, author: PublicKey) -> None:
        """A manifest of this key came: it may change what is expected of it."""
        if len(self._machines) < MAXIMUM_SUBJECTS:
            self._machines[author] = None
        self._stale[author] = None

    def tell(self, directory: Directory, now: Timestamp) -> None:
        """Put the standings that changed into the directory, for the choice that follows.

        What changes with time alone is put there once an hour, some nodes at a time.
        """
        self._weigh(now)
        newcomer, hour = self.reputation.newcomer(now), now // HOUR_SECONDS
        if (newcomer, hour) != self._told:
            self._stale.update(dict.fromkeys((*self.reputation.subjects, *self._machines)))
            if self._told is None or newcomer != self._told[0]:
                directory.set_newcomer(newcomer)
            self._told = newcomer, hour
        self._stale.update(dict.fromkeys(self.reputation.take_changes()))
        for node in tuple(islice(self._stale, TOLD_AT_ONCE)):
            del self._stale[node]
            directory.set_standing(node, self.standing(directory, node, now))

    def standing(self, directory: Directory, node: PublicKey, now: Timestamp, model: str | None = None) -> Standing:
        """What is believed about a node, its manifest in the directory included."""
        manifests = directory.manifests(node, now)
        stated = [each.manifest for each in manifests if model is None or each.manifest.find_benchmark(model)]
        manifest = min(stated, key=slowest_claim, default=manifests[0].manifest if manifests else None)
        units = self.stake_units(node, now)
        return self.reputation.standing(node, now, model=model, manifest=manifest, stake_units=units)

    async def follow(self, relays: Relays, clock: Clock) -> None:
        """Follow fraud proofs, and what the trusted keys assert; fetch the receipts that these stand by."""
        filters: list[Filter] = []
        if self._recalled_proofs:
            proofs = Filter(kinds=(Kind.FRAUD_PROOF,), tags=(("t", (TOPIC,)),), limit=self._recalled_proofs)
            filters.append(proofs)
        if self._trusted:
            filters.append(Filter(kinds=(Kind.REPUTATION_ASSERTION,), authors=self._trusted))
        if not filters:
            return
        async with relays.subscribe(tuple(filters)) as deliveries, anyio.create_task_group() as tasks:
            async for delivery in deliveries:
                with Contained("experience"):
                    if isinstance(delivery, Delivered):
                        wanted = self.take(delivery.event, clock().timestamp)
                        if wanted:
                            tasks.start_soon(self._fetch, relays, clock, wanted)

    async def _fetch(self, relays: Relays, clock: Clock, wanted: tuple[EventId, ...]) -> None:
        """Fetch receipts by id; what no relay has by then does not count."""
        asked = Filter(ids=wanted[:MAXIMUM_WANTED])
        complete: set[str] = set()
        with Contained("experience"), anyio.move_on_after(FETCH_SECONDS):
            async with relays.subscribe((asked,)) as deliveries:
                async for delivery in deliveries:
                    if isinstance(delivery, Delivered):
                        self.take(delivery.event, clock().timestamp)
                    else:
                        complete.add(delivery.relay_url)
                    if complete >= set(relays.urls):
                        return

    def _book_stored(self, job: JobRecord, evidence: tuple[EvidenceRecord, ...]) -> None:
        receipt: SignedReceipt | None = None
        for record in evidence:
            if record.event.kind == Kind.RECEIPT and record.job_id == job.job_id:
                receipt = read_receipt(record.event, verify)
        outcome = book_stored(job, receipt)
        if outcome is not None:
            self.reputation.book(job.node, outcome)
