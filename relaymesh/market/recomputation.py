"""What a client makes of a router's ranking: it computes it again, and compares it with what it sees itself (RM-04).

Two questions, and they are kept apart. *Is it honest?* From the events it cites, the request, and the standings it
states, the same rows must come out in the same order with the same scores; if not, the router is wrong and is ignored.
*Is it what we would have chosen?* Routers hear other relays and have other opinions, so differences are told and are
no lie.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import Exclusion
from relaymesh.market.policy import POLICIES
from relaymesh.market.ranking import FORMULA, place_of, read_standing, score_of, terms_of
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Choice, Selection, select
from relaymesh.market.standing import UNKNOWN, Standing, Standings
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.ranking import MAXIMUM_RANKED, RankedRow, Ranking, ranking_seed
from relaymesh.units import Timestamp

RANKED_AT_SECONDS: Final = 5
"""So far the time at which a router looked may lie from the `created_at` of its ranking."""
MILLI: Final = 1_000


@dataclass(frozen=True, slots=True)
class Cited:
    """The events that a ranking cites, as far as they were found: offers and statuses, by id."""

    offers: Mapping[EventId, SignedOffer]
    statuses: Mapping[EventId, SignedStatus]


@dataclass(frozen=True, slots=True)
class SignedRanking:
    """A ranking and the verified event it came in.

    Args:
        event: By the router, as an answer to the request.
        ranking: What it says.
        request: What it was asked, as the market understands it.
    """

    event: VerifiedEvent
    ranking: Ranking
    request: BuyerRequest

    @property
    def router(self) -> PublicKey:
        """Who ranked."""
        return self.event.public_key


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What came of computing a ranking again.

    Args:
        faults: What did not come out as stated, a sentence each; a router with one is ignored.
        missing: Events that it cites and that nobody could show; without them nothing can be said.
    """

    faults: tuple[str, ...]
    missing: tuple[EventId, ...]

    @property
    def is_right(self) -> bool:
        """Whether everything came out as stated."""
        return not self.faults and not self.missing


def recompute(signed: SignedRanking, cited: Cited) -> Recomputation:
    """Compute a ranking again from the events that it cites and the standings that it states (RM-04, "Ranking")."""
    ranking = signed.ranking
    missing = tuple(
        event_id
        for row in ranking.rows
        for event_id, known in ((row.offer_id, cited.offers), (row.status_id, cited.statuses))
        if event_id is not None and event_id not in known
    )
    faults = _check_frame(signed)
    if missing or faults:
        return Recomputation(faults, missing)
    candidates, faults = _cited_candidates(ranking, cited)
    if faults:
        return Recomputation(faults, ())
    policy = POLICIES[ranking.policy]
    standings = {row.node: read_standing(row.standing) for row in ranking.rows}
    selection = select(
        candidates,
        signed.request,
        seed=bytes.fromhex(ranking.seed),
        count=MAXIMUM_RANKED,
        now=Timestamp(ranking.ranked_at),
        policy=policy,
        standings=standings,
    )
    return Recomputation(_compare_rows(ranking, candidates, selection), ())


def _check_frame(signed: SignedRanking) -> tuple[str, ...]:
    """What can be said before anything that is cited is looked at."""
    ranking, faults = signed.ranking, []
    if ranking.seed != ranking_seed(ranking.request_id, signed.router).hex():
        faults.append("its seed is not that of this request and this router")
    if abs(ranking.ranked_at - signed.event.created_at) > RANKED_AT_SECONDS:
        faults.append("the time at which it looked is not the time at which it was signed")
    if ranking.formula != FORMULA or ranking.policy not in POLICIES:
        faults.append(
            f"its formula or policy is not one that can be computed here: {ranking.formula}, {ranking.policy}"
        )
    if len({(row.offer_id, row.row) for row in ranking.rows}) < len(ranking.rows):
        faults.append("it lists a price twice")
    if len({row.node: row.standing for row in ranking.rows}) < len({(row.node, row.standing) for row in ranking.rows}):
        faults.append("it states two standings of one node")
    eligible = sum(row.excluded is None for row in ranking.rows)
    if not eligible <= ranking.eligible <= ranking.considered or len(ranking.rows) > ranking.considered:
        faults.append("its counts do not fit its rows")
    return tuple(faults)


