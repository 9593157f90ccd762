"""The settings choose where a role's ledger lies; what they get wrong is said without repeating a password."""

from pathlib import Path

import pytest

from relaymesh.cli.ledgers import ledger_file, open_existing_ledger, open_ledger
from relaymesh.errors import UsageError
from relaymesh.ports.ledger import JobQuery
from relaymesh.settings import Files, Settings, Storage
from tests.conformance.ledger.records import make_job

pytestmark = pytest.mark.anyio


async def test_a_ledger_is_a_file_for_each_role_unless_a_database_is_named(tmp_path: Path) -> None:
    settings = Settings(files=Files(str(tmp_path)))
    async with open_existing_ledger(settings, "client") as ledger:
        assert ledger is None
    async with open_ledger(settings, "client") as ledger:
        await ledger.write((make_job(),))
    async with open_existing_ledger(settings, "client") as ledger:
        assert ledger is not None and len(await ledger.find_jobs(JobQuery())) == 1
    async with open_existing_ledger(settings, "node") as ledger:
        assert ledger is None
    assert ledger_file(settings, "client").exists() and not ledger_file(settings, "node").exists()


@pytest.mark.parametrize("url", ["mysql://me:secret@host/mesh", "/var/lib/secret", "me:secret@host"])
async def test_what_names_no_database_is_refused_without_repeating_it(url: str, tmp_path: Path) -> None:
    settings = Settings(files=Files(str(tmp_path)), storage=Storage(url))
    with pytest.raises(UsageError, match=r"storage.ledger must be empty or postgresql://") as refused:
        open_ledger(settings, "client")
    assert "secret" not in str(refused.value)
    with pytest.raises(UsageError, match=r"storage.ledger must be"):
        async with open_existing_ledger(settings, "client"):
            pass
