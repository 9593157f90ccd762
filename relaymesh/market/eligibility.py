"""Eligibility: whom a buyer's request leaves in the market, and one reason for everyone it does not.

RM-04, "Eligibility".

Every constraint that a request can state is enforced here and nowhere else. A candidate is examined in the order in
which `Ineligibility` lists the reasons and excluded for the first that holds: first what the buyer wants, then what the
offer cannot do, then the price, then what is known about the node, and last what waiting would change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from relaymesh.market.candidate import Candidate
from relaymesh.market.facts import Facts, Traits, facts_of
from relaymesh.market.pricing import ceiling_within
from relaymesh.market.reliability import reliability_milli
from relaymesh.market.request import BuyerRequest
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.units import AmountMsat, Timestamp


class Ineligibility(Enum):
    """Why a candidate is out, in the order of examination."""

    NOT_ALLOWED = "not allowed"
    IGNORED = "ignored"
    MODEL = "model not offered"
    JOB_TYPE = "job type not offered"
    REGION = "other region"
    QUANTIZATION = "other quantization"
    DATA_POLICY = "may collect data"
    CAPABILITY = "capability missing"
    SETTLEMENT = "no common settlement"
    PROOF_OF_WORK = "too much proof of work"
    CONTEXT_LIMIT = "over the context limit"
    OUTPUT_LIMIT = "over the output limit"
    OVER_BUDGET = "over budget"
    PRICE_CEILING = "over the price ceiling"
    REPUTATION = "below the reputation floor"
    PROBATION = "on probation"
    EXPIRED = "offer expired"
    UNSEEN = "no recent status"
    STALE = "status too old"
    DRAINING = "draining"
    BUSY = "no free capacity"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One candidate, the one reason why it is out, and the figures behind that reason in a few words."""

    candidate: Candidate
    reason: Ineligibility
    detail: str


def examine(
    candidate: Candidate, request: BuyerRequest, now: Timestamp, standing: Standing = UNKNOWN
) -> Exclusion | None:
    """Exclude a candidate for the first reason that holds, or return None: it is eligible."""
    found = examine_facts(facts_of(candidate, standing), request, now)
    return None if found is None else Exclusion(candidate, *found)


def examine_facts(
    facts: Facts, request: BuyerRequest, now: Timestamp, *, traits_fit: bool = False
) -> tuple[Ineligibility, str] | None:
    """The first reason that holds against a price, with its figures; None where it is eligible.

    Args:
        traits_fit: Whether it is known already that the price's traits fit the request.
    """
    for reason, test in _TESTS_BUT_TRAITS if traits_fit else _TESTS:
        detail = test(facts, request, now)
        if detail is not None:
            return reason, detail
    return None


def fits(traits: Traits, request: BuyerRequest) -> bool:
    """Whether prices of these traits can serve the request, as far as traits say."""
    return all(test(traits, request) is None for _, test in _TRAIT_TESTS)


def ceiling_of(facts: Facts, request: BuyerRequest) -> AmountMsat | None:
    """The most that the job can cost there; None when that is over the budget."""
    return ceiling_within(facts, request.shape.units(facts.unit), request.budget_msat)


# ── what the buyer wants of whom ──────────────────────────────────────────────────────────────────────────────────


