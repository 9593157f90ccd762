"""Settlement choice: which of a quote's terms a buyer takes, and why, in one sentence (RM-03, "Which term to take").

A pure function of the request, of what is known about the node and of the terms quoted. Whoever requires one form of
settlement gets that or nothing; `auto` prefers what leaves the least to trust where nobody is known, and what costs the
least time where somebody is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.market.pricing import price_ceiling, quote_terms
from relaymesh.market.request import BuyerRequest, SettlementPolicy
from relaymesh.market.standing import Standing
from relaymesh.protocol.fields import Order, Scope, SettlementForm
from relaymesh.protocol.offer import Offer, PriceRow
from relaymesh.protocol.quote import QuotedTerm
from relaymesh.units import AmountMsat

SMALL_JOBS_PER_TRANCHE: Final = 4
"""A job is small beside a session's tranche if so many of its like fit in."""
_ORDERS: Final[dict[SettlementForm, tuple[Order, Scope]]] = {
    "prepay": ("prepay", "job"),
    "sealed": ("sealed", "job"),
    "postpay": ("postpay", "job"),
    "session": ("prepay", "session"),
}


def accepted_terms(
    settlement: SettlementPolicy,
    *,
    is_streamed: bool = False,
    has_credit: bool = False,
    keeps_session: bool = False,
) -> tuple[tuple[Order, ...], tuple[Scope, ...]]:
    """The orders and the scopes that a buyer tells nodes that he accepts, best first.

    Args:
        settlement: What he says about settlement.
        is_streamed: Whether somebody reads the output as it comes.
        has_credit: Whether he has a key that nodes may lend to.
        keeps_session: Whether more jobs will follow in the same session.
    """
    if settlement != "auto":
        order, scope = _ORDERS[settlement]
        return (order,), (scope,)
    lent: tuple[Order, ...] = ("postpay",) if has_credit else ()
    paid: tuple[Order, ...] = ("prepay", "sealed") if is_streamed else ("sealed", "prepay")
    return (*lent, *paid), ("session", "job") if keeps_session else ("job",)


