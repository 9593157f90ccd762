"""The ledger in SQLite does what the ledger in memory does, whatever is written, in any order, across restarts."""

import tempfile
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.errors import LedgerError
from relaymesh.machines.records import JobState, LedgerRecord, Side, TrancheState
from relaymesh.ports.ledger import JobQuery, Ledger
from relaymesh.ports.memory_ledger import MemoryLedger
from relaymesh.units import Timestamp
from tests.conformance.ledger.records import (
    BODY,
    CLIENT,
    OTHER_CLIENT,
    PREIMAGE,
    job_id,
    make_evidence,
    make_job,
    make_payment,
    make_sealed,
    make_tranche,
)
from tests.conformance.ledger.rules import Opener

KEY = b"\x07" * 32

# Few of each, so that records meet: the same job, the same tranche, the same payment hash.
NUMBERS = st.integers(1, 3)
SIDE_NAMES: tuple[Side, ...] = ("client", "node")
SIDES = st.sampled_from(SIDE_NAMES)
CLIENTS = st.sampled_from([CLIENT, CLIENT, OTHER_CLIENT])
JOBS = st.builds(
    make_job,
    NUMBERS,
    side=SIDES,
    client=CLIENTS,
    state=st.sampled_from(JobState),
    created_at_ms=st.integers(0, 3),
    charged_msat=st.integers(0, 2**53 - 1),
    reason=st.text(max_size=5),
    body=st.sampled_from(["", BODY]),
)
TRANCHES = st.builds(
    make_tranche,
    NUMBERS,
    st.integers(0, 2),
    side=SIDES,
    client=CLIENTS,
    state=st.sampled_from(TrancheState),
    payment_hash=st.sampled_from(["", *(f"{number:064x}" for number in range(4))]),
    preimage=st.sampled_from([None, PREIMAGE]),
    opened_at_ms=st.integers(0, 3),
)
SEALED = st.builds(
    make_sealed,
    NUMBERS,
    st.integers(0, 2),
    side=SIDES,
    client=CLIENTS,
    content=st.sampled_from(["{}", "{}", "[]"]),
    leaves=st.sampled_from([(), (b"leaf",), (b"leaf", b"another")]),
)
EVIDENCE = st.builds(
    make_evidence, NUMBERS, side=SIDES, content=st.sampled_from(["{}", "[]"]), plaintext=st.text(max_size=3)
)
PAYMENTS = st.builds(
    make_payment,
    NUMBERS,
    state=st.sampled_from([TrancheState.PAYING, TrancheState.UNKNOWN, TrancheState.PAID, TrancheState.FAILED]),
    opened_at_ms=st.integers(0, 3),
    preimage=st.sampled_from([None, PREIMAGE]),
)
WRITES = st.lists(st.one_of(JOBS, TRANCHES, SEALED, PAYMENTS, EVIDENCE), max_size=4).map(tuple)
QUERIES = st.builds(
    JobQuery,
    side=st.none() | SIDES,
    job_id=st.none() | st.sampled_from(["", "0000000", "00000001", job_id(2), "1", "\ud800"]),
    client=st.none() | CLIENTS,
    unpaid_order=st.none() | st.sampled_from(("prepay", "postpay")),
    only_unresolved=st.booleans(),
    limit=st.integers(-1, 5),
)


async def is_written(ledger: Ledger, records: tuple[LedgerRecord, ...]) -> bool:
    """What came of a write; what breaks two rules may be refused for either."""
    try:
        await ledger.write(records)
    except LedgerError:
        return False
    return True


async def are_written_at_once(ledger: Ledger, writes: list[tuple[LedgerRecord, ...]]) -> list[bool]:
    """What came of several writes that began in this order."""
    outcomes = [False] * len(writes)

    async def write(number: int) -> None:
        outcomes[number] = await is_written(ledger, writes[number])

    async with anyio.create_task_group() as tasks:
        for number in range(len(writes)):
            tasks.start_soon(write, number)
    return outcomes


