"""The ledger in PostgreSQL does what the ledger in memory does, whatever is written, in any order, across restarts."""

from contextlib import ExitStack
from functools import partial

from hypothesis.stateful import run_state_machine_as_test

from relaymesh.adapters.postgres_ledger import PostgresLedger
from tests.adapters.test_sql_ledger_model import FEW_EXAMPLES, KEY, LedgersAgree
from tests.conformance.ledger.rules import Opener
from tests.real.postgresql import PostgresServer


def test_the_ledgers_agree(database: PostgresServer) -> None:
    urls: list[str] = []

    class PostgresLedgersAgree(LedgersAgree):
        def opener(self, resources: ExitStack) -> Opener:
            urls.append(database.url())
            return partial(PostgresLedger.open, urls[-1], key=KEY)

    run_state_machine_as_test(PostgresLedgersAgree, settings=FEW_EXAMPLES)
    assert len(set(urls)) == len(urls) >= FEW_EXAMPLES.max_examples
