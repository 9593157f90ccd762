"""A router's machine with a market of a few nodes before it, and a client that asks."""

from dataclasses import replace
from typing import Any

from relaymesh.machines.entropy import Entropy
from relaymesh.machines.reception_events import PublishAnswer
from relaymesh.machines.routing import Routing
from relaymesh.machines.routing_events import RankingAsked, RoutingEffect, RoutingInput, RoutingSettings
from relaymesh.market.directory import Directory
from relaymesh.market.ranking import buyer_request
from relaymesh.market.recomputation import Cited, SignedRanking
from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.proof_of_work import mine
from relaymesh.protocol.codec import (
    MarketMessage,
    build_offer,
    build_status,
    open_message,
    seal_message,
)
from relaymesh.protocol.offer import Offer
from relaymesh.protocol.open_request import build_open_request, read_open_request
from relaymesh.protocol.quote import ForwardedRequest
from relaymesh.protocol.ranking import Ranking
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.units import Instant, Moment, Timestamp
from tests.market.builders import NOW, open_request, prepay, row

ROUTER = KeyPair(b"\x71" * 32)
CLIENT = KeyPair(b"\x72" * 32)
RELAY = "ws://one.test"
WORK = 4
"""Bits of proof of work, few enough for a test to do."""
SETTINGS = RoutingSettings(open_pow_bits=WORK)


def moment(milliseconds: int = 0) -> Moment:
    """So long after the beginning."""
    return Moment(Instant(milliseconds * 1_000), NOW * 1_000 + milliseconds)


def node_key(number: int) -> KeyPair:
    """The key of node `number`."""
    return KeyPair(number.to_bytes(32))


def node_offer(number: int, *, minimum_msat: int | None = None, seq: int = NOW, **changes: Any) -> VerifiedEvent:
    """The 38770 of node `number`; the higher the number, the dearer."""
    key = node_key(number)
    price = minimum_msat if minimum_msat is not None else 1_000 * number
    fields: dict[str, Any] = {
        "seq": seq,
        "valid_until": NOW + 3_600,
        "ln_pubkey": "02" + "ab" * 32,
        "settlement": (prepay(),),
        "rows": (row(minimum_msat=price),),
        "relays": (RELAY,),
    }
    return key.sign(build_offer(Offer.model_validate({**fields, **changes}), "main", key.public_key, Timestamp(seq)))


def node_status(number: int, *, free: int = 1, seq: int = NOW) -> VerifiedEvent:
    """The 38771 of node `number`."""
    key = node_key(number)
    status = Status(seq=seq, state="up", labels={"main": LabelLoad(free=free, queue=0)})
    return key.sign(build_status(status, key.public_key, Timestamp(seq), Timestamp(seq + 360)))


def make_market(nodes: int = 4, *, busy: tuple[int, ...] = ()) -> Directory:
    """A directory of so many nodes, those named busy without a free place."""
    directory = Directory()
    for number in range(1, nodes + 1):
        for event in (node_offer(number), node_status(number, free=int(number not in busy))):
            assert directory.apply(event, RELAY, NOW)
    return directory


def call(key: KeyPair = CLIENT, *, bits: int = WORK, created_at: int = NOW, **changes: Any) -> VerifiedEvent:
    """A client's open request, with its work."""
    return key.sign(mine(build_open_request(open_request(**changes), key.public_key, Timestamp(created_at)), bits))


def carry(
    inner: VerifiedEvent | dict[str, Any],
    *,
    key: KeyPair = CLIENT,
    to: PublicKey = ROUTER.public_key,
    created_at: int = NOW,
    salt: bytes = b"s" * 64,
    **changes: Any,
) -> VerifiedEvent:
    """A 28770 that carries an open request on."""
    request = inner if isinstance(inner, dict) else inner.to_json()
    return seal(ForwardedRequest(request=request, **changes), key=key, to=to, created_at=created_at, salt=salt)


def seal(
    message: MarketMessage,
    *,
    key: KeyPair = CLIENT,
    to: PublicKey = ROUTER.public_key,
    created_at: int = NOW,
    salt: bytes = b"s" * 64,
) -> VerifiedEvent:
    """Any message, sealed and signed."""
    draft = seal_message(
        message,
        author=key.public_key,
        signer=key,
        recipient=to,
        answers=None,
        created_at=Timestamp(created_at),
        entropy=salt,
    )
    return key.sign(draft)


class Desk:
    """The machine and its market."""

    def __init__(self, market: Directory | None = None, settings: RoutingSettings = SETTINGS) -> None:
        self.market = market if market is not None else make_market()
        entropy = Entropy(b"\x73" * 32)
        self.routing = Routing(settings, self.market, signer=ROUTER, verify=verify, entropy=entropy)
        self.routing.start(moment())

    def tell(self, message: RoutingInput, milliseconds: int = 0) -> tuple[RoutingEffect, ...]:
        """Tell the machine something."""
        self.routing.receive(message, moment(milliseconds))
        return self.routing.effects()

    def ask(self, request: VerifiedEvent, milliseconds: int = 0, relay_url: str = RELAY) -> tuple[RoutingEffect, ...]:
        """Let the machine hear a request."""
        return self.tell(RankingAsked(request, relay_url), milliseconds)


def answers(effects: tuple[RoutingEffect, ...]) -> list[VerifiedEvent]:
    """The answers among what a machine wants done."""
    return [effect.event for effect in effects if isinstance(effect, PublishAnswer)]


def read(answer: VerifiedEvent, key: KeyPair = CLIENT) -> MarketMessage | Refusal:
    """What an answer says, to whom it is for."""
    return open_message(answer, key)


def rank_once(desk: Desk, inner: VerifiedEvent | None = None, **changes: Any) -> SignedRanking:
    """Ask for a ranking and read it."""
    inner = inner or call()
    [answer] = answers(desk.ask(carry(inner, **changes)))
    ranking = read(answer)
    assert isinstance(ranking, Ranking), ranking
    return SignedRanking(answer, ranking, buyer_request(read_open_request(inner), inner))


def cited_by(market: Directory) -> Cited:
    """Everything that is live in a market, as whoever fetched it by id would hold it."""
    offers = {offer.event.id: offer for offer in market.offers(NOW)}
    statuses = [market.status(offer.node, NOW) for offer in offers.values()]
    return Cited(offers, {status.event.id: status for status in statuses if status is not None})


def reseal(signed: SignedRanking, **changes: Any) -> SignedRanking:
    """The same ranking with something else in it, signed by the same router."""
    return replace(signed, ranking=Ranking.model_validate({**dict(signed.ranking), **changes}))