@dataclass(frozen=True, slots=True)
class ChosenTerm:
    """A term that is taken.

    Args:
        index: Its place among those quoted.
        term: What it is.
        reason: Why this one, in a few words.
    """

    index: int
    term: QuotedTerm
    reason: str

    @property
    def sentence(self) -> str:
        """What was chosen, why, and what both sides have at stake."""
        ours, theirs = self.term.exposure_buyer_msat, self.term.exposure_node_msat
        return f"{self.term.form}: {self.reason}; at stake at most {ours} msat of ours and {theirs} msat of the node's."

    def to_json(self) -> dict[str, Any]:
        """The choice as a JSON object."""
        return {"form": self.term.form, **self.term.model_dump(mode="json"), "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class NoTerm:
    """No term can be taken.

    Args:
        reason: Why not, in one sentence without its full stop.
    """

    reason: str

    @property
    def sentence(self) -> str:
        """Why none is taken."""
        return f"{self.reason[0].upper()}{self.reason[1:]}."

    def to_json(self) -> dict[str, Any]:
        """That there is none, as a JSON object."""
        return {"form": None, "sentence": self.sentence}


def choose_term(
    request: BuyerRequest, terms: Sequence[QuotedTerm], standing: Standing, ceiling_msat: AmountMsat
) -> ChosenTerm | NoTerm:
    """Take one of the terms that a node quotes.

    Of several terms of one form, a node that is known gets the first, which it prefers; with one that is not the buyer
    takes the one that puts the least of his at stake.

    Args:
        request: What is wanted, and which forms of settlement will do.
        terms: What the node quotes.
        standing: What is known about the node.
        ceiling_msat: The most that the job can cost there.
    """
    accepted = [(index, term) for index, term in enumerate(terms) if term.form in request.forms]
    if not accepted:
        quoted = ", ".join(dict.fromkeys(str(term.form) for term in terms)) or "nothing"
        return NoTerm(f"the node settles this job by {quoted} only, which is not {' or '.join(request.forms)}")
    limit = request.maximum_exposure_msat
    within = [(index, term) for index, term in accepted if not limit or term.exposure_buyer_msat <= limit]
    if not within:
        least = min(term.exposure_buyer_msat for _, term in accepted)
        return NoTerm(f"every term puts {least} msat or more of ours at stake, over the limit of {limit} msat")
    for wish in _wishes(request, standing):
        found = [(index, term) for index, term in within if wish.takes(term, ceiling_msat)]
        if found and not _is_trusted(standing):
            found.sort(key=lambda each: each[1].exposure_buyer_msat)  # stable: the node's order among equals
        if found:
            return ChosenTerm(*found[0], wish.reason)
    return NoTerm(f"the job may cost {ceiling_msat} msat, too much for one of the session's tranches")


def foresee_term(request: BuyerRequest, offer: Offer, row: PriceRow, standing: Standing) -> ChosenTerm | NoTerm:
    """What would be taken if a node quoted the terms that it posts; for explanations, and for posted prices."""
    ceiling_msat = price_ceiling(row, request.shape, request.budget_msat)
    if ceiling_msat is None:
        return NoTerm(f"the job may cost more than {request.budget_msat} msat")
    terms = quote_terms(row, request.shape, offer.settlement, request.forms, ceiling_msat)
    return choose_term(request, terms, standing, ceiling_msat)


@dataclass(frozen=True, slots=True)
class _Wish:
    form: SettlementForm
    reason: str
    also: Callable[[QuotedTerm, AmountMsat], bool] = lambda term, ceiling_msat: True

    def takes(self, term: QuotedTerm, ceiling_msat: AmountMsat) -> bool:
        return term.form == self.form and self.also(term, ceiling_msat)


def _wishes(request: BuyerRequest, standing: Standing) -> Iterator[_Wish]:
    """What the buyer would have, best first."""
    if request.settlement != "auto":
        yield _Wish(request.settlement, "the buyer requires it")
        return
    yield _Wish("postpay", "the node lends on our credit key, so it works first")
    if _is_trusted(standing):
        yield from _KNOWN
    elif request.is_streamed:
        yield from _STREAMED
    else:
        yield from _UNKNOWN
    yield _Wish("session", "nothing else is to be had here", _fits_tranche)


def _is_trusted(standing: Standing) -> bool:
    """Whether the node is known by what it did for us and for those we trust: strangers' word ends no probation."""
    return standing.is_known and not standing.is_on_probation


def _is_in_tranches(term: QuotedTerm, ceiling_msat: AmountMsat) -> bool:
    return term.tranche_units is not None


def _is_small(term: QuotedTerm, ceiling_msat: AmountMsat) -> bool:
    return ceiling_msat * SMALL_JOBS_PER_TRANCHE <= (term.tranche_units or 0)


def _fits_tranche(term: QuotedTerm, ceiling_msat: AmountMsat) -> bool:
    return ceiling_msat <= (term.tranche_units or 0)


_KNOWN: Final = (
    _Wish("session", "the node has served well, and the job is small beside a tranche of the session", _is_small),
    _Wish("prepay", "the node has served well, and paying ahead takes the least time"),
    _Wish("sealed", "paying ahead is not to be had here"),
)
_STREAMED: Final = (
    _Wish(
        "prepay", "somebody reads along, so the first token counts, and tranches keep the stake low", _is_in_tranches
    ),
    _Wish("sealed", "the node is not known, and prepaid tranches are not to be had here"),
    _Wish("prepay", "neither tranches nor sealed delivery are to be had here"),
)
_UNKNOWN: Final = (
    _Wish("sealed", "the node is not known, and sealed output is there before it is paid for"),
    _Wish("prepay", "sealed delivery is not to be had here, and tranches keep the stake low", _is_in_tranches),
    _Wish("prepay", "neither sealed delivery nor tranches are to be had here"),
)
