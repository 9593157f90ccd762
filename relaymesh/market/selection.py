"""Selection: whom to ask, best first, so that anyone with the same events, request and seed chooses the same."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from relaymesh.errors import LocalProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import BuyerRequest, Exclusion, examine
from relaymesh.market.policy import CHEAPEST, Policy
from relaymesh.market.pricing import price_ceiling
from relaymesh.market.standing import NOBODY_KNOWN, Standings
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.units import AmountMsat, Timestamp

_Ordered = tuple[AmountMsat, str, EventId, int, Candidate]


@dataclass(frozen=True, slots=True)
class Choice:
    """An eligible candidate and its place.

    Args:
        candidate: Who.
        rank: 1 for the best of all eligible ones.
        cost_msat: The most that the job can cost there; never above the budget.
        draw: The seeded draw that ordered it among equals, 32 bytes in hex.
    """

    candidate: Candidate
    rank: int
    cost_msat: AmountMsat
    draw: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen from what, and why: every candidate is in exactly one of the three tuples.

    Args:
        request: What was wanted.
        policy: How it was ordered.
        seed: What the draw among equals was made from.
        chosen: Whom to ask, best first: at most as many as were wanted, no node twice.
        excluded: Who is out, by offer id, each with one reason.
        runners_up: Who was eligible and not chosen, best first.
    """

    request: BuyerRequest
    policy: Policy
    seed: bytes
    chosen: tuple[Choice, ...]
    excluded: tuple[Exclusion, ...]
    runners_up: tuple[Choice, ...] = ()


def select(
    candidates: Iterable[Candidate],
    request: BuyerRequest,
    *,
    seed: bytes,
    count: int,
    now: Timestamp,
    policy: Policy = CHEAPEST,
    standings: Standings = NOBODY_KNOWN,
) -> Selection:
    """Choose the best `count` nodes; the order of the candidates does not matter.

    `cheapest`: the lowest cost first; equals are spread by SHA-256(seed ‖ offer id), so that a thousand buyers with
    seeds of their own do not all go to one node; then the lowest offer id, then the first row of an offer.

    Args:
        candidates: From `Directory.candidates`.
        request: What is wanted.
        seed: The buyer's own randomness, or what a router's seed is derived from.
        count: How many nodes to choose, at least 1.
        now: For what expires.
        policy: What counts, and for how much.
        standings: What is known about the nodes.

    Raises:
        LocalProtocolError: `count` is below 1.
    """
    if count < 1:
        raise LocalProtocolError(f"at least one node must be chosen, not {count}")
    eligible: list[_Ordered] = []
    excluded: list[Exclusion] = []
    for candidate in candidates:
        exclusion = examine(candidate, request, now)
        if exclusion is None:
            eligible.append(_order(candidate, request, seed))
        else:
            excluded.append(exclusion)
    excluded.sort(key=lambda exclusion: (exclusion.candidate.offer.event.id, _position(exclusion.candidate)))
    chosen, runners_up = _choose(eligible, count)
    return Selection(request, policy, seed, chosen, tuple(excluded), runners_up)


def _order(candidate: Candidate, request: BuyerRequest, seed: bytes) -> _Ordered:
    cost_msat = price_ceiling(candidate.row, request.shape, request.budget_msat)
    assert cost_msat is not None  # over budget is a reason for exclusion
    offer_id = candidate.offer.event.id
    draw = hashlib.sha256(seed + bytes.fromhex(offer_id)).hexdigest()
    return cost_msat, draw, offer_id, _position(candidate), candidate


def _choose(eligible: list[_Ordered], count: int) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    # A node that turned one of its offers down is not asked for another: failing over means going to somebody else.
    chosen: dict[PublicKey, Choice] = {}
    runners_up: list[Choice] = []
    for rank, entry in enumerate(sorted(eligible, key=lambda entry: entry[:4]), start=1):
        cost_msat, draw, _, _, candidate = entry
        choice = Choice(candidate, rank, cost_msat, draw)
        if len(chosen) < count and candidate.offer.node not in chosen:
            chosen[candidate.offer.node] = choice
        else:
            runners_up.append(choice)
    return tuple(chosen.values()), tuple(runners_up)


def _position(candidate: Candidate) -> int:
    return candidate.offer.offer.rows.index(candidate.row)
