"""Replicas of a router share one ledger in PostgreSQL; a role that has jobs does not."""

from pathlib import Path

import anyio
import pytest

from relaymesh.cli.ledgers import open_ledger
from relaymesh.errors import LedgerError
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.memory_relays import MemoryRelay
from relaymesh.settings import Files, Settings, Storage
from tests.real.postgresql import PostgresServer
from tests.roles.test_router_evidence import PROVEN, Desk, proof_event

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path, database: PostgresServer) -> Settings:
    """A data folder, and an empty database."""
    return Settings(files=Files(str(tmp_path)), storage=Storage(database.url()))


async def test_replicas_of_a_router_slash_once_together(settings: Settings) -> None:
    relay = MemoryRelay()
    async with open_ledger(settings, "router") as one, open_ledger(settings, "router") as other:
        desks = [Desk(ledger, relay) for ledger in (one, other)]
        for desk in desks:
            desk.evidence.take(proof_event(PROVEN[0]))
        async with anyio.create_task_group() as tasks:
            for desk in desks:
                tasks.start_soon(desk.evidence.tell)
    assert len(desks[0].published(Kind.SLASH)) == 1


async def test_a_second_node_does_not_share_the_first_ones_ledger(settings: Settings) -> None:
    async with open_ledger(settings, "node"):
        with pytest.raises(LedgerError):
            async with open_ledger(settings, "node"):
                pass
