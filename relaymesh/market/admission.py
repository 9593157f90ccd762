"""Admission: what a node says to a request for a quote and to a job, and why it says no (RM-01, "Quote" and "Refusal").

What no waiting will change is checked first and capacity last, so that a buyer who is told `busy` knows that he would
be served. A refusal is a value with a code; being busy or draining is no failure of the node.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from relaymesh.market.pricing import affordable_output_units, estimate, price_ceiling, quote_terms
from relaymesh.market.unpaid_work import FULL_TRUST, Trust
from relaymesh.nostr.event import EventId
from relaymesh.protocol.codec import SignedOffer
from relaymesh.protocol.fields import SETTLEMENT_FORMS
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.quote import JobShape, Quote, QuotedTerm, QuoteRequest, RequestedJob
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat

_NEAREST_LAST: Final = (
    RefusalCode.MODEL_NOT_OFFERED,
    RefusalCode.UNSUPPORTED_PARAMETER,
    RefusalCode.OVER_LIMIT,
    RefusalCode.OVER_BUDGET,
)
"""The order in which a row is examined: of several refusals, the latest came nearest to a quote."""


SHORTEST_RETRY_MS: Final = 250
LONGEST_RETRY_MS: Final = 60_000
"""Between these lies what a busy node says about when to ask again: a guess; an unpaid invoice lapses in a minute."""


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How busy the node is now.

    Args:
        free: Jobs that could start at once.
        queue: Jobs that wait.
        draining: Whether the node finishes what it has and takes nothing new.
        places: Jobs that can run at once, at least 1.
        queue_limit: Jobs that may wait.
        service_ms: How long a job takes here, on average.
    """

    free: int
    queue: int
    draining: bool
    places: int = 1
    queue_limit: int = 0
    service_ms: int = 1_000

    @property
    def waiting_ms(self) -> int:
        """How long the next job to come would wait for its place, as far as averages tell; 0 while one is free."""
        return 0 if self.free > 0 else self.service_ms * (self.queue + 1) // self.places

    @property
    def retry_in_ms(self) -> int:
        """When somebody who is turned away does well to come back."""
        return min(max(self.waiting_ms, SHORTEST_RETRY_MS), LONGEST_RETRY_MS)


def admit_quote_request(
    request: RequestedJob,
    offers: Mapping[EventId, SignedOffer],
    load: NodeLoad,
    *,
    request_id: EventId,
    now_ms: int,
    validity_ms: int,
    eta_ms: int,
    trust: Trust = FULL_TRUST,
) -> Quote | Refusal:
    """Answer a 28770 with a binding price or with the reason for none (RM-01, "Quote").

    Of several rows that serve the request, the one that costs the buyer least is quoted; among equals the one of the
    lowest offer id, then the first. A request that names no offer (an open one) is weighed against what is offered now.

    Args:
        offers: The node's current offers by the id of their event.
        load: How busy the node is; `trust` is how much it would do for the asker before it is paid.
        request_id: The 28770 (or, at a posted price, the 28772) that is answered.
        validity_ms: How long the quote stands; never longer than the offer it rests on.
        eta_ms: When the first output would come, from the JOB on, if the job had a place at once.
    """
    best = _best_row(request, offers, now_ms)
    if isinstance(best, Refusal):
        return best
    terms = _narrow_terms(best.terms, trust, load)
    if isinstance(terms, Refusal):
        return terms
    return Quote(
        request_id=request_id,
        offer_id=best.offer.event.id,
        offer_seq=best.offer.offer.seq,
        row=best.row,
        estimated_msat=estimate(best.row, request.shape),
        max_msat=best.maximum_msat,
        settlement=terms,
        valid_until_ms=min(now_ms + validity_ms, best.offer.offer.valid_until * MILLISECONDS_PER_SECOND),
        eta_in_ms=eta_ms + load.waiting_ms,
    )


def _narrow_terms(terms: tuple[QuotedTerm, ...], trust: Trust, load: NodeLoad) -> tuple[QuotedTerm, ...] | Refusal:
    trusted = trust.narrow(terms)
    return trusted if isinstance(trusted, Refusal) else refuse_for_load(load) or trusted


def admit_job(
    row: PriceRow,
    *,
    input_units: int,
    maximum_output_units: int,
    maximum_msat: AmountMsat,
) -> int | Refusal:
    """Decide, before anything is started or invoiced, how much output a JOB is granted (RM-02, "Jobs").

    Limits are in tokens and bind a row priced by the token; a row with another unit leaves them to the runner, which
    alone can count tokens.

    Args:
        row: The price row of the quote.
        input_units: Input in the row's unit, measured from the JOB's body.
        maximum_output_units: The most output that the JOB asks for, in the row's unit.
        maximum_msat: The lower of the JOB's `max_msat` and the quote's.

    Returns:
        Output units granted, at most what was asked for; generation stops there. Or the refusal.

    Raises:
        LocalProtocolError: A quantity is outside 0 … 10^9: the caller did not parse it.
    """
    wanted = maximum_output_units
    if row.unit == "token":
        if row.context_limit and input_units + min(wanted, 1) > row.context_limit:
            return _over_limit("input", input_units, "context", row.context_limit)
        if row.output_limit == 0 and wanted > 0:
            return _over_limit("output", wanted, "output", row.output_limit)
        room = row.context_limit - input_units if row.context_limit else wanted
        wanted = min(wanted, row.output_limit, room)
    granted = affordable_output_units(row, input_units, maximum_msat, wanted)
    if granted is None or (granted == 0 and wanted > 0):
        return refuse(RefusalCode.OVER_BUDGET, f"this job cannot be begun for at most {maximum_msat} msat")
    return granted


