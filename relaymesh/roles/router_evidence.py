"""What a router learns about nodes, and what it says about them (RM-05).

It has no jobs of its own, so all it knows is what others signed: receipts, what keys it trusts stand by, fraud that is
proven, stakes and manifests. From these it makes standings for its rankings, assertions (38774) and slashes (8773).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
import structlog

from relaymesh.errors import RelayError, RemoteProtocolError
from relaymesh.market.fraud import Verdict
from relaymesh.market.stake_book import MAXIMUM_FRAUDS
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.protocol.assertion import build_assertion_event
from relaymesh.protocol.codec import TOPIC
from relaymesh.protocol.evidence import read_receipt
from relaymesh.protocol.slash import build_slash, make_slash
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock
from relaymesh.roles.experience import Experience, ExperienceSettings
from relaymesh.roles.market_view import MarketView
from relaymesh.units import Timestamp

EVIDENCE_FILTER: Final = Filter(kinds=(Kind.RECEIPT, Kind.FRAUD_PROOF), tags=(("t", (TOPIC,)),))
PAUSE_SECONDS: Final = 60
"""So often assertions and slashes are published, and stakes weighed again, since they decay."""
PUBLISHED_AT_ONCE: Final = 100
"""So many are published in one pause: relays limit what an address may publish."""
ROUTER_EXPERIENCE: Final = ExperienceSettings(newcomer_msat=None, recalled_proofs=0)
"""A router risks no money of its own, and takes in every fraud proof itself."""
MAXIMUM_ASSERTED: Final = 100_000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Proven:
    """A fraud that was proven, and the proof that did."""

    verdict: Verdict
    proof: EventId


class RouterEvidence:
    """Follows evidence, keeps standings, publishes assertions and slashes, until cancelled.

    Args:
        market: Whose directory is told the standings.
        assertion_seconds: How long an assertion stands.

    Attributes:
        reputation: What is held.
        on_assertion: Told of every assertion that was published.
        refused: Evidence that did not verify, or proved nothing.
    """

    def __init__(
        self, relays: Relays, market: MarketView, key: KeyPair, ledger: Ledger, clock: Clock, assertion_seconds: int
    ) -> None:
        if market.experience is None:
            market.experience = Experience(ROUTER_EXPERIENCE)
        self._experience = market.experience
        self._experience.on_fraud = self._note_fraud
        self.reputation = self._experience.reputation
        self.on_assertion: Callable[[PublicKey, VerifiedEvent], None] = lambda node, event: None
        self.refused = 0
        self._relays, self._market, self._key, self._ledger, self._clock = relays, market, key, ledger, clock
        self._assertion_seconds = assertion_seconds
        self._changed: OrderedDict[PublicKey, None] = OrderedDict()
        self._asserted: OrderedDict[PublicKey, Timestamp] = OrderedDict()
        self._unslashed: OrderedDict[str, Proven] = OrderedDict()
        self._ours: set[str] = set()

    async def run(self) -> None:
        """Follow and publish until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow)
            tasks.start_soon(self._experience.follow, self._relays, self._clock)
            tasks.start_soon(self._keep_telling)

    # ── taking in ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        async with self._relays.subscribe((EVIDENCE_FILTER,)) as deliveries:
            async for delivery in deliveries:
                with Contained("evidence"):
                    if isinstance(delivery, Delivered):
                        self.take(delivery.event)
                    else:
                        self._tell_directory()  # what was stored has come

    def take(self, event: VerifiedEvent) -> None:
        """Take in a piece of evidence; what does not verify, or proves nothing, is counted and forgotten."""
        try:
            match event.kind:
                case Kind.RECEIPT:
                    self._take_receipt(event)
                case Kind.FRAUD_PROOF:
                    verdict = self._experience.take_fraud_proof(event, self._clock().timestamp)
                    self.refused += not verdict.is_proven
        except RemoteProtocolError:
            self.refused += 1

    def _take_receipt(self, event: VerifiedEvent) -> None:
        receipt = read_receipt(event, verify)
        node = receipt.metering.event.public_key
        if self.reputation.add_receipt(receipt, self._clock().timestamp):
            self._note_change(node)

    def _note_fraud(self, verdict: Verdict, proof: EventId) -> None:
        self._unslashed[verdict.key] = Proven(verdict, proof)
        if len(self._unslashed) > MAXIMUM_FRAUDS:
            self._unslashed.popitem(last=False)
        self._note_change(verdict.accused)

    def _note_change(self, node: PublicKey) -> None:
        self._changed[node] = None
        self._tell_directory()

    def _tell_directory(self) -> None:
        """What evidence, time, manifests and stakes have changed since."""
        self._experience.tell(self._market.directory, self._clock().timestamp)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_telling(self) -> None:
        while True:
            await anyio.sleep(PAUSE_SECONDS)
            with Contained("standings"):
                self._tell_directory()
            await self.tell()

    async def tell(self) -> None:
        """Publish what follows from proven fraud, and what is now believed about nodes of which something is new."""
        for key in tuple(self._unslashed)[:PUBLISHED_AT_ONCE]:
            with Contained("slash"), suppress(RelayError):
                await self._slash(key)
        for node in tuple(self._due())[:PUBLISHED_AT_ONCE]:
            with Contained("assertion"), suppress(RelayError):
                await self._assert(node)

    async def _slash(self, key: str) -> None:
        """One slash for one fraud, whichever replica comes first: the ledger says so."""
        proven, now = self._unslashed[key], self._clock().timestamp
        verdict = proven.verdict
        scope = f"{self._key.public_key}/slash/{key}"
        if key in self._ours or await self._ledger.next_sequence(scope, Timestamp(0)) == 0:
            self._ours.add(key)  # until a relay has it, it is ours to publish
            slash = make_slash(verdict.claim, verdict.accused, verdict.evidence, proven.proof)
            await self._publish(build_slash(slash, self._key.public_key, now))
            _log.info("slashed", accused=verdict.accused, claim=verdict.claim, proof=proven.proof)
        self._unslashed.pop(key, None)
        self._ours.discard(key)

    def _due(self) -> Iterator[PublicKey]:
        now = self._clock().timestamp
        yield from self._changed
        for node, renewed_at in self._asserted.items():
            if node not in self._changed and renewed_at <= now:
                yield node

    async def _assert(self, node: PublicKey) -> None:
        now, key = self._clock().timestamp, self._key.public_key
        seq = await self._ledger.next_sequence(f"{key}/{int(Kind.REPUTATION_ASSERTION)}/{node}", now)
        until = Timestamp(now + self._assertion_seconds)
        assertion = self.reputation.make_assertion(node, now, seq=seq, valid_until=until)
        event = await self._publish(build_assertion_event(assertion, node, key, Timestamp(max(now, seq))))
        self._changed.pop(node, None)
        self._asserted[node] = Timestamp(now + self._assertion_seconds // 2)
        self._asserted.move_to_end(node)
        if len(self._asserted) > MAXIMUM_ASSERTED:
            self._asserted.popitem(last=False)
        self.on_assertion(node, event)

    async def _publish(self, unsigned: UnsignedEvent) -> VerifiedEvent:
        event = self._key.sign(unsigned)
        if not any(answer.accepted for answer in await self._relays.publish(event)):
            raise RelayError("no relay took it", retryable=True)
        return event
