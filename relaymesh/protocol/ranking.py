"""The ranking (28775): a router's answer, with the events it rests on, so that anyone can compute it again (RM-04)."""

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import Field

from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import (
    EventIdField,
    Hex32,
    Msat,
    OfferAddress,
    PolicyName,
    Quantity,
    Score,
    ShortText,
    UnixSeconds,
    Version,
)
from relaymesh.protocol.offer import MAXIMUM_ROWS

MAXIMUM_RANKED: Final = 8
MAXIMUM_TERMS_OF_A_SCORE: Final = 12


class StatedStanding(WireValue):
    """What a router believes about a node, as the integers that a score reads (RM-04, "Standing").

    Args:
        successes_milli: Jobs that ended well, weighted, in thousandths of a job.
        failures_milli: Jobs that did not, likewise.
        first_output_ms: Time to the first output; None when nobody has measured it.
        output_units_per_1000s: Output units per 1,000 seconds; None likewise.
        slow_first_output_ms: The same for the slow ones among its jobs; None likewise.
        slow_output_units_per_1000s: The same for the slow ones among its jobs; None likewise.
        trust_milli: How far the router trusts the node, 0 … 1,000.
        stake_units: What the node has at stake, as far as it counts.
        is_on_probation: Whether the node is too new for more than small jobs.
        job_limit_msat: The most that a job may cost there, while it is on probation; None for no limit.
    """

    successes_milli: Quantity = 0
    failures_milli: Quantity = 0
    first_output_ms: Quantity | None = None
    output_units_per_1000s: Annotated[int, Field(ge=1, le=10**9)] | None = None
    slow_first_output_ms: Quantity | None = None
    slow_output_units_per_1000s: Annotated[int, Field(ge=1, le=10**9)] | None = None
    trust_milli: Annotated[int, Field(ge=0, le=1_000)] = 0
    stake_units: Quantity = 0
    is_on_probation: bool = False
    job_limit_msat: Msat | None = None


class RankedRow(WireValue):
    """One price of one offer, and its place in a ranking.

    Args:
        offer_address: `38770:<node>:<label>`, as an `a` tag names it.
        offer_id: The offer that was considered.
        row: Which of its price rows, by index.
        status_id: The node's status that was considered; None where there was none.
        standing: What the router believes about the node; None for a node that it does not know.
        assertion_id: What the router last asserted about the node in public (38774); None where it has not.
        score_msat: The score: the lower, the better; None for who is out.
        terms: What the score is made of, by name; their sum. Empty for who is out.
        estimated_msat: What the job would cost at the most; None for who is out.
        excluded: Why it is out; None for who is not.
        asked: Whether the router passed the request on to this node.
    """

    offer_address: OfferAddress
    offer_id: EventIdField
    row: Annotated[int, Field(ge=0, le=MAXIMUM_ROWS - 1)] = 0
    status_id: EventIdField | None = None
    standing: StatedStanding | None = None
    assertion_id: EventIdField | None = None
    score_msat: Score | None = None
    terms: Annotated[dict[PolicyName, Score], Field(max_length=MAXIMUM_TERMS_OF_A_SCORE)]
    estimated_msat: Msat | None = None
    excluded: ShortText | None = None
    asked: bool = False

    @property
    def node(self) -> PublicKey:
        """Whose offer it is."""
        return PublicKey(self.offer_address.split(":")[1])

    @property
    def label(self) -> str:
        """The offer's label."""
        return self.offer_address.split(":", 2)[2]

    @property
    def cited_ids(self) -> tuple[EventId, ...]:
        """The events this row rests on."""
        return tuple(each for each in (self.offer_id, self.status_id, self.assertion_id) if each is not None)


class Ranking(WireValue):
    """What a 28775 says: the best prices for a request, best first, then some of those that are out, with reasons.

    Args:
        request_id: The 28770 it answers.
        ranked_at: The time at which offers and statuses were looked at (Unix seconds).
        rows: At most 8: the best eligible ones, best first, then excluded ones.
        considered: How many prices were looked at.
        eligible: How many of them were eligible.
        policy: How the eligible were ordered.
        formula: The name of the formula that the scores were made by.
        seed: What the draw among near-equals was made from: SHA-256(request id ‖ router key).
        registry_digest: SHA-256 over the sorted ids of the offers and statuses that were looked at.
    """

    v: Version = 1
    request_id: EventIdField
    ranked_at: UnixSeconds
    rows: Annotated[tuple[RankedRow, ...], Field(max_length=MAXIMUM_RANKED)]
    considered: Quantity
    eligible: Quantity
    policy: PolicyName
    formula: PolicyName
    seed: Hex32
    registry_digest: Hex32

    @property
    def cited_ids(self) -> tuple[EventId, ...]:
        """The events it rests on, each once, in order."""
        return tuple(dict.fromkeys(each for row in self.rows for each in row.cited_ids))


def ranking_seed(request_id: EventId, router: PublicKey) -> bytes:
    """SHA-256(request id ‖ router key), over the 64 raw bytes: neither side alone can choose the draw."""
    return hashlib.sha256(bytes.fromhex(request_id + router)).digest()


def registry_digest(event_ids: Iterable[EventId]) -> str:
    """SHA-256 over the ids in ascending order, 32 raw bytes each, each once, in hex."""
    return hashlib.sha256(bytes.fromhex("".join(sorted(set(event_ids))))).hexdigest()
