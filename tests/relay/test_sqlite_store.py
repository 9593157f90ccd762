"""What only the SQLite store has: long lists read in pieces, transactions, and a file that others may look into."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings

from relaymesh.nostr.event import Event
from relaymesh.nostr.filters import Filter
from relaymesh.units import Timestamp
from relaymesh_relay.settings import Storage
from relaymesh_relay.sqlite_search import SqliteReader
from relaymesh_relay.sqlite_store import SqliteStore, SqliteWriter
from relaymesh_relay.store import Record, Standing, StorageError
from tests.relay.client import ALICE, BOB, MEMORY, NOW, sign
from tests.relay.histories import orders, pools, record, search


@contextmanager
def opened(directory: Path) -> Iterator[tuple[SqliteWriter, SqliteReader]]:
    store = SqliteStore(Storage(file=str(directory / "events.sqlite3"), synchronous="NORMAL"))
    writer, reader = store.open_writer(), store.open_reader()
    try:
        yield writer, reader
    finally:
        reader.close()
        writer.close()


@given(pools, orders)
@settings(max_examples=30)
def test_nothing_is_left_in_any_table_when_all_events_are_gone(pool: tuple[Event, ...], order: list[int]) -> None:
    with TemporaryDirectory(dir=MEMORY) as directory, opened(Path(directory)) as (writer, _):
        for start in range(0, len(order), 4):
            writer.write([record(pool[position]) for position in order[start : start + 4]])
        writer._database.execute("UPDATE event SET expires_at = 0")
        writer.remove_expired(Timestamp(1), 100)
        for table in ("event", "posting", "latest"):
            assert writer._database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def many_events(count: int) -> list[Event]:
    shapes = [(ALICE, 1), (BOB, 1), (ALICE, 7), (BOB, 7)]
    chosen = [(*shapes[number % 4], number) for number in range(count)]
    return [sign(key, kind, tags=[["t", "all"]], created_at=NOW + number) for key, kind, number in chosen]


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(kinds=(1, 7)),
        Filter(tags=(("t", ("all",)),)),
        Filter(tags=(("t", ("all", "none")),), authors=(ALICE.public_key,)),
        Filter(authors=(ALICE.public_key, BOB.public_key)),
        Filter(authors=(ALICE.public_key, BOB.public_key), kinds=(1, 7), since=Timestamp(NOW + 100)),
        Filter(kinds=tuple(range(3_000)), authors=(ALICE.public_key,)),
        Filter(kinds=tuple(range(3_000))),
    ],
)
def test_lists_longer_than_one_piece_are_read_to_their_end(tmp_path: Path, wanted: Filter) -> None:
    events = many_events(1_500)
    with opened(tmp_path) as (writer, reader):
        writer.write(list(map(record, events)))
        expected = [event.id for event in reversed(events) if wanted.matches(event)]
        assert search(reader, wanted, 2_000) == expected
        assert search(reader, wanted, 700) == expected[:700]


def test_a_search_pauses_again_and_again_where_little_matches(tmp_path: Path) -> None:
    events = many_events(1_000)
    with opened(tmp_path) as (writer, reader):
        writer.write(list(map(record, events)))
        wanted = Filter(tags=(("t", ("all",)),), until=Timestamp(NOW + 999), since=Timestamp(NOW))
        impossible = reader.search(wanted, 10, Timestamp(0), lambda document: False)
        assert len(list(islice(impossible, 5))) == 5


def test_all_conditions_hold_beside_ids(tmp_path: Path) -> None:
    event = sign(tags=[["t", "x"]])
    ids = (event.id,)
    with opened(tmp_path) as (writer, reader):
        writer.write([record(event)])
        assert search(reader, Filter(ids=ids, since=NOW, until=NOW, kinds=(1,), tags=(("t", ("x",)),))) == [event.id]
        for wanted in (
            Filter(ids=ids, until=Timestamp(NOW - 1)),
            Filter(ids=ids, since=Timestamp(NOW + 1)),
            Filter(ids=ids, kinds=(7,)),
            Filter(ids=ids, authors=(BOB.public_key,)),
            Filter(ids=ids, tags=(("t", ("y",)),)),
        ):
            assert search(reader, wanted) == []


def test_a_batch_that_fails_leaves_nothing_behind_and_the_next_one_is_written(tmp_path: Path) -> None:
    first, second = many_events(2)
    with opened(tmp_path) as (writer, reader):
        with pytest.raises(StorageError):
            writer.write([record(first), Record(second, object())])  # type: ignore[arg-type]  # SQLite cannot bind it
        assert search(reader, Filter()) == []
        assert writer.write([record(first), record(second)]) == [Standing.FRESH] * 2
        assert search(reader, Filter()) == [second.id, first.id]


def test_deleted_content_cannot_be_read_from_the_file(tmp_path: Path) -> None:
    secret = sign(content="a secret that was told by mistake")
    with opened(tmp_path) as (writer, _):
        writer.write([record(secret)])
        writer.write([record(sign(kind=5, tags=[["e", secret.id]]))])
    assert b"told by mistake" not in (tmp_path / "events.sqlite3").read_bytes()


def test_a_file_of_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite3"
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE something (x)")
    other.close()
    with pytest.raises(StorageError, match="name another database file"):
        SqliteStore(Storage(file=str(file)))
    file.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(StorageError, match="cannot be opened"):
        SqliteStore(Storage(file=str(file)))
    with pytest.raises(StorageError, match="cannot be opened"):
        SqliteStore(Storage(file=str(tmp_path / "no" / "such" / "folder")))


@pytest.mark.parametrize("asks_by_id", [True, False])
def test_long_documents_come_in_pieces_that_can_be_sent_at_once(tmp_path: Path, asks_by_id: bool) -> None:
    events = [sign(content="x" * 100_000 + str(number), tags=[["t", str(number)]]) for number in range(40)]
    ids = tuple(event.id for event in events)
    tags = (("t", tuple(map(str, range(40)))),)
    with opened(tmp_path) as (writer, reader):
        writer.write(list(map(record, events)))
        for wanted in (Filter(ids=ids) if asks_by_id else Filter(tags=tags), Filter(kinds=(1,))):
            pieces = list(reader.search(wanted, 100, NOW))
            assert sum(map(len, pieces)) == 40
            assert max(sum(len(found.document) for found in piece) for piece in pieces) < 400_000
