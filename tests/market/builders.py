"""What the market's tests are made of: rows, offers, statuses and requests with defaults, and strategies for them."""

from typing import Any

from hypothesis import strategies as st

from relaymesh.market.candidate import Candidate
from relaymesh.market.request import BuyerRequest
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.protocol.codec import SignedOffer, SignedStatus, build_offer, build_status, read_offer, read_status
from relaymesh.protocol.fields import Order, Scope
from relaymesh.protocol.offer import Offer, PriceRow, SettlementTerm
from relaymesh.protocol.quote import JobShape, OpenRequest, QuoteRequest
from relaymesh.protocol.status import LabelLoad, NodeState, Status
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp

NOW = Timestamp(1_800_000_000)
MODEL = "llama-3.1-8b-instruct"


def node(number: int) -> PublicKey:
    """The public key of node `number`; nothing below the line looks whether it is on the curve."""
    return PublicKey(number.to_bytes(32).hex())


NODE = node(1)


def sign(event: UnsignedEvent) -> VerifiedEvent:
    """The event with its true id and a token for a signature, as the simulator would sign it."""
    return VerifiedEvent(
        event.public_key, event.created_at, event.kind, event.tags, event.content, event.compute_id(), "00" * 64
    )


def row(**changes: Any) -> PriceRow:
    """The price row of the specification's example, with changes."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "job_types": ("chat",),
        "unit": "token",
        "per": 1_000,
        "input_msat": 40,
        "output_msat": 120,
        "minimum_msat": 1_000,
        "context_limit": 131_072,
        "output_limit": 4_096,
        "capabilities": ("stream", "tools", "json"),
    }
    return PriceRow.model_validate({**fields, **changes})


def prepay(tranche_units: int | None = None) -> SettlementTerm:
    """A prepay term."""
    return SettlementTerm(order="prepay", tranche_units=tranche_units)


def signed_offer(
    author: PublicKey = NODE,
    label: str = "main",
    *,
    created_at: int = NOW,
    **changes: Any,
) -> SignedOffer:
    """A published offer of one row, with changes to the offer's fields."""
    fields: dict[str, Any] = {
        "seq": NOW,
        "valid_until": NOW + 3_600,
        "ln_pubkey": "02" + "ab" * 32,
        "settlement": (prepay(),),
        "rows": (row(),),
    }
    offer = Offer.model_validate({**fields, **changes})
    return read_offer(sign(build_offer(offer, label, author, Timestamp(created_at))))


def signed_status(
    author: PublicKey = NODE,
    *,
    state: NodeState = "up",
    labels: dict[str, tuple[int, int]] | None = None,
    seq: int = NOW,
    created_at: int = NOW,
    expires_at: int = NOW + 360,
) -> SignedStatus:
    """A published status; `labels` maps each label to (free, queue) and is one free slot under `main` by default."""
    loads = {label: LabelLoad(free=free, queue=queue) for label, (free, queue) in (labels or {"main": (1, 0)}).items()}
    status = Status(seq=seq, state=state, labels=loads)
    return read_status(sign(build_status(status, author, Timestamp(created_at), Timestamp(expires_at))))


def candidate(number: int = 1, *, free: int = 1, queue: int = 0, state: NodeState = "up", **changes: Any) -> Candidate:
    """An offer of node `number` and its live status; changes go to the price row."""
    offer = signed_offer(node(number), rows=(row(**changes),))
    return Candidate(
        offer, offer.offer.rows[0], signed_status(node(number), state=state, labels={"main": (free, queue)})
    )


def shape(
    input_tokens: int = 100, output_tokens: int = 400, input_bytes: int = 450, output_bytes: int = 1_800
) -> JobShape:
    """A job of the size of a short chat."""
    return JobShape(
        input_tokens=input_tokens, input_bytes=input_bytes, output_tokens=output_tokens, output_bytes=output_bytes
    )


def buyer_request(**changes: Any) -> BuyerRequest:
    """A chat request that the default candidate can serve."""
    fields: dict[str, Any] = {"model": MODEL, "job_type": "chat", "shape": shape(), "budget_msat": 100_000}
    return BuyerRequest(**{**fields, **changes})


