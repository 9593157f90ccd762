"""What a choice costs: among a thousand and among ten thousand eligible nodes, told in full, and by the reference.

All nodes are eligible, with prices, loads and standings of their own. Every choice has another seed. What is explained
is half eligible and half not, from the choice to the JSON. The reference examines and scores one price after the other;
it chooses the same.
"""

import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Final

import orjson

from bench.contract import MICROSECONDS, MILLISECONDS, Figure, Sample, Stopwatch, median, median_cpu
from relaymesh.market.candidate import Candidate
from relaymesh.market.columns import MarketColumns
from relaymesh.market.explanation import explain
from relaymesh.market.policy import BALANCED
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import select
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.protocol.codec import SignedOffer, SignedStatus, build_offer, build_status, read_offer, read_status
from relaymesh.protocol.offer import Offer, PriceRow, SettlementTerm
from relaymesh.protocol.quote import JobShape
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.units import AmountMsat, Timestamp

NOW: Final = Timestamp(1_800_000_000)
MODEL: Final = "llama-3.1-8b-instruct"
SHAPE: Final = JobShape(input_tokens=100, input_bytes=450, output_tokens=400, output_bytes=1_800)
LIKELY: Final = JobShape(input_tokens=100, input_bytes=450, output_tokens=200, output_bytes=800)
REQUEST: Final = BuyerRequest(MODEL, "chat", SHAPE, AmountMsat(100_000), capabilities=("stream",), estimate=LIKELY)
HALF: Final = BuyerRequest(MODEL, "chat", SHAPE, AmountMsat(1_500), capabilities=("stream",), estimate=LIKELY)
CHOSEN: Final = 3


class _Market:
    """Columns, and the same as candidates."""

    def __init__(self, nodes: int) -> None:
        chance = Random(nodes)
        self._events: dict[EventId, tuple[SignedOffer, SignedStatus]] = {}
        self.columns = MarketColumns(MODEL, "chat", self._events.__getitem__)
        self.standings: dict[PublicKey, Standing] = {}
        self.candidates: list[Candidate] = []
        for number in range(1, nodes + 1):
            offer, status, standing = _node(number, chance)
            self._events[offer.event.id] = (offer, status)
            self.standings[offer.node] = standing
            self.candidates.append(Candidate(offer, offer.offer.rows[0], status))
            self.columns.place(offer, status, standing)

    def choose(self, seed: bytes) -> object:
        selection = self.columns.select(REQUEST, seed=seed, count=CHOSEN, now=NOW, policy=BALANCED)
        assert selection.eligible_count == len(self.columns)
        return selection

    def choose_by_reference(self, seed: bytes) -> object:
        return select(
            self.candidates, REQUEST, seed=seed, count=CHOSEN, now=NOW, policy=BALANCED, standings=self.standings
        )

    def explain(self, seed: bytes) -> object:
        selection = self.columns.select(HALF, seed=seed, count=CHOSEN, now=NOW, policy=BALANCED)
        return orjson.dumps(explain(selection).to_json())


def measure_scheduler(runs: int, nodes: int = 10_000, choices: int = 200) -> list[Figure]:
    """Every figure of the scheduler, among so many nodes and among a tenth of them."""
    large, small = _Market(nodes), _Market(nodes // 10)
    tenth = nodes // 10
    _check_agreement(small)
    return [
        _figure(f"select_{tenth}_p50_us", [_measure(small.choose, choices) for _ in range(runs)], 200, "us"),
        _figure(f"select_{nodes}_p50_us", [_measure(large.choose, choices) for _ in range(runs)], 1_000, "us"),
        _figure(f"explain_{nodes}_ms", [_measure(large.explain, 3) for _ in range(runs)], 100, "ms"),
        _figure(
            f"baseline_reference_{tenth}_p50_us",
            [_measure(small.choose_by_reference, max(1, choices // 50)) for _ in range(runs)],
            None,
            "us",
        ),
        _figure(
            f"baseline_reference_{nodes}_p50_us",
            [_measure(large.choose_by_reference, 1) for _ in range(runs)],
            None,
            "us",
        ),
    ]


def _check_agreement(market: _Market) -> None:
    for number in range(3):
        seed = number.to_bytes(32)
        assert market.choose(seed) == market.choose_by_reference(seed), "the fast choice is the reference's"


def _measure(choose: Callable[[bytes], object], times: int) -> Sample:
    """The median of so many single calls, each with a seed of its own."""
    single: list[float] = []
    stopwatch = Stopwatch()
    for number in range(times):
        seed = number.to_bytes(32)
        began = time.perf_counter()
        choose(seed)
        single.append((time.perf_counter() - began) * MICROSECONDS)
    return Sample(statistics.median(single), stopwatch.stop(times).cpu_us)


def _figure(name: str, samples: list[Sample], goal: float | None, unit: str) -> Figure:
    scale = MILLISECONDS if unit == "ms" else 1
    value = median([sample.wall_us / scale for sample in samples])
    return Figure(name, value, unit, goal, "lower", median_cpu(samples))


def _node(number: int, chance: Random) -> tuple[SignedOffer, SignedStatus, Standing]:
    author = PublicKey(number.to_bytes(32).hex())
    row = PriceRow(
        model=MODEL,
        job_types=("chat",),
        unit=("token", "byte")[number % 2],
        per=1_000,
        input_msat=AmountMsat(chance.randrange(20, 60)),
        output_msat=AmountMsat(chance.randrange(80, 160)),
        minimum_msat=AmountMsat(chance.randrange(1_000, 2_000)),
        context_limit=131_072,
        output_limit=4_096,
        capabilities=("stream", "tools", "json"),
    )
    offer = Offer(
        seq=NOW,
        valid_until=Timestamp(NOW + 3_600),
        ln_pubkey="02" + "ab" * 32,
        settlement=(SettlementTerm(order="prepay"),),
        rows=(row,),
    )
    load = LabelLoad(free=chance.randrange(1, 9), queue=chance.randrange(3))
    status = Status(seq=NOW, state="up", labels={"main": load})
    standing = Standing(
        successes_milli=chance.randrange(50_000),
        failures_milli=chance.randrange(2_000),
        first_output_ms=chance.randrange(200, 2_000),
        output_units_per_1000s=chance.randrange(10_000, 80_000),
        trust_milli=chance.randrange(1_000),
        stake_units=chance.randrange(10_000),
    )
    signed_offer = read_offer(_sign(build_offer(offer, "main", author, NOW)))
    return signed_offer, read_status(_sign(build_status(status, author, NOW, Timestamp(NOW + 360)))), standing


def _sign(event: UnsignedEvent) -> VerifiedEvent:
    """The event as if its signature had been checked: no choice looks at one."""
    return VerifiedEvent(
        event.public_key, event.created_at, event.kind, event.tags, event.content, event.compute_id(), "00" * 64
    )
