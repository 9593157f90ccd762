"""Every store answers like a list of events, whatever is written, deleted, replaced or expired in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.nostr.event import Event
from relaymesh.nostr.filters import Filter
from relaymesh.units import Timestamp
from relaymesh_relay.memory_store import MemoryStore
from relaymesh_relay.settings import Storage
from relaymesh_relay.sqlite_store import SqliteStore
from relaymesh_relay.store import Reader, Standing, Store, Writer, document_id
from tests.relay.client import ALICE, MEMORY, NOW, sign
from tests.relay.histories import ALWAYS_ASKED, filters, orders, pools, record, search
from tests.relay.reference import ListStore

Open = Callable[[Path], Store]


def open_memory(_: Path) -> Store:
    return MemoryStore()


def open_sqlite(directory: Path) -> Store:
    return SqliteStore(Storage(file=str(directory / "events.sqlite3"), synchronous="NORMAL"))


every_store = pytest.mark.parametrize("open_store", [open_memory, open_sqlite])


@contextmanager
def opened(store: Store) -> Iterator[tuple[Writer, Reader]]:
    writer, reader = store.open_writer(), store.open_reader()
    try:
        yield writer, reader
    finally:
        reader.close()
        writer.close()


def check_answers(reader: Reader, reference: ListStore, asked: list[Filter], limit: int, now: int) -> None:
    for wanted in (*asked, *ALWAYS_ASKED):
        assert search(reader, wanted, limit, now) == reference.search(wanted, limit, now)
        assert search(reader, wanted, 100, now) == reference.search(wanted, 100, now)


@every_store
@given(
    pools,
    orders,
    st.integers(1, 6),
    st.lists(filters(), max_size=6),
    st.integers(0, 4),
    st.sampled_from([0, 8, 12]),
    st.integers(1, 3),
)
@settings(max_examples=120)
def test_it_answers_like_a_list(
    open_store: Open,
    pool: tuple[Event, ...],
    order: list[int],
    batch_size: int,
    asked: list[Filter],
    limit: int,
    now: int,
    vanish_at_once: int,
) -> None:
    reference = ListStore()
    with TemporaryDirectory(dir=MEMORY) as directory:
        store = open_store(Path(directory))
        with opened(store) as (writer, reader):
            for start in range(0, len(order), batch_size):
                batch = [pool[position] for position in order[start : start + batch_size]]
                assert [reader.standing(event) for event in batch] == [reference.standing(event) for event in batch]
                assert writer.write(list(map(record, batch))) == [reference.write(event) for event in batch]
                while writer.remove_vanished(vanish_at_once):
                    pass
                reference.remove_vanished()
            check_answers(reader, reference, asked, limit, now)
        if isinstance(store, SqliteStore):
            store = open_store(Path(directory))
        with opened(store) as (writer, reader):
            check_answers(reader, reference, asked, limit, now)
            assert [reader.standing(event) for event in pool] == [reference.standing(event) for event in pool]
            reference.remove_expired(12)
            writer.remove_expired(Timestamp(12), 100)
            check_answers(reader, reference, asked, limit, 0)


@every_store
def test_as_many_expired_events_are_removed_as_was_asked(open_store: Open, tmp_path: Path) -> None:
    events = [sign(content=str(number), tags=[["expiration", str(NOW + number)]]) for number in range(5)]
    with opened(open_store(tmp_path)) as (writer, reader):
        writer.write(list(map(record, events)))
        assert [writer.remove_expired(Timestamp(NOW + 3), 3) for _ in range(3)] == [3, 1, 0]
        assert search(reader, Filter()) == [events[4].id]


@every_store
def test_what_was_removed_is_not_found_by_a_search_that_goes_on(open_store: Open, tmp_path: Path) -> None:
    events = [sign(content=str(number), created_at=NOW + number) for number in range(600)]
    deletion = sign(kind=5, tags=[["e", event.id] for event in events[:300]])
    with opened(open_store(tmp_path)) as (writer, reader):
        writer.write(list(map(record, events)))
        going_on = reader.search(Filter(kinds=(1,)), 1_000, NOW)
        found = len(next(going_on))
        assert found
        writer.write([record(deletion)])
        assert found + sum(map(len, going_on)) == 300


@every_store
@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_deletion_by_address_takes_what_is_as_old_as_itself(
    open_store: Open, tmp_path: Path, is_earlier: bool
) -> None:
    event = sign(kind=30_001, tags=[["d", "x"]])
    deletion = sign(kind=5, tags=[["a", f"30001:{ALICE.public_key}:x"]])
    with opened(open_store(tmp_path)) as (writer, reader):
        first, second = (deletion, event) if is_earlier else (event, deletion)
        writer.write([record(first)])
        assert writer.write([record(second)]) == [Standing.DELETED if is_earlier else Standing.FRESH]
        assert search(reader, Filter()) == [deletion.id]


@every_store
def test_a_deletion_request_cannot_be_deleted(open_store: Open, tmp_path: Path) -> None:
    deletion = sign(kind=5, tags=[["e", "0" * 64]])
    with opened(open_store(tmp_path)) as (writer, reader):
        writer.write([record(deletion)])
        second = sign(kind=5, tags=[["e", deletion.id]], created_at=NOW + 1)
        writer.write([record(second)])
        assert search(reader, Filter()) == [second.id, deletion.id]


@every_store
def test_a_search_pauses_where_little_matches(open_store: Open, tmp_path: Path) -> None:
    events = [sign(content=str(number), created_at=NOW + number) for number in range(1_000)]
    with opened(open_store(tmp_path)) as (writer, reader):
        assert writer.write(list(map(record, events))) == [Standing.FRESH] * 1_000
        pieces = list(reader.search(Filter(kinds=(1,)), 10, NOW, lambda document: False))
        assert len(pieces) >= 5 and not any(pieces)


@every_store
def test_what_may_not_be_read_takes_no_place_of_what_may(open_store: Open, tmp_path: Path) -> None:
    events = [sign(content=str(number), created_at=NOW + number) for number in range(300)]
    readable = {event.id.encode() for event in events[:5]}
    with opened(open_store(tmp_path)) as (writer, reader):
        writer.write(list(map(record, events)))
        pieces = reader.search(Filter(kinds=(1,)), 3, NOW, lambda document: document_id(document) in readable)
        found = [document_id(each.document).decode() for piece in pieces for each in piece]
        assert found == [event.id for event in reversed(events[2:5])]