def _not_allowed(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    if request.allow is None or facts.node in request.allow:
        return None
    return f"not among the {len(request.allow)} nodes allowed"


def _ignored(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    return "on the buyer's ignore list" if facts.node in request.ignore else None


def _model(traits: Traits, request: BuyerRequest) -> str | None:
    return None if request.model in (None, traits.model) else f"offers {traits.model}"


def _job_type(traits: Traits, request: BuyerRequest) -> str | None:
    return None if request.job_type in traits.job_types else f"offers {', '.join(traits.job_types)}"


def _region(traits: Traits, request: BuyerRequest) -> str | None:
    return None if request.region in (None, traits.region) else f"is in {traits.region or 'no stated region'}"


def _quantization(traits: Traits, request: BuyerRequest) -> str | None:
    stated = traits.quantization or "unknown"
    return None if not request.quantizations or stated in request.quantizations else f"is {stated}"


def _data_policy(traits: Traits, request: BuyerRequest) -> str | None:
    refused = request.data_collection == "deny" and traits.data_collection != "deny"
    return "does not promise to forget prompts and outputs" if refused else None


def _capability(traits: Traits, request: BuyerRequest) -> str | None:
    missing = [wanted for wanted in request.capabilities if wanted not in traits.capabilities]
    return f"lacks {', '.join(missing)}" if missing else None


def _settlement(traits: Traits, request: BuyerRequest) -> str | None:
    if any(form in request.forms for form in traits.forms):
        return None
    return f"settles by {', '.join(traits.forms) or 'nothing known'} only"


def _proof_of_work(traits: Traits, request: BuyerRequest) -> str | None:
    wanted, most = traits.pow_bits, request.maximum_pow_bits
    return f"wants {wanted} bits over {most}" if wanted > most else None


# ── what it can do, at which price ────────────────────────────────────────────────────────────────────────────────


def _context_limit(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    limit, wanted = facts.context_limit, request.shape.input_tokens + request.shape.output_tokens
    return f"{wanted} tokens over a limit of {limit}" if limit and wanted > limit else None


def _output_limit(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    limit, wanted = facts.output_limit, request.shape.output_tokens
    return f"{wanted} tokens over a limit of {limit}" if wanted > limit else None


def _over_budget(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    return f"may cost more than {request.budget_msat} msat" if ceiling_of(facts, request) is None else None


def _price_ceiling(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    ceiling = request.maximum_price
    return None if ceiling is None else ceiling.exceeded_by(facts)


# ── what is known about it, and what waiting would change ─────────────────────────────────────────────────────────


def _reputation(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    trust, least = facts.standing.trust_milli, request.minimum_trust_milli
    if trust < least:
        return f"trusted {trust} of 1000, below {least}"
    reliability, least = reliability_milli(facts.standing), request.minimum_reliability_milli
    return f"reliable {reliability} of 1000, below {least}" if reliability < least else None


def _probation(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    limit = facts.standing.job_limit_msat
    if limit is None:
        return None
    ceiling = ceiling_of(facts, request)
    return f"{ceiling} msat over a limit of {limit}" if ceiling is not None and ceiling > limit else None


def _expired(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    return f"{now - facts.valid_until} s ago" if facts.valid_until <= now else None


def _unseen(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    is_alive = facts.load.status_id is not None and facts.load.ends_at > now
    return None if is_alive else "nothing heard of it lately"


def _stale(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    most = request.maximum_status_age_seconds
    age = now - facts.load.said_at
    return f"{age} s old, over {most} s" if most is not None and age > most else None


def _draining(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    return "takes no new jobs" if facts.load.state == "draining" else None


def _busy(facts: Facts, request: BuyerRequest, now: Timestamp) -> str | None:
    load = facts.load
    if load.free is None:
        return "its status leaves this label out"
    if load.free == 0:
        return f"{load.queue} jobs wait"
    return "says that it is busy" if load.state == "busy" else None


_Test = Callable[[Facts, BuyerRequest, Timestamp], str | None]
_TraitTest = Callable[[Traits, BuyerRequest], str | None]

_TRAIT_TESTS: Final[tuple[tuple[Ineligibility, _TraitTest], ...]] = (
    (Ineligibility.MODEL, _model),
    (Ineligibility.JOB_TYPE, _job_type),
    (Ineligibility.REGION, _region),
    (Ineligibility.QUANTIZATION, _quantization),
    (Ineligibility.DATA_POLICY, _data_policy),
    (Ineligibility.CAPABILITY, _capability),
    (Ineligibility.SETTLEMENT, _settlement),
    (Ineligibility.PROOF_OF_WORK, _proof_of_work),
)


def _of_traits(test: _TraitTest) -> _Test:
    return lambda facts, request, now: test(facts.traits, request)


_TESTS: Final[tuple[tuple[Ineligibility, _Test], ...]] = (
    (Ineligibility.NOT_ALLOWED, _not_allowed),
    (Ineligibility.IGNORED, _ignored),
    *((reason, _of_traits(test)) for reason, test in _TRAIT_TESTS),
    (Ineligibility.CONTEXT_LIMIT, _context_limit),
    (Ineligibility.OUTPUT_LIMIT, _output_limit),
    (Ineligibility.OVER_BUDGET, _over_budget),
    (Ineligibility.PRICE_CEILING, _price_ceiling),
    (Ineligibility.REPUTATION, _reputation),
    (Ineligibility.PROBATION, _probation),
    (Ineligibility.EXPIRED, _expired),
    (Ineligibility.UNSEEN, _unseen),
    (Ineligibility.STALE, _stale),
    (Ineligibility.DRAINING, _draining),
    (Ineligibility.BUSY, _busy),
)

_TESTS_BUT_TRAITS: Final = tuple(each for each in _TESTS if each[0] not in dict(_TRAIT_TESTS))
