"""Bids: whether a quote may be relied on, and which of several is the best (RM-01, "Quote", "Open requests").

A quote may be lower than the offer it cites and never higher, so whoever saw the offer knows the most that a bid can
be. Of several the scheduler chooses, by the prices that were quoted instead of those that were posted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from relaymesh.market.candidate import Candidate
from relaymesh.market.pricing import is_no_dearer, price_ceiling
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Choice, Selection, select
from relaymesh.market.settlement_choice import ChosenTerm, NoTerm, choose_term
from relaymesh.market.standing import UNKNOWN, Standing, Standings
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.protocol.offer import Offer, PriceRow
from relaymesh.protocol.quote import MAXIMUM_QUOTE_EVENT_BYTES, Quote
from relaymesh.units import AmountMsat, Moment, Timestamp

Way = Literal["directed", "open", "posted", "routed"]
"""How a session is asked for: quotes of the best nodes, an auction, the posted price of the best one, or routers."""


@dataclass(frozen=True, slots=True)
class Bid:
    """A quote that may be relied on.

    Args:
        choice: Whose it is, as it was chosen before it was asked.
        event: The signed 28771.
        quote: What it says.
        chosen: Which of its settlement terms is taken, and why.
    """

    choice: Choice
    event: VerifiedEvent
    quote: Quote
    chosen: ChosenTerm

    @property
    def term(self) -> int:
        """Which of the quote's terms is taken, by index."""
        return self.chosen.index


def choose_way(selection: Selection, standings: Standings) -> Way:
    """How to ask where nobody says how: at the posted price if the best node is known and clearly the best.

    What a posted price gives up is to hear first whether the node has room, and what others would say. That is worth
    little with a node that has served well, where none of another comes near.
    """
    if not selection.chosen:
        return "directed"
    standing = standings.get(selection.chosen[0].candidate.offer.node, UNKNOWN)
    return "posted" if standing.is_known and selection.near_equal_count == 1 else "directed"


@dataclass(frozen=True, slots=True)
class Question:
    """What a quote has to answer.

    Args:
        request: What was wanted.
        request_id: What was asked: a 28770, or at a posted price a 28772.
        way: How it was asked.
    """

    request: BuyerRequest
    request_id: EventId
    way: Way


def find_complaint(quote: Quote, event: VerifiedEvent, question: Question, choice: Choice, now: Moment) -> str | None:
    """Why a quote cannot be relied on; None if it can.

    Args:
        event: The signed 28771.
        choice: The candidate whose offer is relied on.
    """
    request = question.request
    offer = choice.candidate.offer
    if event.size > MAXIMUM_QUOTE_EVENT_BYTES:
        return f"the quote's event is larger than {MAXIMUM_QUOTE_EVENT_BYTES} bytes"
    if quote.request_id != question.request_id or event.tag_value("e") != question.request_id:
        return "the quote answers another request"
    if quote.offer_id != offer.event.id or quote.offer_seq != offer.offer.seq:
        return "the quote cites another offer than the one relied on"
    if find_offered_row(quote.row, offer.offer) is None:
        return "the quote states a price that the offer does not have"
    if quote.row.model != choice.candidate.row.model or request.job_type not in quote.row.job_types:
        return "the quote is for another model or job type than the one asked about"
    if question.way == "posted":
        if quote.max_msat is not None:
            return "the quote of a posted price has a limit of its own"
    elif quote.max_msat is None or quote.max_msat > request.budget_msat:
        return f"the quote's limit exceeds the budget of {request.budget_msat} msat"
    if quote.valid_until_ms <= now.unix_ms:
        return "the quote has expired"
    return None


def make_bid(
    quote: Quote, event: VerifiedEvent, question: Question, choice: Choice, standing: Standing, now: Moment
) -> Bid | str:
    """The bid that a quote is, with the term to take; or why it cannot be relied on, or none of its terms taken.

    At a posted price there is no choice left: the first term is the one that was asked for.
    """
    complaint = find_complaint(quote, event, question, choice, now)
    if complaint is not None:
        return complaint
    request, terms = question.request, quote.settlement[: 1 if question.way == "posted" else None]
    ceiling_msat = quote.max_msat
    if ceiling_msat is None:
        ceiling_msat = price_ceiling(quote.row, request.shape, request.budget_msat) or request.budget_msat
    chosen = choose_term(request, terms, standing, AmountMsat(ceiling_msat))
    return chosen.reason if isinstance(chosen, NoTerm) else Bid(choice, event, quote, chosen)


def find_offered_row(quoted: PriceRow, offer: Offer) -> PriceRow | None:
    """The row of an offer that a quoted one is no dearer than, and else the same; None if there is none."""
    return next((row for row in offer.rows if quoted == row or _is_lower(quoted, row)), None)


class Bidders:
    """Whose bids can be taken at their word: all eligible nodes, whose offers are known. Made once for an auction."""

    def __init__(self, selection: Selection) -> None:
        self._choices: dict[PublicKey, list[Choice]] = {}
        self._heard: set[PublicKey] = set()
        for choice in eligible_choices(selection):
            self._choices.setdefault(choice.candidate.offer.node, []).append(choice)

    def __len__(self) -> int:
        return len(self._choices)

    def hear(self, node: PublicKey) -> bool:
        """Whether this node's answer is worth opening: that of an eligible one, and the first."""
        if node not in self._choices or node in self._heard:
            return False
        self._heard.add(node)
        return True

    def find(self, node: PublicKey, quote: Quote) -> Choice | None:
        """The candidate that a bid is for: the row of its node's offer that it is no dearer than."""
        for choice in self._choices.get(node, ()):
            offer = choice.candidate.offer
            is_cited = offer.event.id == quote.offer_id
            if is_cited and find_offered_row(quote.row, offer.offer) == choice.candidate.row:
                return choice
        return None


def rank_bids(bids: Iterable[Bid], selection: Selection, standings: Standings, now: Timestamp) -> tuple[Bid, ...]:
    """Bids, the best first, as the scheduler orders them by the prices quoted; one for each node.

    What the scheduler would exclude by now comes last: its node has answered, whatever its status says.
    """
    by_node = {bid.choice.candidate.offer.node: bid for bid in bids}
    if len(by_node) < 2:
        return tuple(by_node.values())
    candidates = [_as_quoted(bid) for bid in by_node.values()]
    chosen = select(
        candidates,
        selection.request,
        seed=selection.seed,
        count=len(candidates),
        now=now,
        policy=selection.policy,
        standings=standings,
    ).chosen
    first = [by_node.pop(choice.candidate.offer.node) for choice in chosen]
    return (*first, *sorted(by_node.values(), key=lambda bid: bid.choice.rank))


def eligible_choices(selection: Selection) -> Iterator[Choice]:
    """All that were eligible, the best first: whoever of them bids can be taken at his word."""
    yield from selection.chosen
    yield from selection.runners_up


def _as_quoted(bid: Bid) -> Candidate:
    """The candidate as if it had posted what it quoted."""
    candidate, quoted = bid.choice.candidate, bid.quote.row
    rows = tuple(quoted if row == candidate.row else row for row in candidate.offer.offer.rows)
    offer = replace(candidate.offer, offer=candidate.offer.offer.model_copy(update={"rows": rows}))
    return replace(candidate, offer=offer, row=quoted)


def _is_lower(quoted: PriceRow, offered: PriceRow) -> bool:
    prices = {"per": offered.per, "input_msat": offered.input_msat, "output_msat": offered.output_msat}
    alike = quoted.model_copy(update={**prices, "minimum_msat": offered.minimum_msat}) == offered
    return alike and is_no_dearer(quoted, offered)
