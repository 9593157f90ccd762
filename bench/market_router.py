"""What a router's answer costs at 1,000 nodes and 500 requests a second, with real signatures and real sealing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.contract import MICROSECONDS, Figure, Sample, Stopwatch, cpu_figure, measure_calls
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.reception_events import PublishAnswer
from relaymesh.machines.routing import Routing
from relaymesh.machines.routing_events import RankingAsked, RoutingEffect, RoutingSettings
from relaymesh.market.directory import Directory
from relaymesh.market.policy import BALANCED
from relaymesh.market.ranking import Ranker, buyer_request
from relaymesh.nostr.event import Event, EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.citation import build_citation
from relaymesh.protocol.codec import MarketMessage, build_offer, build_status, open_message, seal_message
from relaymesh.protocol.offer import Offer, PriceRow, SettlementTerm
from relaymesh.protocol.open_request import build_open_request, read_open_request
from relaymesh.protocol.quote import ForwardedRequest, JobShape, OpenRequest
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.units import AmountMsat, Instant, Moment, Timestamp

NODES: Final = 1_000
REQUESTS_PER_SECOND: Final = 500
HEARTBEAT_SECONDS: Final = 120
START: Final = Timestamp(1_800_000_000)
GOAL_US: Final = 2_000
MODEL: Final = "tiny"
ROUTER: Final = KeyPair(b"\x11" * 32)
_SETTINGS: Final = RoutingSettings(open_pow_bits=0, requests_per_second=10 * REQUESTS_PER_SECOND)
"""Checking proof of work costs a router nothing; making it would cost this benchmark minutes."""


def measure_router(runs: int, requests: int = REQUESTS_PER_SECOND, nodes: int = NODES) -> list[Figure]:
    """The cost of one directed request, whole and in parts: each figure the median of so many runs."""
    keys = [KeyPair.generate() for _ in range(nodes)]
    market = _make_market(keys)
    whole: list[Sample] = []
    parts: dict[str, list[Sample]] = {name: [] for name in _PARTS}
    cited: set[EventId] = set()
    for run in range(runs + 1):
        asked = _make_requests(requests)
        sample = _serve(market, keys, asked, run, cited)
        for name, part in _PARTS.items():
            parts[name].append(measure_calls(part(market, asked), min(requests, 200)))
        whole.append(sample)
    figures = [cpu_figure("router_request_cpu_us", whole[1:], GOAL_US)]  # the first run only fills the caches
    figures += [cpu_figure(f"router_{name}_cpu_us", samples[1:]) for name, samples in parts.items()]
    per_second = MICROSECONDS / max(figures[0].value, 1)
    figures.append(Figure("router_requests_per_core_second", round(per_second), "1/s", REQUESTS_PER_SECOND, "higher"))
    return figures


@dataclass(frozen=True, slots=True)
class _Asked:
    """One client's request, as it comes off the wire."""

    client: KeyPair
    inner: VerifiedEvent
    event: Event


