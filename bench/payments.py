"""Jobs that are paid for over a simulated Lightning network with a latency of its own, and when their output came.

The network runs in a process of its own and is spoken to as Core Lightning is, so that invoices are real and are
decoded, while what the network itself computes counts as nobody's CPU time.
"""

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

from bench.contract import MICROSECONDS, MILLISECONDS
from bench.mesh import BUDGET, LoopbackMarket, Trade, open_market, start_process, wanted_job
from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.adapters.invoices import decode_invoice_on_loop
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.records import JobState
from relaymesh.market.pricing import TranchePlan
from relaymesh.ports.lightning import Transaction, TransactionState
from relaymesh.ports.memory_runner import MemoryRunner, RunScript
from relaymesh.ports.runners import RunOutput, RunRequest
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.roles.buying import Wanted
from relaymesh.roles.client_jobs import OpenSession

SMALL: Final = "small"
"""A model that says a few words at once, in one piece."""
READING: Final = "reading"
"""A model that makes 50 pieces a second, as fast as one reads."""

PIECE_BYTES: Final = 8
SMALL_BYTES: Final = 128
SMALL_TEXT: Final = "seven77 " * (SMALL_BYTES // PIECE_BYTES)
PACE_MS: Final = 20
TRANCHE_PIECES: Final = 50
"""A tranche lasts a second: its last quarter is longer than a payment takes."""
MSAT_PER_1000_BYTES: Final = 10_000
WEALTH_MSAT: Final = 10_000_000_000
HOPS: Final = 2
MOST_PAYMENTS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one job: when each piece came, in seconds from the JOB on, and how it ended."""

    pieces: tuple[tuple[float, int], ...]
    outcome: JobEnded

    @property
    def last_ms(self) -> float:
        """From JOB to the last piece."""
        return self.pieces[-1][0] * MILLISECONDS


def find_stalls_ms(
    pieces: Sequence[tuple[float, int]], tranche_bytes: int, pace_ms: int
) -> tuple[list[float], list[float]]:
    """How much later than its runner made it each piece came: the first of each tranche, and all others.

    Args:
        pieces: When each came, in seconds, and its bytes; several of the runner's may have come as one.
        tranche_bytes: The size of a tranche.
        pace_ms: How long the runner takes for a piece.
    """
    across: list[float] = []
    within: list[float] = []
    delivered = pieces[0][1]
    for (before, _), (now, size) in pairwise(pieces):
        is_first = (delivered - 1) // tranche_bytes != (delivered + size - 1) // tranche_bytes
        late_ms = (now - before) * MILLISECONDS - pace_ms * size / PIECE_BYTES
        (across if is_first else within).append(max(late_ms, 0))
        delivered += size
    return across, within


@asynccontextmanager
async def open_paid_market(
    directory: Path, url: str, term: SettlementTerm, latency_ms: int, pieces: int, jobs: int, pace_ms: int = PACE_MS
) -> AsyncIterator["PaidMarket"]:
    """A market whose node settles by this term alone, over payments that take so long."""
    scripts = {
        SMALL: RunScript(pieces=(SMALL_TEXT,)),
        READING: RunScript(pieces=_pieces(pieces), pace_ms=pace_ms),
    }
    with TemporaryDirectory(prefix="rm-ln-") as sockets:  # a socket's path must be short
        arguments = ["-m", "relaymesh.lightning_sim", "--directory", sockets, "--inbound-msat", str(WEALTH_MSAT)]
        arguments += ["--wallet", "node=1", "--wallet", f"client={WEALTH_MSAT}"]
        arguments += ["--payment-latency-ms", str(latency_ms // HOPS)]
        async with start_process(arguments) as (_, facts):
            wallets = facts["wallets"]
            payee, payer = (CoreLightningWallet(wallets[name]["rpc_path"]) for name in ("node", "client"))
            trade = Trade(
                (term,), payee, wallets["node"]["public_key"], payer, decode_invoice_on_loop, MSAT_PER_1000_BYTES
            )
            async with open_market(directory, url, scripts, maximum_jobs=jobs, trade=trade) as market:
                yield PaidMarket(market, payer)


@dataclass(frozen=True, slots=True)
class PaidMarket:
    """A market, and the wallet that its client pays from."""

    market: LoopbackMarket
    payer: CoreLightningWallet

    async def payments(self) -> list[Transaction]:
        """All that were made so far."""
        made = await self.payer.transactions(MOST_PAYMENTS)
        return [each for each in made if each.state is TransactionState.SETTLED]


def paid_job(model: str, pieces: int, term: SettlementTerm) -> Wanted:
    """A job of so many pieces, under this form of settlement."""
    assert term.form is not None
    wanted = wanted_job(model, "go", pieces)
    return replace(wanted, settlement=term.form, is_streamed=True, has_credit=term.order == "postpay")


async def run_job(session: OpenSession, wanted: Wanted, output_bytes: int) -> Run:
    """One job in an open session, to its end."""
    order = replace(wanted.to_order(session.contract.quote.row, BUDGET), output_units=output_bytes)
    plan = session.price(order)
    assert isinstance(plan, TranchePlan), f"the job does not fit: {plan}"
    began = time.perf_counter()
    async with session.start_job(order, plan) as job:
        pieces = [(time.perf_counter() - began, len(piece.encode())) async for piece in job.outputs()]
        outcome = await job.wait_outcome()
    assert outcome.state is JobState.DONE, f"the job must be done: {outcome.refusal}"
    assert sum(size for _, size in pieces) == output_bytes, "the whole output must arrive"
    return Run(tuple(pieces), outcome)


async def run_alone(runner: MemoryRunner, model: str, pieces: int) -> tuple[float, ...]:
    """The same of the runner by itself: when each piece came, in seconds."""
    body = json.dumps({"messages": [{"role": "user", "content": "go"}]})
    began = time.perf_counter()
    request = RunRequest(model, "chat", body, pieces)
    await runner.count_input_tokens(request)
    async with runner.run(request) as items:
        return tuple([time.perf_counter() - began async for item in items if isinstance(item, RunOutput)])


@contextmanager
def paying_late() -> Iterator[None]:
    """To compare with: the next tranche is asked for when the one before is used up."""
    with patch.object(TranchePlan, "units_ahead", _units_behind):
        yield


def _units_behind(plan: TranchePlan, index: int) -> int:
    return plan.units_through(index - 1) if index else 0


def cpu_us() -> float:
    """CPU time of this process so far, all threads, in microseconds."""
    return time.process_time() * MICROSECONDS


def _pieces(count: int) -> tuple[str, ...]:
    return tuple(f"{number % 1_000_000:>{PIECE_BYTES - 1}} " for number in range(count))