def quote_request(offer: SignedOffer, **changes: Any) -> QuoteRequest:
    """A quote request that relies on `offer`."""
    relied_on = {"offer_id": offer.event.id, "offer_seq": offer.offer.seq}
    return QuoteRequest.model_validate({**open_request().model_dump(), **relied_on, **changes})


def open_request(**changes: Any) -> OpenRequest:
    """What a quote request asks, asked of everybody."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "job_type": "chat",
        "shape": shape(),
        "budget_msat": 100_000,
        "settlement": ("prepay",),
    }
    return OpenRequest.model_validate({**fields, **changes})


quantities = st.integers(0, 10**9) | st.integers(0, 5_000)
rates = st.integers(0, 10**9) | st.integers(0, 500)
amounts = (st.integers(0, MAXIMUM_INTEGER) | st.integers(0, 200_000)).map(AmountMsat)
units = st.sampled_from(["token", "byte", "second", "job"])
orders: st.SearchStrategy[Order] = st.sampled_from(["prepay", "postpay", "sealed"])
scopes: st.SearchStrategy[tuple[Scope, ...]] = st.sampled_from([("job",), ("session",), ("session", "job")])

rows = st.builds(
    row,
    unit=units,
    per=st.integers(1, 10**6) | st.sampled_from([1, 1_000, 10**6]),
    input_msat=rates,
    output_msat=rates,
    minimum_msat=amounts,
    context_limit=st.sampled_from([0, 128, 4_096, 10**9]),
    output_limit=st.sampled_from([0, 64, 4_096, 10**9]),
)

shapes = st.builds(
    shape, input_tokens=quantities, output_tokens=quantities, input_bytes=quantities, output_bytes=quantities
)

terms = st.builds(
    SettlementTerm,
    order=orders,
    scope=st.sampled_from(["job", "session"]),
    tranche_units=st.none() | st.integers(1, 10**9) | st.integers(1, 200),
)


@st.composite
def candidates(draw: st.DrawFn, number: int | None = None) -> Candidate:
    """A candidate that may or may not fit `buyer_requests`; prices are small so that many tie."""
    author = node(number if number is not None else draw(st.integers(1, 6)))
    label = draw(st.sampled_from(["main", "main/2"]))
    price = row(
        model=draw(st.sampled_from([MODEL, "other"])),
        unit=draw(units),
        input_msat=draw(st.sampled_from([0, 40, 80])),
        output_msat=draw(st.sampled_from([0, 120, 10**9])),
        context_limit=draw(st.sampled_from([0, 300, 10**6])),
        output_limit=draw(st.sampled_from([100, 4_096])),
        capabilities=draw(st.sampled_from([(), ("stream",), ("stream", "tools")])),
    )
    offer = signed_offer(
        author,
        label,
        rows=(price,),
        region=draw(st.sampled_from([None, "EU"])),
        pow_bits=draw(st.sampled_from([0, 20, 21])),
        settlement=tuple(draw(st.lists(terms, min_size=1, max_size=3))),
        valid_until=draw(st.sampled_from([NOW, NOW + 3_600])),
    )
    status = signed_status(
        author,
        state=draw(st.sampled_from(["up", "up", "busy", "draining"])),
        labels={draw(st.sampled_from(["main", "main/2"])): (draw(st.integers(0, 2)), draw(st.integers(0, 2)))},
        expires_at=draw(st.sampled_from([NOW, NOW + 360])),
    )
    return Candidate(offer, price, draw(st.none() | st.just(status)))


@st.composite
def buyer_requests(draw: st.DrawFn) -> BuyerRequest:
    """A request with any of the constraints that a buyer can state."""
    some_nodes = st.frozensets(st.integers(1, 6).map(node))
    return buyer_request(
        model=draw(st.sampled_from([MODEL, None])),
        shape=shape(draw(st.sampled_from([0, 100, 200])), draw(st.sampled_from([0, 100, 400]))),
        budget_msat=draw(st.sampled_from([0, 1_000, 100_000])),
        capabilities=draw(st.sampled_from([(), ("stream",)])),
        orders=tuple(draw(st.lists(orders, min_size=1, max_size=3))),
        scopes=draw(scopes),
        allow=draw(st.none() | some_nodes),
        ignore=draw(st.just(frozenset()) | some_nodes),
        region=draw(st.sampled_from([None, None, "EU"])),
    )