def refuse_for_load(load: NodeLoad) -> Refusal | None:
    """The refusal that a node which could serve, but not now, gives; None when it has room (RM-01, "Refusal")."""
    if load.draining:
        return refuse(RefusalCode.DRAINING, "this node takes no new jobs; ask another")
    if load.free <= 0 and load.queue >= load.queue_limit:
        said = f"no free capacity, {load.queue} jobs wait; ask again later or ask another"
        return refuse(RefusalCode.BUSY, said, load.retry_in_ms)
    return None


@dataclass(frozen=True, slots=True)
class _PricedRow:
    offer: SignedOffer
    position: int
    maximum_msat: AmountMsat
    terms: tuple[QuotedTerm, ...]

    @property
    def row(self) -> PriceRow:
        return self.offer.offer.rows[self.position]


def _best_row(request: RequestedJob, offers: Mapping[EventId, SignedOffer], now_ms: int) -> _PricedRow | Refusal:
    relied_on = _relied_on(request, offers, now_ms)
    if isinstance(relied_on, Refusal):
        return relied_on
    refusals = [refuse(RefusalCode.MODEL_NOT_OFFERED, "this node does not offer that model for that job type")]
    admitted: list[_PricedRow] = []
    for offer, position in _matching_rows(request, relied_on):
        priced = _examine_row(request, offer, position)
        if isinstance(priced, Refusal):
            refusals.append(priced)
        else:
            admitted.append(priced)
    if not admitted:
        return max(refusals, key=lambda refusal: _NEAREST_LAST.index(refusal.code))
    return min(admitted, key=lambda priced: (priced.maximum_msat, priced.offer.event.id, priced.position))


def _relied_on(
    request: RequestedJob, offers: Mapping[EventId, SignedOffer], now_ms: int
) -> tuple[SignedOffer, ...] | Refusal:
    current = [offer for offer in offers.values() if offer.offer.valid_until * MILLISECONDS_PER_SECOND > now_ms]
    if not isinstance(request, QuoteRequest):
        newest = {offer.label: offer for offer in sorted(current, key=lambda offer: offer.offer.seq)}
        return tuple(newest.values())  # what was replaced stands only for those who relied on it
    for offer in current:
        if offer.event.id == request.offer_id and request.offer_seq == offer.offer.seq:
            return (offer,)
    return refuse(RefusalCode.OFFER_CHANGED, "the offer relied on is not this node's current one; read it again")


def _matching_rows(request: RequestedJob, offers: tuple[SignedOffer, ...]) -> Iterator[tuple[SignedOffer, int]]:
    for offer in offers:
        for position, row in enumerate(offer.offer.rows):
            if row.model == request.model and request.job_type in row.job_types:
                yield offer, position


def _examine_row(request: RequestedJob, offer: SignedOffer, position: int) -> _PricedRow | Refusal:
    row = offer.offer.rows[position]
    for capability in request.capabilities:
        if capability not in row.capabilities:
            return refuse(RefusalCode.UNSUPPORTED_PARAMETER, f"this row does not offer {capability!r}")
    refusal = _examine_limits(request.shape, row)
    if refusal is not None:
        return refusal
    maximum_msat = price_ceiling(row, request.shape, request.budget_msat)
    if maximum_msat is None:
        return refuse(RefusalCode.OVER_BUDGET, f"this job may cost more than {request.budget_msat} msat here")
    terms = quote_terms(row, request.shape, offer.offer.settlement, request.forms, maximum_msat)
    if not terms:
        others = quote_terms(row, request.shape, offer.offer.settlement, SETTLEMENT_FORMS, maximum_msat)
        forms = ", ".join(dict.fromkeys(str(term.form) for term in others)) or "tranches too small for it"
        return refuse(RefusalCode.UNSUPPORTED_PARAMETER, f"this node settles such a job by {forms} only")
    return _PricedRow(offer, position, maximum_msat, terms)


def _examine_limits(shape: JobShape, row: PriceRow) -> Refusal | None:
    tokens = shape.input_tokens + shape.output_tokens
    if row.context_limit and tokens > row.context_limit:
        return _over_limit("input and output", tokens, "context", row.context_limit)
    if shape.output_tokens > row.output_limit:
        return _over_limit("output", shape.output_tokens, "output", row.output_limit)
    return None


def _over_limit(what: str, tokens: int, limit: str, maximum: int) -> Refusal:
    return refuse(RefusalCode.OVER_LIMIT, f"{tokens} tokens of {what} exceed the {limit} limit of {maximum}")
