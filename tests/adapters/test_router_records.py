"""Records of routers in their file."""

from pathlib import Path

import pytest

from relaymesh.adapters import router_records
from relaymesh.adapters.router_records import read_router_records, write_router_records
from relaymesh.errors import UsageError
from relaymesh.market.probation import RouterRecord
from relaymesh.nostr.event import PublicKey

FIRST, SECOND = PublicKey("aa" * 32), PublicKey("bb" * 32)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "routers.json"
    assert read_router_records(path) == {}
    records = {FIRST: RouterRecord(3, 10, 1, 20_000), SECOND: RouterRecord(1, 2, 0, 20_001)}
    write_router_records(path, records)
    assert read_router_records(path) == records


def test_only_the_routers_seen_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_records, "MAXIMUM_ROUTERS", 1)
    path = tmp_path / "routers.json"
    write_router_records(path, {FIRST: RouterRecord(last_day=1), SECOND: RouterRecord(last_day=2)})
    assert set(read_router_records(path)) == {SECOND}


OTHERS = ("[1]", "{", f'{{"{FIRST}": {{"days": "x"}}}}', f'{{"{FIRST}": {{"who": 1}}}}')


@pytest.mark.parametrize("text", OTHERS)
def test_a_file_that_is_something_else_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "routers.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="remove it"):
        read_router_records(path)
    with pytest.raises(UsageError, match="cannot be written"):
        write_router_records(tmp_path / "no" / "routers.json", {})
