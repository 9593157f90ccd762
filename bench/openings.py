"""How long it takes from nothing, and from an open session, to the first output; what a handshake costs."""

from functools import partial
from statistics import median as middle
from typing import Final

from bench.contract import Sample, Stopwatch, measure_calls
from bench.mesh import FREE, LoopbackMarket, gather, start_job, wanted_job
from relaymesh.machines.records import JobState
from relaymesh.market.bids import Way
from relaymesh.nostr.event import Event, UnsignedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.ports.runners import RunOutput, RunRequest
from relaymesh.roles.client_jobs import OpenSession
from relaymesh.units import Timestamp

WANTED: Final = wanted_job(FREE, "one two three", 16)
EVENTS_OF_AN_OPENING: Final = 4
SECRETS_OF_AN_OPENING: Final = 6


async def measure_cold(market: LoopbackMarket, openings: int, way: Way = "directed") -> Sample:
    """First request to first output, nothing open before: the median of so many, one after the other."""
    samples: list[Sample] = []
    selection = await market.choose(WANTED)
    for _ in range(openings):
        stopwatch = Stopwatch()
        session = await market.open_session(WANTED, selection, way)
        samples.append(await _first_output(session, stopwatch))
        await session.aclose()
    return _middle(samples)


async def measure_warm(market: LoopbackMarket, jobs: int) -> Sample:
    """JOB to first output in an open session, less what the runner takes by itself: the median of so many."""
    session = await market.open_session(WANTED)
    await market.dialer.wait_open()
    ours = [await _first_output(session, Stopwatch()) for _ in range(jobs)]
    await session.aclose()
    alone = [await _first_output_of_runner(market) for _ in range(jobs)]
    mine, its = _middle(ours), _middle(alone)
    return Sample(mine.wall_us - its.wall_us, mine.cpu_us - its.cpu_us)


async def measure_handshake(market: LoopbackMarket, openings: int) -> Sample:
    """Quote request to open connection, both sides; what ends the sessions afterwards does not count."""
    selection = await market.choose(WANTED)
    sessions: list[OpenSession] = []
    stopwatch = Stopwatch()
    for _ in range(openings):
        sessions.append(await market.open_session(WANTED, selection))
        await market.dialer.wait_open()
    sample = stopwatch.stop(openings)
    for session in sessions:
        await session.aclose()
    return sample


async def count_lost(market: LoopbackMarket, jobs: int) -> tuple[int, Sample]:
    """So many jobs at once in one session: how many of them did not bring their own text back, signed for."""
    session = await market.open_session(WANTED)
    await market.dialer.wait_open()
    lost = 0

    async def run(number: int) -> None:
        nonlocal lost
        prompt = f"job {number} says {number * number}"
        async with start_job(session, wanted_job(FREE, prompt, 16)) as job:
            text = "".join([piece async for piece in job.outputs()])
            outcome = await job.wait_outcome()
        lost += outcome.state is not JobState.DONE or not outcome.is_verified or text != prompt

    stopwatch = Stopwatch()
    await gather([partial(run, number) for number in range(jobs)])
    sample = stopwatch.stop(jobs)
    await session.aclose()
    return lost, sample


def measure_cryptography(calls: int) -> Sample:
    """What libsecp256k1 alone takes for one opening: keys made, events signed and verified, secrets shared."""
    peer = KeyPair.generate()

    def opening() -> None:
        key, ephemeral, theirs = KeyPair.generate(), KeyPair.generate(), KeyPair.generate()
        for kind in range(EVENTS_OF_AN_OPENING):
            signed = key.sign(UnsignedEvent(key.public_key, Timestamp(1), 28_770 + kind, (), "x" * 1_000))
            verify(_unverified(signed))
        for _ in range(SECRETS_OF_AN_OPENING // 2):
            ephemeral.shared_secret(peer.public_key)
            theirs.shared_secret(key.public_key)

    return measure_calls(opening, calls)


def _unverified(event: Event) -> Event:
    return Event(event.public_key, event.created_at, event.kind, event.tags, event.content, event.id, event.signature)


async def _first_output(session: OpenSession, stopwatch: Stopwatch) -> Sample:
    async with start_job(session, WANTED) as job:
        outputs = job.outputs()
        await anext(outputs)
        sample = stopwatch.stop()
        async for _ in outputs:
            pass
        outcome = await job.wait_outcome()
    assert outcome.state is JobState.DONE, f"the job must be done: {outcome.refusal}"
    return sample


async def _first_output_of_runner(market: LoopbackMarket) -> Sample:
    request = RunRequest(FREE, "chat", WANTED.body, WANTED.output_tokens)
    stopwatch = Stopwatch()
    await market.runner.count_input_tokens(request)
    async with market.runner.run(request) as items:
        assert isinstance(await anext(items), RunOutput)
        return stopwatch.stop()


def _middle(samples: list[Sample]) -> Sample:
    return Sample(middle(sample.wall_us for sample in samples), middle(sample.cpu_us for sample in samples))
