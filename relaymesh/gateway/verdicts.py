"""Why nobody in the market can serve a request, as a status and a sentence that say what would help."""

from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from relaymesh.gateway.failures import BAD_REQUEST, NOT_FOUND, PAYMENT_REQUIRED, RETRY_SECONDS, UNAVAILABLE, Failure
from relaymesh.market.eligibility import Exclusion, Ineligibility
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection
from relaymesh.roles.market_view import MarketView
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat

MAXIMUM_EXAMINED: Final = 1_000
NEAR_MATCHES: Final = 3
_NO_NODE: Final = (NOT_FOUND, "no_allowed_node")
_LATER: Final = (UNAVAILABLE, "no_node_now")
_MEANINGS: Final = MappingProxyType(
    {
        Ineligibility.CAPABILITY: (BAD_REQUEST, "unsupported_parameter"),
        Ineligibility.SETTLEMENT: (BAD_REQUEST, "unsupported_settlement"),
        Ineligibility.CONTEXT_LIMIT: (BAD_REQUEST, "context_length_exceeded"),
        Ineligibility.OUTPUT_LIMIT: (BAD_REQUEST, "output_length_exceeded"),
        Ineligibility.OVER_BUDGET: (PAYMENT_REQUIRED, "budget_too_small"),
        Ineligibility.PRICE_CEILING: (PAYMENT_REQUIRED, "over_price_ceiling"),
        Ineligibility.PROBATION: (PAYMENT_REQUIRED, "over_newcomer_limit"),
        Ineligibility.PROOF_OF_WORK: _LATER,
        Ineligibility.EXPIRED: _LATER,
        Ineligibility.UNSEEN: _LATER,
        Ineligibility.STALE: _LATER,
        Ineligibility.DRAINING: _LATER,
        Ineligibility.BUSY: _LATER,
    }
)
"""What a reason means to a program; every other is a wish of the buyer's that no node meets."""

PARAMETERS: Final = MappingProxyType({"tools": "tools", "json": "response_format", "images": "messages"})
"""The request's field that needs a capability."""
_ORDER: Final = {reason: place for place, reason in enumerate(Ineligibility)}


def judge(selection: Selection, market: MarketView) -> Failure:
    """Why nobody was chosen: what is said is what keeps out whoever comes nearest to serving it."""
    request = selection.request
    offered = market.directory.candidates(request.model, request.job_type, selection.now)
    if not market.is_in_view:
        return Failure(UNAVAILABLE, "no_relay", market.unreachable, retry_seconds=RETRY_SECONDS)
    if not offered:
        return _unknown_model(request, market)
    out = [
        exclusion
        for exclusion in selection.first_excluded(MAXIMUM_EXAMINED)
        if exclusion.reason not in (Ineligibility.MODEL, Ineligibility.JOB_TYPE)
    ]
    if not out:  # all of them are gone since
        return Failure(*_LATER, "no node serves this now", retry_seconds=RETRY_SECONDS)
    nearest = max(out, key=lambda exclusion: _ORDER[exclusion.reason])
    status, code = _MEANINGS.get(nearest.reason, _NO_NODE)
    message = f"no offer for the model fits, the nearest of {len(out)} is {nearest.reason.value} ({nearest.detail})"
    if nearest.reason is Ineligibility.CAPABILITY:
        return _lacking(request, out)
    if nearest.reason is Ineligibility.OVER_BUDGET:
        return Failure(status, code, _price_it(selection, market), "relaymesh.max_msat")
    seconds = RETRY_SECONDS if status == UNAVAILABLE else None
    return Failure(status, code, message, _parameter(nearest.reason), retry_seconds=seconds)


def _parameter(reason: Ineligibility) -> str | None:
    names = {
        Ineligibility.CONTEXT_LIMIT: "messages",
        Ineligibility.OUTPUT_LIMIT: "max_tokens",
        Ineligibility.SETTLEMENT: "relaymesh.settlement",
        Ineligibility.PRICE_CEILING: "provider.max_price",
        Ineligibility.PROBATION: "relaymesh.max_msat",
    }
    return names.get(reason)


def _unknown_model(request: BuyerRequest, market: MarketView) -> Failure:
    offers = market.directory.offers(market.clock().timestamp)
    rows = [row for offer in offers for row in offer.offer.rows]
    able = {row.model for row in rows if request.job_type in row.job_types}
    if request.model is None:
        message = f"nobody offers {request.job_type} jobs now"
        return Failure(UNAVAILABLE, "no_node_now", message, retry_seconds=RETRY_SECONDS)
    others = sorted({kind for row in rows if row.model == request.model for kind in row.job_types})
    if others:
        message = f"the model {request.model} is offered for {', '.join(others)} only, not for {request.job_type}"
        return Failure(BAD_REQUEST, "unsupported_job_type", message, "model")
    near = near_matches(request.model, able)
    hint = f"; near it are {', '.join(near)}" if near else "; the list of models has what is"
    return Failure(NOT_FOUND, "model_not_found", f"the model {request.model} is not offered{hint}", "model")


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """The names that are most like this one, best first; capitals make no difference."""
    folded = {each.casefold(): each for each in sorted(known, reverse=True)}
    wanted = name.casefold()
    within = [each for each in sorted(folded) if wanted in each or each in wanted]
    close = get_close_matches(wanted, folded, n=NEAR_MATCHES, cutoff=0.5)
    return [folded[each] for each in dict.fromkeys((*close, *within))][:NEAR_MATCHES]


def _lacking(request: BuyerRequest, out: Iterable[Exclusion]) -> Failure:
    """Name what no offer takes; where each is taken by somebody, what no one takes together."""
    rows = [exclusion.candidate.row for exclusion in out]
    nowhere = [each for each in request.capabilities if not any(each in row.capabilities for row in rows)]
    missing = nowhere or list(request.capabilities)
    names = ", ".join(PARAMETERS.get(each, each) for each in missing)
    together = "" if nowhere else " together"
    message = f"no node that offers the model takes {names}{together}; leave it out, or name another model"
    return Failure(BAD_REQUEST, "unsupported_parameter", message, PARAMETERS.get(missing[0], missing[0]))


def _price_it(selection: Selection, market: MarketView) -> str:
    budget = selection.request.budget_msat
    unlimited = replace(selection.request, budget_msat=AmountMsat(MAXIMUM_INTEGER))
    chosen = market.select(unlimited, selection.seed, policy=selection.policy, count=MAXIMUM_EXAMINED).chosen
    if not chosen:
        return f"it costs more than the {budget} msat that it may"
    cheapest = min(choice.ceiling_msat for choice in chosen)
    return f"it may cost {cheapest} msat where it is cheapest, and may cost {budget} msat by its budget"
