"""Eligibility: whom a buyer's request leaves in the market, and one reason for everyone it does not.

Every constraint that a request can state is enforced here and nowhere else. A candidate is examined in the order in
which `Ineligibility` lists the reasons and excluded for the first that holds: first what the buyer wants, then what the
offer cannot do, then the price, and last what waiting would change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from relaymesh.market.candidate import Candidate
from relaymesh.market.pricing import price_ceiling
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.fields import JobType, Order
from relaymesh.protocol.quote import JobShape
from relaymesh.units import AmountMsat, Timestamp


@dataclass(frozen=True, slots=True)
class BuyerRequest:
    """What a buyer wants, and what he will not have.

    Args:
        model: The model's name; None for any.
        job_type: What kind of job.
        shape: How big it is at the most.
        budget_msat: The most he will pay for it.
        capabilities: What the row must offer beyond plain text.
        orders: The settlement orders he accepts, best first.
        allow: The only nodes he deals with; None for all.
        ignore: Nodes he does not deal with.
        region: The region that the offer must name; None for any.
        maximum_pow_bits: The most proof of work he will do for a request.
    """

    model: str | None
    job_type: JobType
    shape: JobShape
    budget_msat: AmountMsat
    capabilities: tuple[str, ...] = ()
    orders: tuple[Order, ...] = ("prepay",)
    allow: frozenset[PublicKey] | None = None
    ignore: frozenset[PublicKey] = frozenset()
    region: str | None = None
    maximum_pow_bits: int = 20


class Ineligibility(Enum):
    """Why a candidate is out, in the order of examination."""

    NOT_ALLOWED = "not allowed"
    IGNORED = "ignored"
    MODEL = "model not offered"
    JOB_TYPE = "job type not offered"
    REGION = "other region"
    CAPABILITY = "capability missing"
    CONTEXT_LIMIT = "over the context limit"
    OUTPUT_LIMIT = "over the output limit"
    SETTLEMENT = "no common settlement"
    PROOF_OF_WORK = "too much proof of work"
    OVER_BUDGET = "over budget"
    EXPIRED = "offer expired"
    UNSEEN = "no recent status"
    DRAINING = "draining"
    BUSY = "no free capacity"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One candidate, the one reason why it is out, and the figures behind that reason in a few words."""

    candidate: Candidate
    reason: Ineligibility
    detail: str


def examine(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> Exclusion | None:
    """Exclude a candidate for the first reason that holds, or return None: it is eligible."""
    for reason, test in _TESTS:
        detail = test(candidate, request, now)
        if detail is not None:
            return Exclusion(candidate, reason, detail)
    return None


def _not_allowed(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    if request.allow is None or candidate.offer.node in request.allow:
        return None
    return f"not among the {len(request.allow)} nodes allowed"


def _ignored(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    return "on the buyer's ignore list" if candidate.offer.node in request.ignore else None


def _model(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    return None if request.model in (None, candidate.row.model) else f"offers {candidate.row.model}"


def _job_type(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    offered = candidate.row.job_types
    return None if request.job_type in offered else f"offers {', '.join(offered)}"


def _region(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    offered = candidate.offer.offer.region
    return None if request.region in (None, offered) else f"is in {offered or 'no stated region'}"


def _capability(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    missing = [wanted for wanted in request.capabilities if wanted not in candidate.row.capabilities]
    return f"lacks {', '.join(missing)}" if missing else None


def _context_limit(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    limit, wanted = candidate.row.context_limit, request.shape.input_tokens + request.shape.output_tokens
    return f"{wanted} tokens over a limit of {limit}" if limit and wanted > limit else None


def _output_limit(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    limit, wanted = candidate.row.output_limit, request.shape.output_tokens
    return f"{wanted} tokens over a limit of {limit}" if wanted > limit else None


def _settlement(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    offered = dict.fromkeys(term.order for term in candidate.offer.offer.settlement if term.scope == "job")
    if any(order in request.orders for order in offered):
        return None
    return f"settles by {', '.join(offered) or 'session tranches'} only"


def _proof_of_work(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    wanted = candidate.offer.offer.pow_bits
    return f"wants {wanted} bits over {request.maximum_pow_bits}" if wanted > request.maximum_pow_bits else None


def _over_budget(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    if price_ceiling(candidate.row, request.shape, request.budget_msat) is not None:
        return None
    return f"may cost more than {request.budget_msat} msat"


def _expired(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    ended_at = candidate.offer.offer.valid_until
    return f"{now - ended_at} s ago" if ended_at <= now else None


def _unseen(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    alive = candidate.status is not None and candidate.status.expires_at > now
    return None if alive else "nothing heard of it lately"


def _draining(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    draining = candidate.status is not None and candidate.status.status.state == "draining"
    return "takes no new jobs" if draining else None


def _busy(candidate: Candidate, request: BuyerRequest, now: Timestamp) -> str | None:
    load = candidate.load
    if load is None:
        return "its status leaves this label out"
    if load.free == 0:
        return f"{load.queue} jobs wait"
    busy = candidate.status is not None and candidate.status.status.state == "busy"
    return "says that it is busy" if busy else None


_TESTS: Final[tuple[tuple[Ineligibility, Callable[[Candidate, BuyerRequest, Timestamp], str | None]], ...]] = (
    (Ineligibility.NOT_ALLOWED, _not_allowed),
    (Ineligibility.IGNORED, _ignored),
    (Ineligibility.MODEL, _model),
    (Ineligibility.JOB_TYPE, _job_type),
    (Ineligibility.REGION, _region),
    (Ineligibility.CAPABILITY, _capability),
    (Ineligibility.CONTEXT_LIMIT, _context_limit),
    (Ineligibility.OUTPUT_LIMIT, _output_limit),
    (Ineligibility.SETTLEMENT, _settlement),
    (Ineligibility.PROOF_OF_WORK, _proof_of_work),
    (Ineligibility.OVER_BUDGET, _over_budget),
    (Ineligibility.EXPIRED, _expired),
    (Ineligibility.UNSEEN, _unseen),
    (Ineligibility.DRAINING, _draining),
    (Ineligibility.BUSY, _busy),
)
