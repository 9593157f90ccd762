"""Selection: whom to ask, best first, so that anyone with the same events, request and seed chooses the same.

RM-04, "Selection".
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from relaymesh.errors import LocalProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import Exclusion, Ineligibility, ceiling_of, examine_facts
from relaymesh.market.facts import Facts, facts_of
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.score import Terms, score, tier
from relaymesh.market.standing import MILLI, NOBODY_KNOWN, UNKNOWN, Standings
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.units import AmountMsat, Timestamp

MAXIMUM_DRAWN: Final = 64
"""Of more near-equals only so many are drawn among: those whose ids come first, counted from the seed's."""

RING: Final = 2**64


@dataclass(frozen=True, slots=True)
class Choice:
    """An eligible candidate and its place.

    Args:
        candidate: Who.
        rank: 1 for the best of all eligible ones.
        ceiling_msat: The most that the job can cost there; never above the budget.
        terms: What its score is made of.
        tier: Its place in the buyer's own order, which comes before any score.
        draw: The seeded draw that ordered it among near-equals, 32 bytes in hex; None where none was needed.
    """

    candidate: Candidate
    rank: int
    ceiling_msat: AmountMsat
    terms: Terms
    tier: int = 0
    draw: str | None = None


class Examined(NamedTuple):
    """One price and what became of it: its place and terms, or the reason why it is out."""

    facts: Facts
    ceiling_msat: AmountMsat | None = None
    tier: int = 0
    terms: Terms | None = None
    reason: Ineligibility | None = None
    detail: str | None = None
    draw: str | None = None


@dataclass(frozen=True)
class Selection:
    """What was chosen from what, and why: every candidate is chosen, a runner-up or excluded.

    Only the chosen are worked out at once; the others when somebody asks for them.

    Args:
        request: What was wanted.
        policy: How it was ordered.
        seed: What the draw among near-equals was made from.
        now: When it was chosen.
        count: How many nodes were wanted.
        chosen: Whom to ask, best first: at most as many as were wanted, no node twice.
        eligible_count: How many were eligible, the chosen among them.
        excluded_count: How many were not.
        near_equal_count: How many nodes were near-equal to the best, it included.
        tell_eligible: Works out the eligible, by rank.
        tell_excluded: Works out the first so many of the excluded, by offer id.
        recall: Finds the candidate of a price again; None when its offer is gone since.
    """

    request: BuyerRequest
    policy: Policy
    seed: bytes
    now: Timestamp
    count: int
    chosen: tuple[Choice, ...]
    eligible_count: int
    excluded_count: int
    near_equal_count: int
    tell_eligible: Callable[[], Iterable[Examined]] = field(compare=False, repr=False)
    tell_excluded: Callable[[int], Iterable[Examined]] = field(compare=False, repr=False)
    recall: Callable[[Facts], Candidate | None] = field(compare=False, repr=False)

    @cached_property
    def examined(self) -> tuple[Examined, ...]:
        """Every price and what became of it: the chosen, the runners-up, then the excluded by offer id."""
        return (*self.tell_eligible(), *self.tell_excluded(self.excluded_count))

    @cached_property
    def runners_up(self) -> tuple[Choice, ...]:
        """Who was eligible and not chosen, best first."""
        ranked = enumerate(self.examined[: self.eligible_count], start=1)
        return tuple(
            choice
            for rank, one in ranked
            if rank > len(self.chosen) and (choice := to_choice(one, rank, self.recall(one.facts))) is not None
        )

    @property
    def excluded(self) -> tuple[Exclusion, ...]:
        """Who is out, by offer id, each with one reason."""
        return self.first_excluded(self.excluded_count)

    def first_excluded(self, count: int) -> tuple[Exclusion, ...]:
        """So many of those who are out, by offer id, each with one reason."""
        found: list[Exclusion] = []
        for one in self.tell_excluded(count) if count else ():
            candidate = self.recall(one.facts)
            if candidate is not None and one.reason is not None and one.detail is not None:
                found.append(Exclusion(candidate, one.reason, one.detail))
        return tuple(found)


def select(
    candidates: Iterable[Candidate],
    request: BuyerRequest,
    *,
    seed: bytes,
    count: int,
    now: Timestamp,
    policy: Policy = BALANCED,
    standings: Standings = NOBODY_KNOWN,
) -> Selection:
    """Choose the best `count` nodes; the order of the candidates does not matter.

    Args:
        candidates: From `Directory.candidates`.
        request: What is wanted.
        seed: The buyer's own randomness, or what a router's seed is derived from.
        count: How many nodes to choose, at least 1.
        now: For what expires.
        policy: What counts, and for how much.
        standings: What is known about the nodes.
    """
    check_count(count)
    known = _facts_by_identity(candidates, standings)
    eligible, excluded = examine_all((facts for _, facts in known.values()), request, policy, now)
    chosen, near_equal_count = draw_among(eligible, seed=seed, count=count, policy=policy)
    choices = [to_choice(one, rank, known[identity(one)][0]) for rank, one in enumerate(chosen, start=1)]
    return Selection(
        request=request,
        policy=policy,
        seed=seed,
        now=now,
        count=count,
        chosen=tuple(choice for choice in choices if choice is not None),
        eligible_count=len(eligible),
        excluded_count=len(excluded),
        near_equal_count=near_equal_count,
        tell_eligible=lambda: (*chosen, *rest_of(eligible, chosen)),
        tell_excluded=lambda most: sorted(excluded, key=identity)[:most],
        recall=lambda facts: known[facts.offer_id, facts.position][0],
    )


