"""The ledger in PostgreSQL does what the ledger in memory does, whatever is written, in any order, across restarts."""

from contextlib import ExitStack
from functools import partial

import pytest
from hypothesis.stateful import run_state_machine_as_test

from relaymesh.adapters.postgres_ledger import PostgresLedger
from tests.adapters.test_sql_ledger_model import FEW_EXAMPLES, KEY, LedgersAgree
from tests.conformance.ledger.rules import Opener
from tests.real.postgresql import PostgresServer


@pytest.fixture
def machine(database: PostgresServer) -> type[LedgersAgree]:
    """The comparison, over schemas of this server."""

    class PostgresLedgersAgree(LedgersAgree):
        opened = 0

        def opener(self, resources: ExitStack) -> Opener:
            type(self).opened += 1
            return partial(PostgresLedger.open, database.url(), key=KEY)

    return PostgresLedgersAgree


def test_the_ledgers_agree(machine: type[LedgersAgree]) -> None:
    run_state_machine_as_test(machine, settings=FEW_EXAMPLES)  # raises where they differ
    assert vars(machine)["opened"] > 1