def _serve(market: Directory, keys: list[KeyPair], asked: list[_Asked], run: int, cited: set[EventId]) -> Sample:
    """A second of requests, with the heartbeats that come in it: verify, answer, pass on, cite what is new."""
    routing = Routing(_SETTINGS, market, signer=ROUTER, verify=verify, entropy=Entropy(bytes([run]) * 32))
    routing.start(_moment(0))
    beats = [_status(key, START + 1 + run) for key in keys[: -(-len(keys) // HEARTBEAT_SECONDS)]]
    stopwatch = Stopwatch()
    for number, each in enumerate(asked):
        now = _moment(number * MICROSECONDS // REQUESTS_PER_SECOND)
        if beats and number % (len(asked) // len(beats) or 1) == 0:
            market.apply(verify(_unverified(beats.pop())), "ws://one.test", now.timestamp)
        routing.receive(RankingAsked(verify(each.event), "ws://one.test"), now)
        _carry_out(routing.effects(), cited, now)
    sample = stopwatch.stop(len(asked))
    assert len(cited) >= 2, "a ranking must cite something"
    return sample


def _carry_out(effects: tuple[RoutingEffect, ...], cited: set[EventId], now: Moment) -> None:
    """What the role does besides sending: each event that is cited is signed for once a day."""
    assert any(isinstance(effect, PublishAnswer) for effect in effects)
    for effect in effects:
        for event in getattr(effect, "events", ()):
            if event.id not in cited:
                cited.add(event.id)
                ROUTER.sign(build_citation(event, ROUTER.public_key, now.timestamp))


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _verify_part(market: Directory, asked: list[_Asked]) -> Callable[[], object]:
    """Both signatures: of the request, and of the open request inside."""
    requests = _repeat(asked)

    def part() -> None:
        each = next(requests)
        verify(each.event)
        verify(_unverified(each.inner))

    return part


def _open_part(market: Directory, asked: list[_Asked]) -> Callable[[], object]:
    requests = _repeat([(_Asked(each.client, each.inner, verify(each.event))) for each in asked])
    router = KeyPair(b"\x11" * 32)  # knows none of the clients yet

    def part() -> None:
        event = next(requests).event
        assert isinstance(event, VerifiedEvent)
        message = open_message(event, router)
        assert isinstance(message, ForwardedRequest)

    return part


def _rank_part(market: Directory, asked: list[_Asked]) -> Callable[[], object]:
    requests, ranker = _repeat(asked), Ranker(market, ROUTER.public_key)

    def part() -> None:
        each = next(requests)
        wanted = buyer_request(read_open_request(each.inner), each.inner)
        ranker.rank(wanted, each.event.id, policy=BALANCED, asks=3, now=START)

    return part


def _seal_part(market: Directory, asked: list[_Asked]) -> Callable[[], object]:
    """The ranking to the client, and the request to three nodes: sealed and signed."""
    requests, ranker = _repeat(asked), Ranker(market, ROUTER.public_key)
    wanted = buyer_request(read_open_request(asked[0].inner), asked[0].inner)
    ranked = ranker.rank(wanted, asked[0].event.id, policy=BALANCED, asks=3, now=START)
    nodes = [choice.candidate.offer.node for choice in ranked.asked]

    def part() -> None:
        each = next(requests)
        carrier = ForwardedRequest(request=each.inner.to_json(), asks=0)
        letters: list[tuple[MarketMessage, PublicKey]] = [(ranked.ranking, each.client.public_key)]
        letters += [(carrier, node) for node in nodes]
        for message, recipient in letters:
            draft = seal_message(
                message,
                author=ROUTER.public_key,
                signer=ROUTER,
                recipient=recipient,
                answers=None,
                created_at=START,
                entropy=bytes(64),
            )
            ROUTER.sign(draft)

    return part


_PARTS: Final[dict[str, Callable[[Directory, list[_Asked]], Callable[[], object]]]] = {
    "verify": _verify_part,
    "open": _open_part,
    "rank": _rank_part,
    "seal_and_sign": _seal_part,
}


# ── a market, and those who ask ───────────────────────────────────────────────────────────────────────────────────


def _moment(microseconds: int) -> Moment:
    return Moment(Instant(microseconds), START * 1_000 + microseconds // 1_000)


def _make_market(keys: list[KeyPair]) -> Directory:
    market = Directory()
    for number, key in enumerate(keys):
        offer = key.sign(build_offer(_offer(number), "main", key.public_key, START))
        for event in (offer, _status(key, START)):
            assert market.apply(event, "ws://one.test", START)
    return market


def _offer(number: int) -> Offer:
    row = PriceRow(
        model=MODEL,
        job_types=("chat",),
        unit="byte",
        per=1_000,
        input_msat=AmountMsat(20 + number % 7),
        output_msat=AmountMsat(200 + number % 97),
        minimum_msat=AmountMsat(1_000),
        context_limit=8_192,
        output_limit=4_096,
        capabilities=("stream",),
    )
    return Offer(
        seq=START,
        valid_until=Timestamp(START + 3_600),
        ln_pubkey="02" + "ab" * 32,
        relays=("ws://one.test",),
        settlement=(SettlementTerm(order="prepay", tranche_units=1_024),),
        rows=(row,),
    )


def _status(key: KeyPair, at: int) -> VerifiedEvent:
    status = Status(seq=at, state="up", labels={"main": LabelLoad(free=2, queue=0)})
    return key.sign(build_status(status, key.public_key, Timestamp(at), Timestamp(at + 360)))


def _make_requests(count: int) -> list[_Asked]:
    """So many clients, each with a key of its own, as every session has one."""
    shape = JobShape(input_tokens=200, input_bytes=600, output_tokens=256, output_bytes=2_048)
    wanted = OpenRequest(
        model=MODEL,
        job_type="chat",
        shape=shape,
        capabilities=("stream",),
        budget_msat=AmountMsat(100_000),
        settlement=("prepay",),
        relays=("ws://one.test",),
    )
    asked = []
    for number in range(count):
        client = KeyPair.generate()
        inner = client.sign(build_open_request(wanted, client.public_key, START))
        draft = seal_message(
            ForwardedRequest(request=inner.to_json()),
            author=client.public_key,
            signer=client,
            recipient=ROUTER.public_key,
            answers=None,
            created_at=START,
            entropy=number.to_bytes(64),
        )
        asked.append(_Asked(client, inner, _unverified(client.sign(draft))))
    return asked


def _unverified(event: Event) -> Event:
    return Event(event.public_key, event.created_at, event.kind, event.tags, event.content, event.id, event.signature)


def _repeat(asked: list[_Asked]) -> Iterator[_Asked]:
    while True:
        yield from asked
