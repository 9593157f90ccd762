"""What an opening asks nodes for: the job's shape and what the buyer accepts, and never the job (RM-01, "Quote")."""

from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Choice
from relaymesh.market.settlement_choice import ChosenTerm, foresee_term
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.handshake import PostedRequest
from relaymesh.protocol.quote import MAXIMUM_REPLY_RELAYS, QuoteRequest, RequestedJob


def requested_job(wanted: BuyerRequest, choice: Choice, relay_urls: tuple[str, ...]) -> RequestedJob:
    """What a node, or everybody, is told of the job."""
    return RequestedJob(
        model=choice.candidate.row.model,
        job_type=wanted.job_type,
        shape=wanted.shape,
        capabilities=wanted.capabilities,
        budget_msat=wanted.budget_msat,
        settlement=wanted.orders,
        scopes=wanted.scopes,
        relays=relay_urls[:MAXIMUM_REPLY_RELAYS],
    )


def quote_request(wanted: BuyerRequest, choice: Choice, relay_urls: tuple[str, ...]) -> QuoteRequest:
    """What one node is asked about one of its offers."""
    offer = choice.candidate.offer
    job = dict(requested_job(wanted, choice, relay_urls))
    return QuoteRequest(**job, offer_id=offer.event.id, offer_seq=offer.offer.seq)


def posted_request(
    wanted: BuyerRequest,
    choice: Choice,
    relay_urls: tuple[str, ...],
    *,
    ephemeral_key: PublicKey,
    standing: Standing,
) -> PostedRequest:
    """A session at the posted price: nothing is chosen afterwards, so only the form wanted is asked for."""
    candidate = choice.candidate
    job = dict(quote_request(wanted, choice, relay_urls))
    foreseen = foresee_term(wanted, candidate.offer.offer, candidate.row, standing)
    if isinstance(foreseen, ChosenTerm):
        job |= {"settlement": (foreseen.term.order,), "scopes": (foreseen.term.scope,)}
    return PostedRequest(**job, ephemeral_key=ephemeral_key)
