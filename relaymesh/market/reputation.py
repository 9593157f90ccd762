"""Reputation: what one reader believes about nodes, from receipts, proven fraud and its own jobs (RM-05, "Reputation").

There is no global score. A reader counts what it saw itself first; then the receipts that keys it trusts stand by, each
key as one counterparty; and last all other receipts, which together are one counterparty, however many keys signed
them. So an attacker gains by N keys what it gains by one. How many relays carried an event counts never.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from relaymesh.market.capability import expect_speed
from relaymesh.market.opinion import Evidence, tell_evidence, weigh_evidence
from relaymesh.market.outcomes import (
    WHOLE_MILLI,
    JobKey,
    Outcome,
    OutcomeWindow,
    Result,
    age_weight_milli,
    read_outcome,
    weigh_outcomes,
)
from relaymesh.market.probation import NEWCOMER_MSAT, newcomer_limit
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.assertion import (
    MAXIMUM_CITED_PROOFS,
    MAXIMUM_CITED_RECEIPTS,
    MAXIMUM_RANK,
    Assertion,
    Observations,
    SignedAssertion,
)
from relaymesh.protocol.evidence import SignedReceipt
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.manifest import Manifest
from relaymesh.units import AmountMsat, Timestamp

OWN_WINDOW: Final = 64
VOUCHER_WINDOW: Final = 16
STRANGERS_WINDOW: Final = 16
FRAUD_HALF_LIFE_SECONDS: Final = 364 * 86_400
MAXIMUM_SUBJECTS: Final = 100_000
MAXIMUM_VOUCHERS: Final = 32
MAXIMUM_FRAUDS: Final = 16
FUTURE_SECONDS: Final = 60
SPEED_SAMPLES: Final = 16
HOUR_SECONDS: Final = 3_600


@dataclass(slots=True)
class _Voucher:
    """What one trusted key stands by about one node."""

    seq: int
    valid_until: Timestamp
    receipts: frozenset[EventId]
    outcomes: OutcomeWindow = field(default_factory=lambda: OutcomeWindow(VOUCHER_WINDOW))


@dataclass(frozen=True, slots=True)
class _Fraud:
    claim: str
    at: Timestamp
    proof: EventId


class _Subject:
    """Everything that is kept about one node; its size is bounded, whatever is published."""

    __slots__ = ("busy", "cached", "frauds", "own", "refused", "strangers", "vouchers")

    def __init__(self) -> None:
        self.own = OutcomeWindow(OWN_WINDOW)
        self.strangers = OutcomeWindow(STRANGERS_WINDOW)
        self.vouchers: dict[PublicKey, _Voucher] = {}
        self.frauds: dict[str, _Fraud] = {}
        self.busy = self.refused = 0
        self.cached: tuple[Timestamp, Evidence] | None = None


class Reputation:
    """One reader's evidence about nodes, taken in piece by piece in constant time, and weighed when asked.

    Args:
        trusted: The long-term keys whose word the reader takes, its follow graph, with what each weighs: 1 … 1,000
            thousandths.
        newcomer_msat: What the first job with a node may cost that nobody has seen work; None sets no limit, for
            whoever risks no money of its own.
    """

    def __init__(
        self, trusted: Mapping[PublicKey, int] | None = None, *, newcomer_msat: AmountMsat | None = NEWCOMER_MSAT
    ) -> None:
        self._trusted = {key: min(weight, WHOLE_MILLI) for key, weight in (trusted or {}).items() if weight > 0}
        self._newcomer_msat = newcomer_msat
        self._subjects: OrderedDict[PublicKey, _Subject] = OrderedDict()
        self._strange: OrderedDict[PublicKey, None] = OrderedDict()
        self._observed: set[PublicKey] = set()
        self._losses: tuple[Timestamp, int] | None = None
        self._changes: dict[PublicKey, None] = {}

    def __len__(self) -> int:
        return len(self._subjects)

    # ── taking in ─────────────────────────────────────────────────────────────────────────────────────────────────

    def book(self, node: PublicKey, outcome: Outcome) -> bool:
        """Book how a job of the reader's own ended; whether that was new."""
        subject = self._find(node, is_believed=True)
        self._observed.add(node)
        self._losses = None
        return self._note(node, subject, subject.own.add(outcome))

    def book_refusal(self, node: PublicKey, *, is_busy: bool) -> None:
        """Count that a node refused; that is no failure, and only the reader's own assertions tell it."""
        subject = self._find(node, is_believed=True)
        self._observed.add(node)
        subject.busy += is_busy
        subject.refused += not is_busy

    def add_receipt(self, receipt: SignedReceipt, now: Timestamp) -> bool:
        """Take in anybody's verified receipt; whether it may change a standing. Own jobs are told by `book` alone."""
        outcome, node = read_outcome(receipt), receipt.metering.event.public_key
        if outcome is None or outcome.at > now + FUTURE_SECONDS:
            return False
        known = self._subjects.get(node)
        vouchers = [] if known is None else [each for each in known.vouchers.values() if _tells(each, outcome)]
        if known is not None and vouchers:
            return self._note(node, known, sum(voucher.outcomes.add(outcome) for voucher in vouchers) > 0)
        subject = self._find(node, is_believed=False)
        return self._note(node, subject, subject.strangers.add(outcome))

    def add_assertion(self, signed: SignedAssertion, now: Timestamp) -> tuple[EventId, ...]:
        """Take in an assertion; one whose author the reader does not trust changes nothing.

        Returns:
            The receipts it stands by that are not known here: whoever wants them to count fetches them by id.
        """
        said, author = signed.assertion, signed.author
        if author not in self._trusted or said.valid_until <= now:
            return ()
        subject = self._find(signed.subject, is_believed=True)
        known = subject.vouchers.get(author)
        if (known is not None and said.seq <= known.seq) or not self._make_room(subject, author):
            return ()
        voucher = _Voucher(said.seq, said.valid_until, frozenset(said.receipts))
        found = [*(known.outcomes.newest() if known is not None else ()), *subject.strangers.newest()]
        for outcome in found:
            if _tells(voucher, outcome):
                voucher.outcomes.add(outcome)
        subject.vouchers[author] = voucher
        self._note(signed.subject, subject, True)
        told = {outcome.receipt_id for outcome in found}
        return tuple(receipt for receipt in said.receipts if receipt not in told)

    def add_fraud(self, node: PublicKey, claim: str, key: str, proof: EventId, at: Timestamp) -> bool:
        """Take in a fraud that was proven; `key` is that of its slash, so that the same evidence counts once."""
        subject = self._find(node, is_believed=True)
        if key in subject.frauds or len(subject.frauds) >= MAXIMUM_FRAUDS:
            return False
        subject.frauds[key] = _Fraud(claim, at, proof)
        return self._note(node, subject, True)

    # ── weighing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def evidence(self, node: PublicKey, now: Timestamp) -> Evidence:
        """What is held about a node, each job once; time counts by whole hours."""
        subject, hour = self._subjects.get(node), _hour(now)
        if subject is None:
            return Evidence()
        if subject.cached is None or subject.cached[0] != hour:
            subject.cached = (hour, self._gather(subject, hour))
        return subject.cached[1]

    def standing(
        self,
        node: PublicKey,
        now: Timestamp,
        *,
        model: str | None = None,
        manifest: Manifest | None = None,
        stake_units: int = 0,
    ) -> Standing:
        """What the reader believes about a node, with the reasons in a few words.

        Args:
            node: Whom.
            now: For the age of what is held.
            model: The model that a job is for; its speed counts. None for any.
            manifest: The node's live manifest, if any.
            stake_units: What the node has at stake, as far as it counts.
        """
        hour = _hour(now)
        evidence = self.evidence(node, now)
        opinion = weigh_evidence(evidence, hour)
        limit = self._limit(opinion.proven_milli, hour) if opinion.is_newcomer else None
        observed = [each for each in evidence.believed if model in (None, each.model)][:SPEED_SAMPLES]
        speed = expect_speed(observed, manifest, model)
        probation = () if limit is None else (_told(limit),)
        return Standing(
            successes_milli=opinion.weight.successes_milli,
            failures_milli=opinion.weight.failures_milli,
            first_output_ms=speed.first_output_ms,
            output_units_per_1000s=speed.output_units_per_1000s,
            trust_milli=opinion.trust_milli,
            stake_units=stake_units,
            is_on_probation=opinion.is_newcomer,
            job_limit_msat=limit,
            slow_first_output_ms=speed.slow_first_output_ms,
            slow_output_units_per_1000s=speed.slow_output_units_per_1000s,
            reasons=(*tell_evidence(evidence), *speed.reasons, *probation),
        )

    def newcomer(self, now: Timestamp) -> Standing:
        """The standing of every node of which nothing is held."""
        limit = self._limit(0, _hour(now))
        probation = () if limit is None else (_told(limit),)
        return Standing(is_on_probation=True, job_limit_msat=limit, reasons=(*tell_evidence(Evidence()), *probation))

    @property
    def subjects(self) -> tuple[PublicKey, ...]:
        """Every node of which something is held."""
        return tuple(self._subjects)

    def take_changes(self) -> tuple[PublicKey, ...]:
        """The nodes of which something else is held than when this was last asked."""
        changes, self._changes = tuple(self._changes), {}
        return changes

    # ── telling others ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def observed_nodes(self) -> tuple[PublicKey, ...]:
        """The nodes that the reader has seen itself, by key."""
        return tuple(sorted(self._observed))

    def make_assertion(self, node: PublicKey, now: Timestamp, *, seq: int, valid_until: Timestamp) -> Assertion:
        """What the reader has to say about a node it has seen: its counts, and its own receipts and proofs to cite."""
        subject = self._subjects.get(node) or _Subject()
        own = subject.own.newest()
        counted = Counter(outcome.result for outcome in own)
        speed = expect_speed(own[:SPEED_SAMPLES], None, None)
        tokens = speed.output_units_per_1000s
        observed = Observations(
            done=counted[Result.DONE],
            partial=counted[Result.PARTIAL],
            failed=counted[Result.FAILED],
            busy=min(subject.busy, MAXIMUM_QUANTITY),
            refused=min(subject.refused, MAXIMUM_QUANTITY),
            missing_records=sum(not outcome.has_record for outcome in own),
            first_output_ms=speed.first_output_ms,
            output_tokens_per_1000s=tokens,
        )
        opinion = weigh_evidence(self.evidence(node, now), _hour(now))
        return Assertion(
            seq=seq,
            valid_until=valid_until,
            rank=opinion.trust_milli * MAXIMUM_RANK // WHOLE_MILLI,
            observed=observed,
            receipts=tuple(each.receipt_id for each in own if each.receipt_id is not None)[:MAXIMUM_CITED_RECEIPTS],
            proofs=tuple(sorted(each.proof for each in subject.frauds.values()))[:MAXIMUM_CITED_PROOFS],
        )

    # ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────

    def _find(self, node: PublicKey, *, is_believed: bool) -> _Subject:
        subject = self._subjects.get(node)
        if subject is None:
            if len(self._subjects) >= MAXIMUM_SUBJECTS:
                self._evict()
            subject = self._subjects[node] = _Subject()
            self._strange[node] = None
        self._subjects.move_to_end(node)
        if is_believed:
            self._strange.pop(node, None)
        elif node in self._strange:
            self._strange.move_to_end(node)
        return subject

    def _evict(self) -> None:
        """Make room: first goes whom only strangers speak of and who was not spoken of for the longest time."""
        node = next(iter(self._strange or self._subjects))
        del self._subjects[node]
        self._changes[node] = None
        self._strange.pop(node, None)
        self._observed.discard(node)

    def _make_room(self, subject: _Subject, author: PublicKey) -> bool:
        """Whether this key may vouch for the node: of too many the lightest gives way."""
        vouchers = subject.vouchers
        if author in vouchers or len(vouchers) < MAXIMUM_VOUCHERS:
            return True
        lightest = max(vouchers, key=self._rank)
        if self._rank(author) >= self._rank(lightest):
            return False
        del vouchers[lightest]
        return True

    def _rank(self, author: PublicKey) -> tuple[int, PublicKey]:
        return -self._trusted[author], author

    def _note(self, node: PublicKey, subject: _Subject, has_changed: bool) -> bool:
        if has_changed:
            subject.cached = None
            self._changes[node] = None
        return has_changed

    def _gather(self, subject: _Subject, hour: Timestamp) -> Evidence:
        told: set[JobKey] = set()

        def not_told(outcomes: OutcomeWindow) -> tuple[Outcome, ...]:
            new = tuple(outcome for outcome in outcomes.newest() if outcome.job not in told)
            told.update(outcome.job for outcome in new)
            return new

        own = not_told(subject.own)
        vouched = tuple(
            (self._trusted[author], not_told(subject.vouchers[author].outcomes))
            for author in sorted(subject.vouchers, key=self._rank)
            if subject.vouchers[author].valid_until > hour
        )
        frauds = tuple(
            (fraud.claim, age_weight_milli(hour - fraud.at, FRAUD_HALF_LIFE_SECONDS))
            for _, fraud in sorted(subject.frauds.items())
        )
        return Evidence(own, vouched, not_told(subject.strangers), frauds)

    def _limit(self, proven_milli: int, hour: Timestamp) -> AmountMsat | None:
        if self._newcomer_msat is None:
            return None
        return newcomer_limit(self._newcomer_msat, proven_milli, self._losses_milli(hour))

    def _losses_milli(self, hour: Timestamp) -> int:
        """How often the reader paid for nothing to nodes that are newcomers still, aged; worked out once an hour."""
        if self._losses is None or self._losses[0] != hour:
            total = sum(self._losses_at(self.evidence(node, hour), hour) for node in self._observed)
            self._losses = (hour, total)
        return self._losses[1]

    @staticmethod
    def _losses_at(evidence: Evidence, hour: Timestamp) -> int:
        if not weigh_evidence(evidence, hour).is_newcomer:
            return 0
        return weigh_outcomes([each for each in evidence.own if each.lost_msat], hour).failures_milli


def _tells(voucher: _Voucher, outcome: Outcome) -> bool:
    return outcome.receipt_id in voucher.receipts


def _told(limit_msat: AmountMsat) -> str:
    return f"on probation: jobs up to {limit_msat} msat"


def _hour(now: Timestamp) -> Timestamp:
    """Time as reputation counts it: by whole hours, so that what was weighed can be kept for one."""
    return Timestamp(now - now % HOUR_SECONDS)