def _facts_by_identity(
    candidates: Iterable[Candidate], standings: Standings
) -> dict[tuple[EventId, int], tuple[Candidate, Facts]]:
    """Every price once: a row that its offer repeats is the same price."""
    known: dict[tuple[EventId, int], tuple[Candidate, Facts]] = {}
    for candidate in candidates:
        facts = facts_of(candidate, standings.get(candidate.offer.node, UNKNOWN))
        known.setdefault((facts.offer_id, facts.position), (candidate, facts))
    return known


def examine_all(
    prices: Iterable[Facts], request: BuyerRequest, policy: Policy, now: Timestamp
) -> tuple[list[Examined], list[Examined]]:
    """The eligible prices with their terms, and the excluded with their reasons."""
    eligible: list[Examined] = []
    excluded: list[Examined] = []
    for facts in prices:
        found = examine_facts(facts, request, now)
        if found is None:
            terms = score(facts, request, policy)
            eligible.append(Examined(facts, ceiling_of(facts, request), tier(facts, request), terms))
        else:
            excluded.append(Examined(facts, reason=found[0], detail=found[1]))
    return eligible, excluded


def check_count(count: int) -> None:
    """Refuse to choose nobody."""
    if count < 1:
        raise LocalProtocolError(f"at least one node must be chosen, not {count}")


def identity(one: Examined) -> tuple[EventId, int]:
    """What a price is known by: its offer's id and its place there."""
    return one.facts.offer_id, one.facts.position


def order_of(one: Examined) -> tuple[int, int, EventId, int]:
    """The order without any draw: tier, score, offer id, place in the offer."""
    return one.tier, score_of(one), *identity(one)


def score_of(one: Examined) -> int:
    """The score of an eligible price."""
    assert one.terms is not None  # it is eligible
    return one.terms.score


def near_equal_limit(best: int, policy: Policy) -> int:
    """The highest score that still counts as near-equal to the best."""
    return best + max(policy.margin_msat, best * policy.margin_milli // MILLI)


def draw_among(eligible: Iterable[Examined], *, seed: bytes, count: int, policy: Policy) -> tuple[list[Examined], int]:
    """The best `count` nodes, drawn band by band among near-equals, and how large the first band is.

    Each node takes part with its best price.
    """
    best_of_node: dict[PublicKey, Examined] = {}
    for one in sorted(eligible, key=order_of):
        best_of_node.setdefault(one.facts.node, one)
    left = list(best_of_node.values())  # in order
    chosen: list[Examined] = []
    near_equal_count = 0
    while left and len(chosen) < count:
        limit = near_equal_limit(score_of(left[0]), policy)
        band = [one for one in left if one.tier == left[0].tier and score_of(one) <= limit]
        near_equal_count = near_equal_count or len(band)
        band = draw(nearest_on_ring(band, seed), seed)
        chosen += band[: count - len(chosen)]
        drawn = {identity(one) for one in band}
        left = [one for one in left if identity(one) not in drawn]
    return chosen, near_equal_count


def nearest_on_ring(band: list[Examined], seed: bytes) -> list[Examined]:
    """At most `MAXIMUM_DRAWN` of a band: those whose ids come first when counting up from the seed's hash."""
    if len(band) <= MAXIMUM_DRAWN:
        return band
    start = ring_start(seed)
    return sorted(band, key=lambda one: ((int(one.facts.offer_id[:16], 16) - start) % RING, *identity(one)))[
        :MAXIMUM_DRAWN
    ]


def ring_start(seed: bytes) -> int:
    """Where on the ring of offer ids this seed begins to count: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(seed).digest()[:8])


def draw_number(seed: bytes, offer_id: EventId) -> str:
    """SHA-256(seed ‖ offer id), in hex."""
    return hashlib.sha256(seed + bytes.fromhex(offer_id)).hexdigest()


def draw(band: Iterable[Examined], seed: bytes) -> list[Examined]:
    """A band in the order of SHA-256(seed ‖ offer id), each with its draw."""
    drawn = [one._replace(draw=hashlib.sha256(seed + bytes.fromhex(one.facts.offer_id)).hexdigest()) for one in band]
    return sorted(drawn, key=lambda one: (one.draw or "", *identity(one)))


def rest_of(eligible: Iterable[Examined], chosen: Sequence[Examined]) -> list[Examined]:
    """The runners-up: the eligible that were not chosen, in the order without any draw."""
    taken = {identity(one) for one in chosen}
    return sorted((one for one in eligible if identity(one) not in taken), key=order_of)


def to_choice(one: Examined, rank: int, candidate: Candidate | None) -> Choice | None:
    """An eligible price as a choice; None when its candidate is gone."""
    if candidate is None or one.terms is None or one.ceiling_msat is None:
        return None
    return Choice(candidate, rank, one.ceiling_msat, one.terms, one.tier, one.draw)
