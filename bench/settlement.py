"""What being paid costs a job: in latency, payments, fees and CPU time: `python -m bench.settlement --json`.

Added latency is the time from JOB to the last piece of output, less what the runner takes by itself. The Lightning
network is simulated and takes as long as a figure's name says (`_500`, `_3000`; 50 ms where it says nothing, 150 ms for
the stalls), there and back: a payee has its money, and a node begins, after half of that. What a job costs that has
nothing to pay, and what a flush to the disk takes, which comes before everything that leaves, stand beside.
"""

import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contract import MILLISECONDS, Figure, median, run_benchmark
from bench.mesh import FREE, LoopbackMarket, gather, start_job, start_relay, wanted_job
from bench.payments import (
    PACE_MS,
    PIECE_BYTES,
    READING,
    SMALL,
    SMALL_BYTES,
    SMALL_TEXT,
    TRANCHE_PIECES,
    PaidMarket,
    Run,
    cpu_us,
    find_stalls_ms,
    open_paid_market,
    paid_job,
    paying_late,
    run_alone,
    run_job,
)
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.buying import Wanted
from relaymesh.roles.client_jobs import OpenSession

LATENCIES_MS = (50, 500, 3_000)
STALL_LATENCY_MS = 150
FLUSHES = 20
TRANCHE_BYTES = TRANCHE_PIECES * PIECE_BYTES
WHOLE = SettlementTerm(order="prepay")
SEALED = SettlementTerm(order="sealed")
POSTPAY = SettlementTerm(order="postpay")
TRANCHES = SettlementTerm(order="prepay", tranche_units=TRANCHE_BYTES)
SESSION = SettlementTerm(order="prepay", scope="session", tranche_units=200_000)
"""A tranche of a session pays for some hundred of the small jobs."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured in each run; the figures' goals are meant for the defaults."""

    jobs: int = 20
    slow_jobs: int = 4
    streams: int = 4
    stream_tranches: int = 6
    pace_ms: int = PACE_MS
    latencies_ms: tuple[int, ...] = LATENCIES_MS


async def measure(runs: int, scale: Scale | None = None) -> list[Figure]:
    """Every figure, over so many runs."""
    scale = scale or Scale()
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="relaymesh-bench-")))
        url = await stack.enter_async_context(start_relay(folder))
        for latency_ms in scale.latencies_ms:
            for name, term in (("prepay", WHOLE), ("sealed", SEALED), ("postpay", POSTPAY)):
                figures += await measure_form(folder, url, name, term, latency_ms, runs, scale)
        figures += await measure_session(folder, url, runs, scale)
        figures += await measure_stalls(folder, url, runs, scale)
    return figures


async def measure_form(
    folder: Path, url: str, name: str, term: SettlementTerm, latency_ms: int, runs: int, scale: Scale
) -> list[Figure]:
    """Small jobs paid one by one: added latency, and at the shortest latency what a payment costs besides."""
    is_first = latency_ms == scale.latencies_ms[0]
    added: list[float] = []
    costs: list[float] = []
    alone: list[float] = []
    jobs: list[Run] = []
    directory = _new_folder(folder, f"{name}-{latency_ms}")
    async with open_paid_market(directory, url, term, latency_ms, 1, scale.jobs) as paid:
        market = paid.market
        for _ in range(runs):
            alone += await _alone_ms(market, scale.jobs)
            before = cpu_us()
            run = await _run_small(market, term, scale.jobs if is_first else scale.slow_jobs, in_turn=is_first)
            paid_cpu_us = (cpu_us() - before) / len(run)
            jobs += run
            added += [each.last_ms - median(alone) for each in run]
            if is_first:
                costs.append(paid_cpu_us - (await _run_free(market, term, scale.jobs))[1])
        economics = await _economics(name, paid, len(jobs))
    suffix = "" if is_first else f"_{latency_ms}"
    figures = [
        Figure(f"{name}_added{suffix}_p50_ms", median(added), "ms"),
        Figure(f"{name}_added{suffix}_p99_ms", _p99(added), "ms"),
    ]
    if is_first:
        figures += economics
        if name == "prepay":
            figures.append(Figure("payment_cpu_us", median(costs), "us", None, "lower", median(costs)))
            figures.append(Figure("baseline_runner_p50_ms", median(alone), "ms"))
    return figures


async def measure_session(folder: Path, url: str, runs: int, scale: Scale) -> list[Figure]:
    """Small jobs in a session whose tranche is paid."""
    added: list[float] = []
    free: list[float] = []
    flushes: list[float] = []
    jobs: list[Run] = []
    directory = _new_folder(folder, "session")
    async with open_paid_market(directory, url, SESSION, LATENCIES_MS[0], 1, scale.jobs) as paid:
        market = paid.market
        for _ in range(runs):
            alone = await _alone_ms(market, scale.jobs)
            run = await _run_small(market, SESSION, scale.jobs + 1, in_turn=True)
            jobs += run
            added += [each.last_ms - median(alone) for each in run[1:]]  # the first one waits for the payment
            free += [each - median(alone) for each in (await _run_free(market, SESSION, scale.jobs))[0]]
            flushes += _flush_ms(directory)
        economics = await _economics("session", paid, len(jobs))
    return [
        Figure("session_tranche_added_p50_ms", median(added), "ms", 2),
        Figure("session_tranche_added_p99_ms", _p99(added), "ms"),
        Figure("baseline_free_job_added_p50_ms", median(free), "ms"),
        Figure("baseline_flush_p50_ms", median(flushes), "ms"),
        *economics,
    ]


