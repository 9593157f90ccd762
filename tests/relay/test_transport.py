"""What the relay writes on the wire, and what happens when one of its own threads fails."""

from pathlib import Path

import pytest

from relaymesh.errors import RelayError
from relaymesh_relay.addresses import LOOPBACK, name_address
from relaymesh_relay.sqlite_store import SqliteWriter
from tests.relay.client import Client, ClosedByRelay, running_relay, settings_in, sign


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.9.9.9", LOOPBACK),
        ("::1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_addresses_are_counted_by_who_has_them(address: str, name: str) -> None:
    assert name_address(address) == name


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_fault_of_our_own_ends_the_relay_instead_of_leaving_events_unanswered(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(writer: SqliteWriter, records: object) -> None:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr(SqliteWriter, "write", fail)
    with pytest.RaisesGroup(pytest.RaisesExc(RelayError, match="by a fault of its own")):
        async with running_relay(settings_in(memory_path)) as url, Client(url) as client:
            await client.publish(sign())
            with pytest.raises(ClosedByRelay):
                await client.receive()