class LedgersAgree(RuleBasedStateMachine):
    """The same is done to both; what both say is compared."""

    def __init__(self) -> None:
        super().__init__()
        self._resources = ExitStack()
        self._opener = self.opener(self._resources)
        self._portal: BlockingPortal = self._resources.enter_context(start_blocking_portal())
        self._model = MemoryLedger()
        self._open()

    def opener(self, resources: ExitStack) -> Opener:
        """What opens the ledger, empty at first, that is compared with the model."""
        folder = resources.enter_context(tempfile.TemporaryDirectory())
        return partial(SqlLedger.open, Path(folder) / "ledger.sqlite", key=KEY)

    def _open(self) -> None:
        opened: AbstractContextManager[Ledger] = self._portal.wrap_async_context_manager(self._opener())
        self._ledger_scope = ExitStack()
        self._ledger = self._ledger_scope.enter_context(opened)

    def teardown(self) -> None:
        self._ledger_scope.close()
        self._resources.close()

    @initialize(has_jobs=st.booleans())
    def fill(self, has_jobs: bool) -> None:
        jobs = (make_job(number, side=side) for number in range(1, 4) for side in SIDE_NAMES)
        self.write(tuple(jobs) if has_jobs else ())

    @rule(records=WRITES)
    def write(self, records: tuple[LedgerRecord, ...]) -> None:
        expected = self._portal.call(is_written, self._model, records)
        assert self._portal.call(is_written, self._ledger, records) == expected

    @rule(writes=st.lists(WRITES, max_size=5))
    def write_at_once(self, writes: list[tuple[LedgerRecord, ...]]) -> None:
        expected = [self._portal.call(is_written, self._model, records) for records in writes]
        assert self._portal.call(are_written_at_once, self._ledger, writes) == expected

    @rule(scope=st.sampled_from(["offer", "status"]), now=st.integers(0, 20))
    def draw(self, scope: str, now: int) -> None:
        expected = self._portal.call(self._model.next_sequence, scope, Timestamp(now))
        assert self._portal.call(self._ledger.next_sequence, scope, Timestamp(now)) == expected

    @rule(query=QUERIES)
    def find_jobs(self, query: JobQuery) -> None:
        expected = self._portal.call(self._model.find_jobs, query)
        assert self._portal.call(self._ledger.find_jobs, query) == expected

    @rule(number=st.none() | NUMBERS)
    def find_evidence(self, number: int | None) -> None:
        wanted = None if number is None else job_id(number)
        expected = self._portal.call(self._model.find_evidence, wanted)
        assert self._portal.call(self._ledger.find_evidence, wanted) == expected

    @rule(since_ms=st.integers(0, 4))
    def sum_what_was_spent(self, since_ms: int) -> None:
        expected = self._portal.call(self._model.paid_by_minute, since_ms)
        assert self._portal.call(self._ledger.paid_by_minute, since_ms) == expected

    @rule()
    def restart(self) -> None:
        self._ledger_scope.close()
        self._open()

    @invariant()
    def all_is_equal(self) -> None:
        expected = self._portal.call(self._model.find_jobs, JobQuery())
        assert self._portal.call(self._ledger.find_jobs, JobQuery()) == expected
        sealed = self._portal.call(self._model.find_sealed)
        assert self._portal.call(self._ledger.find_sealed) == sealed
        payments = self._portal.call(self._model.find_payments)
        assert self._portal.call(self._ledger.find_payments) == payments


# Each example makes a ledger on the disk: a tenth of the profile's examples, of many steps each, and none of them
# shrunk, which would take longer than a test may.
FEW_EXAMPLES = settings(
    max_examples=max(settings().max_examples // 10, 1),
    stateful_step_count=20,
    phases=(Phase.explicit, Phase.generate),
)
LedgersAgree.TestCase.settings = FEW_EXAMPLES
TestLedgersAgree = LedgersAgree.TestCase
