"""Nodes as far as relays see them: an offer, and a reception that answers what it hears."""

from dataclasses import dataclass, field

from relaymesh.machines.entropy import Entropy
from relaymesh.machines.opening import Opening
from relaymesh.machines.opening_events import EventArrived, Mine, Mined, Publish, SessionAgreed
from relaymesh.machines.reception import Reception
from relaymesh.machines.reception_events import AwaitSession, PublishAnswer, ReceptionSettings, RequestArrived
from relaymesh.market.admission import NodeLoad
from relaymesh.market.bids import Way
from relaymesh.market.directory import Directory
from relaymesh.market.policy import CHEAPEST
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection, select
from relaymesh.market.unpaid_work import UnpaidWork
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import KeyPair, is_curve_point, verify
from relaymesh.nostr.proof_of_work import mine
from relaymesh.protocol.codec import SignedOffer, build_offer, build_status, read_offer
from relaymesh.protocol.offer import Offer, SettlementTerm
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS
from relaymesh.protocol.quote import JobShape
from relaymesh.protocol.session_messages import SessionId
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import CLIENT, LIGHTNING_NODE_ID, START_MS, moment, price_row

NOW = Timestamp(START_MS // 1_000)
RELAYS = ("ws://one.test", "ws://two.test")
EPHEMERAL = KeyPair(b"\x09" * 32)
SHAPE = JobShape(input_tokens=10, input_bytes=40, output_tokens=20, output_bytes=160)


def offer_of(
    key: KeyPair,
    output_msat: int = 2_000,
    pow_bits: int = 0,
    capabilities: tuple[str, ...] = ("stream",),
    settlement: tuple[SettlementTerm, ...] = (SettlementTerm(order="prepay", tranche_units=16),),
) -> SignedOffer:
    offer = Offer(
        seq=NOW,
        valid_until=Timestamp(NOW + 3_600),
        ln_pubkey=LIGHTNING_NODE_ID,
        pow_bits=pow_bits,
        relays=RELAYS,
        settlement=settlement,
        rows=(
            price_row(output_msat=output_msat, capabilities=capabilities),
            price_row(model="other"),
            price_row(job_types=("completion",)),
        ),
    )
    return read_offer(key.sign(build_offer(offer, "main", key.public_key, NOW)))


@dataclass
class Seller:
    """A node as far as relays see it."""

    key: KeyPair
    offer: SignedOffer
    load: NodeLoad = field(default_factory=lambda: NodeLoad(free=2, queue=0, draining=False))
    open_requests_per_second: int = 100
    open_pow_bits: int = OPEN_REQUEST_POW_BITS
    unpaid: UnpaidWork = field(default_factory=UnpaidWork)
    awaited: list[AwaitSession] = field(default_factory=list)
    answered_on: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = ReceptionSettings(
            endpoints=("ws://203.0.113.7:7780",),
            requests_per_second=50,
            open_requests_per_second=self.open_requests_per_second,
            open_pow_bits=self.open_pow_bits,
        )
        self.reception = Reception(
            settings,
            signer=self.key,
            verify=verify,
            is_curve_point=is_curve_point,
            entropy=Entropy(b"e" * 32),
            unpaid=self.unpaid,
        )
        self.reception.start(moment())

    def hear(self, event: VerifiedEvent, milliseconds: int = 0, relay_url: str = RELAYS[0]) -> list[VerifiedEvent]:
        """Answer what came over a relay."""
        self.reception.update({self.offer.event.id: self.offer}, self.load)
        arrived = RequestArrived(event, relay_url, SessionId("ab" * 32), EPHEMERAL.public_key)
        self.reception.receive(arrived, moment(milliseconds))
        answers = []
        for effect in self.reception.effects():
            if isinstance(effect, PublishAnswer):
                assert effect.relay_urls[0] == relay_url
                answers.append(effect.event)
                self.answered_on.append(effect.relay_urls)
            else:
                self.awaited.append(effect)
        return answers


def seller(
    secret: int,
    *,
    output_msat: int = 2_000,
    pow_bits: int = 0,
    open_requests_per_second: int = 100,
    open_pow_bits: int = OPEN_REQUEST_POW_BITS,
) -> Seller:
    key = KeyPair(bytes([secret]) * 32)
    return Seller(
        key,
        offer_of(key, output_msat, pow_bits),
        open_requests_per_second=open_requests_per_second,
        open_pow_bits=open_pow_bits,
    )


def selection_of(*sellers: Seller, budget_msat: int = 100_000, count: int = 3, maximum_pow_bits: int = 20) -> Selection:
    directory = Directory()
    for one in sellers:
        directory.apply(one.offer.event, RELAYS[0], NOW)
        status = Status(seq=NOW, state="up", labels={"main": LabelLoad(free=2, queue=0)})
        event = one.key.sign(build_status(status, one.key.public_key, NOW, Timestamp(NOW + 360)))
        directory.apply(event, RELAYS[0], NOW)
    request = BuyerRequest(
        model="tiny",
        job_type="chat",
        shape=SHAPE,
        budget_msat=AmountMsat(budget_msat),
        maximum_pow_bits=maximum_pow_bits,
    )
    return select(
        directory.candidates("tiny", "chat", NOW), request, seed=b"s" * 32, count=count, now=NOW, policy=CHEAPEST
    )


def opening_for(
    *sellers: Seller,
    way: Way = "directed",
    count: int = 3,
    wants_session: bool = True,
    maximum_pow_bits: int = 20,
) -> Opening:
    return Opening(
        selection_of(*sellers, count=count, maximum_pow_bits=maximum_pow_bits),
        signer=CLIENT,
        verify=verify,
        ephemeral_key=EPHEMERAL.public_key,
        relay_urls=RELAYS,
        entropy=Entropy(b"c" * 32),
        way=way,
        wants_session=wants_session,
    )


def converse(opening: Opening, *sellers: Seller) -> list[object]:
    """Let both sides talk until nobody has anything to say; returns what the opening wants besides publishing."""
    said: list[object] = []
    while effects := opening.effects():
        for effect in effects:
            if isinstance(effect, Mine):
                opening.receive(Mined(effect.draft, mine(effect.draft, effect.bits)), moment())
            if not isinstance(effect, Publish):
                said.append(effect)
                continue
            recipient = effect.event.tag_value("p")
            for one in sellers:
                if recipient in (None, one.key.public_key):
                    for answer in one.hear(effect.event):
                        opening.receive(EventArrived(answer), moment())
    return said


def agreed_in(said: list[object]) -> SessionAgreed:
    return next(effect for effect in said if isinstance(effect, SessionAgreed))
