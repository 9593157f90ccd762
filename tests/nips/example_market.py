"""One small market, made by the machines themselves with fixed keys and entropy: offer, status, quote, session.

Nothing here is written by hand but what a person would choose: prices, a request, the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from relaymesh.adapters.invoices import find_node_id
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.opening import Opening
from relaymesh.machines.opening_events import EventArrived, Mine, Mined, Publish, SessionAgreed
from relaymesh.machines.reception import Reception
from relaymesh.machines.reception_events import PublishAnswer, ReceptionSettings, RequestArrived
from relaymesh.market.admission import NodeLoad
from relaymesh.market.bids import Way
from relaymesh.market.directory import Directory
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection, select
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import KeyPair, is_curve_point, verify
from relaymesh.nostr.proof_of_work import mine
from relaymesh.protocol.codec import build_offer, build_status, read_offer, seal_message
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.guarantee import MAXIMUM_GUARANTEE_SECONDS, Guarantee, build_guarantee
from relaymesh.protocol.offer import ModelIdentity, Offer, PriceRow, SettlementTerm
from relaymesh.protocol.quote import ForwardedRequest, JobShape
from relaymesh.protocol.session_messages import SessionId
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.units import AmountMsat, Instant, Moment, Timestamp

NODE: Final = KeyPair(b"\x01" * 32)
CLIENT: Final = KeyPair(b"\x02" * 32)
CLIENT_EPHEMERAL: Final = KeyPair(b"\x03" * 32)
NODE_EPHEMERAL: Final = KeyPair(b"\x04" * 32)
ROUTER: Final = KeyPair(b"\x08" * 32)
BUYER: Final = KeyPair(b"\x0b" * 32)
LIGHTNING_SECRET: Final = b"\x05" * 32
SESSION_ID: Final = SessionId("a5" * 32)
RELAY_URL: Final = "wss://relay.example"
LABEL: Final = "main"
START_MS: Final = 1_800_000_000_000
BODY: Final = '{"messages":[{"role":"user","content":"What is RelayMesh?"}]}'
OUTPUT_BYTES: Final = 96


def moment(milliseconds: int) -> Moment:
    """So long after the beginning."""
    return Moment(Instant(milliseconds * 1_000), START_MS + milliseconds)


def _row(job_type: str, **changes: Any) -> PriceRow:
    fields = {
        "model": "tiny",
        "job_types": (job_type,),
        "unit": "byte",
        "per": 1_000,
        "input_msat": AmountMsat(500),
        "output_msat": AmountMsat(20_000),
        "minimum_msat": AmountMsat(1_000),
        "context_limit": 2_048,
        "output_limit": 256,
        "capabilities": ("stream",),
        "identity": ModelIdentity(quantization="q8_0", engine="llama.cpp b5000"),
    }
    return PriceRow.model_validate({**fields, **changes})


@cache
def make_offer() -> VerifiedEvent:
    """The node's 38770."""
    now = moment(0).timestamp
    free_output = {"output_msat": AmountMsat(0), "output_limit": 0, "capabilities": ()}
    offer = Offer(
        seq=now,
        valid_until=Timestamp(now + 3_600),
        ln_pubkey=find_node_id(LIGHTNING_SECRET),
        relays=(RELAY_URL,),
        settlement=(SettlementTerm(order="prepay", tranche_units=48),),
        rows=(_row("chat"), _row("embedding", **free_output)),
        region="eu",
    )
    return NODE.sign(build_offer(offer, LABEL, NODE.public_key, now))


@cache
def make_status() -> VerifiedEvent:
    """The node's 38771."""
    now = moment(0).timestamp
    status = Status(seq=now, state="up", labels={LABEL: LabelLoad(free=2, queue=0)})
    return NODE.sign(build_status(status, NODE.public_key, now, Timestamp(now + 360)))