async def measure_stalls(folder: Path, url: str, runs: int, scale: Scale) -> list[Figure]:
    """Streams at reading speed that are paid tranche by tranche: what a tranche's end costs the reader."""
    figures: list[Figure] = []
    directory = _new_folder(folder, "stalls")
    pieces = TRANCHE_PIECES * scale.stream_tranches
    latency_ms, pace_ms = STALL_LATENCY_MS, scale.pace_ms
    async with open_paid_market(directory, url, TRANCHES, latency_ms, pieces, scale.streams, pace_ms) as paid:
        for name, goal in (("tranche_stall", 20), ("baseline_tranche_stall_paid_late", None)):
            across: list[float] = []
            within: list[float] = []
            jobs: list[Run] = []
            with paying_late() if goal is None else nullcontext():
                for _ in range(runs if goal is not None else 1):
                    jobs += await _run_streams(paid.market, pieces, scale.streams)
            for job in jobs:
                first, others = find_stalls_ms(job.pieces, TRANCHE_BYTES, pace_ms)
                across, within = across + first, within + others
            figures.append(Figure(f"{name}_p50_ms", median(across), "ms"))
            figures.append(Figure(f"{name}_p99_ms", _p99(across), "ms", goal))
            if goal is not None:
                figures.append(Figure("baseline_piece_delay_p99_ms", _p99(within), "ms"))
                figures += await _economics("tranches", paid, len(jobs))
    return figures


async def _economics(name: str, paid: PaidMarket, jobs: int) -> list[Figure]:
    """Payments for each job, and what routing them cost for a million msat, as the payer's wallet says."""
    payments = await paid.payments()
    paid_msat, fees_msat = sum(each.amount_msat for each in payments), sum(each.fee_msat for each in payments)
    return [
        Figure(f"{name}_payments_per_job", round(len(payments) / jobs, 3), "payments"),
        Figure(f"{name}_fees_ppm", round(fees_msat * 1_000_000 / max(paid_msat, 1), 1), "ppm"),
    ]


async def _run_small(market: LoopbackMarket, term: SettlementTerm, jobs: int, *, in_turn: bool) -> list[Run]:
    """So many small jobs in one session, one after the other or, where payments are slow, at the same time."""
    wanted = paid_job(SMALL, SMALL_BYTES // PIECE_BYTES, term)
    session = await market.open_session(wanted)
    await market.dialer.wait_open()
    runs: list[Run] = []

    async def run() -> None:
        runs.append(await run_job(session, wanted, SMALL_BYTES))

    if in_turn:
        for _ in range(jobs):
            await run()
    else:
        await gather([run] * jobs)
    await session.aclose()
    return runs


async def _run_streams(market: LoopbackMarket, pieces: int, streams: int) -> list[Run]:
    wanted = paid_job(READING, pieces, TRANCHES)
    session = await market.open_session(wanted)
    await market.dialer.wait_open()
    runs: list[Run] = []

    async def run() -> None:
        runs.append(await run_job(session, wanted, pieces * PIECE_BYTES))

    await gather([run] * streams)
    await session.aclose()
    return runs


async def _alone_ms(market: LoopbackMarket, jobs: int) -> list[float]:
    return [(await run_alone(market.runner, SMALL, 1))[-1] * MILLISECONDS for _ in range(jobs)]


async def _run_free(market: LoopbackMarket, term: SettlementTerm, jobs: int) -> tuple[list[float], float]:
    """Jobs of the same size with nothing to pay: when their output came, in ms, and what each cost in CPU time."""
    wanted = replace(paid_job(FREE, SMALL_BYTES, term), body=wanted_job(FREE, SMALL_TEXT, 1).body)
    session = await market.open_session(wanted)
    await market.dialer.wait_open()
    before = cpu_us()
    last_ms = [await _free_ms(session, wanted) for _ in range(jobs)]
    spent_us = cpu_us() - before
    await session.aclose()
    return last_ms, spent_us / jobs


async def _free_ms(session: OpenSession, wanted: Wanted) -> float:
    began = time.perf_counter()
    async with start_job(session, wanted) as job:
        first_ms = min([(time.perf_counter() - began) * MILLISECONDS async for _ in job.outputs()])
        await job.wait_outcome()
    return first_ms


def _flush_ms(folder: Path) -> list[float]:
    """What it takes to have a page on the disk: nothing leaves either side before what it means is in its ledger."""

    def flush() -> float:
        began = time.perf_counter()
        file.write(bytes(4_096))
        file.flush()
        os.fsync(file.fileno())
        return (time.perf_counter() - began) * MILLISECONDS

    with (folder / "flushed").open("wb") as file:
        return [flush() for _ in range(FLUSHES)]


def _p99(values: Sequence[float]) -> float:
    """The 99th of a hundred, by size."""
    return round(sorted(values)[max(-(-len(values) * 99 // 100) - 1, 0)], 3)


def _new_folder(folder: Path, name: str) -> Path:
    directory = folder / name
    directory.mkdir()
    return directory


if __name__ == "__main__":
    run_benchmark("settlement", measure)