def _cited_candidates(ranking: Ranking, cited: Cited) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The rows as candidates, in their order; or what is wrong with the events they cite."""
    candidates, faults = [], []
    for place, row in enumerate(ranking.rows, start=1):
        offer = cited.offers[row.offer_id]
        status = None if row.status_id is None else cited.statuses[row.status_id]
        if offer.address != row.offer_address or row.row >= len(offer.offer.rows):
            faults.append(f"row {place} names another offer, or another price, than the one it cites")
        elif status is not None and status.node != offer.node:
            faults.append(f"row {place} cites the status of another node")
        else:
            candidates.append(Candidate(offer, offer.offer.rows[row.row], status))
    return tuple(candidates), tuple(faults)


def _compare_rows(ranking: Ranking, candidates: tuple[Candidate, ...], selection: Selection) -> tuple[str, ...]:
    told: tuple[Choice | Exclusion, ...] = (*selection.chosen, *selection.runners_up, *selection.excluded)
    found = {(each.candidate.offer.event.id, place_of(each.candidate)): each for each in told}
    faults = []
    for place, (row, candidate) in enumerate(zip(ranking.rows, candidates, strict=True), start=1):
        fault = _compare_row(row, found[candidate.offer.event.id, place_of(candidate)])
        if fault is not None:
            faults.append(f"row {place}: {fault}")
    stated = [(row.offer_id, row.row) for row in ranking.rows if row.excluded is None]
    computed = [(choice.candidate.offer.event.id, place_of(choice.candidate)) for choice in selection.chosen]
    if stated != computed and not faults:
        faults.append("its rows are not in the order that their scores and its seed give")
    return tuple(faults)


def _compare_row(row: RankedRow, computed: Choice | Exclusion) -> str | None:
    if isinstance(computed, Exclusion):
        if row.excluded == computed.reason.value:
            return None
        return f"says {row.excluded or 'eligible'}, but is out: {computed.reason.value} ({computed.detail})"
    if row.excluded is not None:
        return f"says {row.excluded}, but is eligible"
    if row.score_msat != score_of(computed) or row.terms != terms_of(computed):
        return f"says a score of {row.score_msat} msat, but has {score_of(computed)} msat"
    if row.estimated_msat != computed.ceiling_msat:
        return f"says {row.estimated_msat} msat for the job, but it may cost {computed.ceiling_msat} msat"
    return None


# ── beside one's own view ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """One price that a router and its client place differently.

    Args:
        node: Whose price it is.
        offer_id: The offer that the router, or else the client, looked at.
        theirs: Its place in the ranking, 1 for the best; None if it is not among the eligible there.
        ours: Its place in the client's own choice; None likewise.
        reason: Why, in a few words.
    """

    node: PublicKey
    offer_id: EventId
    theirs: int | None
    ours: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ranking beside the client's own choice.

    Args:
        agreement_milli: How much of the two lists is the same, in thousandths: nodes named by both, over nodes named
            by either.
        is_same_registry: Whether both looked at exactly the same offers and statuses.
        differences: What they place differently, the router's best first.
    """

    agreement_milli: int
    is_same_registry: bool
    differences: tuple[Difference, ...]


def compare(signed: SignedRanking, own: Selection, own_digest: str, own_standings: Standings) -> Comparison:
    """Put a ranking beside the client's own choice for the same request, policy and seed.

    Args:
        own: The client's own choice of as many nodes (`relaymesh.market.selection.select`).
        own_digest: The digest over what the client looked at.
        own_standings: What the client knows about the nodes.
    """
    theirs = {row.node: (place, row) for place, row in enumerate(_eligible(signed.ranking), start=1)}
    ours = {choice.candidate.offer.node: (place, choice) for place, choice in enumerate(own.chosen, start=1)}
    listed = list(dict.fromkeys((*theirs, *ours)))
    differences = []
    for node in listed:
        their_place, row = theirs.get(node, (None, None))
        our_place, choice = ours.get(node, (None, None))
        if their_place != our_place:
            offer_id = row.offer_id if row is not None else choice.candidate.offer.event.id if choice else EventId("")
            reason = _explain(node, row, choice, own, own_standings.get(node, UNKNOWN))
            differences.append(Difference(node, offer_id, their_place, our_place, reason))
    both = len(theirs.keys() & ours.keys())
    agreement = both * MILLI // len(listed) if listed else MILLI
    return Comparison(agreement, signed.ranking.registry_digest == own_digest, tuple(differences))


def _eligible(ranking: Ranking) -> tuple[RankedRow, ...]:
    return tuple(row for row in ranking.rows if row.excluded is None)


def _explain(node: PublicKey, row: RankedRow | None, choice: Choice | None, own: Selection, standing: Standing) -> str:
    """The first thing that the two looked at differently."""
    if row is None:
        return "the router does not list it"
    if choice is None:
        excluded = next((each for each in own.excluded if each.candidate.offer.node == node), None)
        if excluded is not None:
            return f"out in our view: {excluded.reason.value} ({excluded.detail})"
        runner_up = next((each for each in own.runners_up if each.candidate.offer.node == node), None)
        if runner_up is None:
            return "we know no such offer"
        choice = runner_up
    if choice.candidate.offer.event.id != row.offer_id:
        return "the router looked at another version of the offer"
    status = choice.candidate.status
    if row.status_id != (None if status is None else status.event.id):
        return "the router looked at another status"
    stated = read_standing(row.standing)
    if stated.trust_milli != standing.trust_milli:
        return f"the router trusts it by {stated.trust_milli} of 1,000, we by {standing.trust_milli}"
    if stated.stake_units != standing.stake_units:
        return f"the router counts {stated.stake_units} units of stake, we {standing.stake_units}"
    if (stated.successes_milli, stated.failures_milli) != (standing.successes_milli, standing.failures_milli):
        return "the router counts other outcomes than we do"
    return "the places of others moved it"