@cache
def make_guarantee() -> VerifiedEvent:
    """The 8775 with which the buyer's long-term key would vouch for the session key of the job."""
    now = moment(0).timestamp
    guarantee = Guarantee(client=CLIENT.public_key, valid_until=Timestamp(now + MAXIMUM_GUARANTEE_SECONDS))
    return BUYER.sign(build_guarantee(guarantee, author=BUYER.public_key, node=NODE.public_key, created_at=now))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Every event of one conversation, and what both sides hold afterwards."""

    quote_request: VerifiedEvent
    quote: VerifiedEvent
    session_request: VerifiedEvent
    session_accept: VerifiedEvent
    refusal: VerifiedEvent
    contract: SessionContract


@dataclass(frozen=True, slots=True)
class OtherWays:
    """The events of an auction, passed on by a router, and of a session at the posted price."""

    open_request: VerifiedEvent
    forwarded_request: VerifiedEvent
    posted_request: VerifiedEvent
    posted_accept: VerifiedEvent


def _select() -> Selection:
    directory, now = Directory(), moment(0).timestamp
    for event in (make_offer(), make_status()):
        assert directory.apply(event, RELAY_URL, now)
    shape = JobShape(
        input_tokens=len(BODY) // 3 + 1, input_bytes=len(BODY), output_tokens=32, output_bytes=OUTPUT_BYTES
    )
    request = BuyerRequest("tiny", "chat", shape, AmountMsat(10_000), capabilities=("stream",))
    candidates = directory.candidates("tiny", "chat", now)
    return select(candidates, request, seed=b"\x51" * 32, count=1, now=now)


def _reception(seed: bytes, free: int) -> Reception:
    settings = ReceptionSettings(endpoints=("wss://node.example/session",), eta_ms=400)
    reception = Reception(settings, signer=NODE, verify=verify, is_curve_point=is_curve_point, entropy=Entropy(seed))
    reception.start(moment(0))
    offer = read_offer(make_offer())
    reception.update({offer.event.id: offer}, NodeLoad(free=free, queue=0, draining=False))
    return reception


def _answer(reception: Reception, request: VerifiedEvent, now: Moment) -> VerifiedEvent:
    reception.receive(RequestArrived(request, RELAY_URL, SESSION_ID, NODE_EPHEMERAL.public_key), now)
    [answer] = [effect.event for effect in reception.effects() if isinstance(effect, PublishAnswer)]
    return answer


def _published(opening: Opening) -> Iterator[VerifiedEvent | SessionContract]:
    for effect in opening.effects():
        match effect:
            case Publish(event):
                yield event
            case SessionAgreed(_, contract):
                yield contract


def _opening(seed: bytes, way: Way = "directed") -> Opening:
    opening = Opening(
        _select(),
        signer=CLIENT,
        verify=verify,
        ephemeral_key=CLIENT_EPHEMERAL.public_key,
        relay_urls=(RELAY_URL,),
        entropy=Entropy(seed),
        way=way,
    )
    opening.start(moment(0))
    return opening


@cache
def go_other_ways() -> OtherWays:
    """An open request, what a router makes of it, and a posted price: each by the machines that make it."""
    auction = _opening(b"\x56" * 32, "open")
    [work] = [effect for effect in auction.effects() if isinstance(effect, Mine)]
    auction.receive(Mined(work.draft, mine(work.draft, work.bits)), moment(0))
    [open_request] = _published(auction)
    assert isinstance(open_request, VerifiedEvent)
    carrier = seal_message(
        ForwardedRequest(request=open_request.to_json()),
        author=ROUTER.public_key,
        signer=ROUTER,
        recipient=NODE.public_key,
        answers=None,
        created_at=moment(0).timestamp,
        entropy=Entropy(b"\x57" * 32).take(64),
    )
    [posted_request] = _published(_opening(b"\x58" * 32, "posted"))
    assert isinstance(posted_request, VerifiedEvent)
    posted_accept = _answer(_reception(b"\x59" * 32, free=2), posted_request, moment(20))
    return OtherWays(open_request, ROUTER.sign(carrier), posted_request, posted_accept)


@cache
def agree() -> Agreement:
    """The client's opening and the node's reception, one answering the other."""
    opening = _opening(b"\x52" * 32)
    reception = _reception(b"\x53" * 32, free=2)
    [quote_request] = _published(opening)
    assert isinstance(quote_request, VerifiedEvent)
    quote = _answer(reception, quote_request, moment(20))
    opening.receive(EventArrived(quote), moment(40))
    [session_request] = _published(opening)
    assert isinstance(session_request, VerifiedEvent)
    session_accept = _answer(reception, session_request, moment(60))
    opening.receive(EventArrived(session_accept), moment(80))
    [contract] = _published(opening)
    assert isinstance(contract, SessionContract)
    refusal = _answer(_reception(b"\x54" * 32, free=0), quote_request, moment(20))
    return Agreement(quote_request, quote, session_request, session_accept, refusal, contract)
