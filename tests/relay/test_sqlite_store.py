"""The SQLite store answers like a list of events, whatever is written, deleted, replaced or expired in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.nostr.filters import Filter
from relaymesh.units import Timestamp
from relaymesh_relay.settings import Storage
from relaymesh_relay.sqlite_search import SqliteReader
from relaymesh_relay.sqlite_store import SqliteStore, SqliteWriter
from relaymesh_relay.store import Record, Standing, StorageError, document_id, to_document
from tests.relay.client import ALICE, BOB, MEMORY, NOW, sign
from tests.relay.reference import ListStore

AUTHORS = [PublicKey(letter * 64) for letter in "ab"]
# In pairs that share the 64 bits by which they are indexed; times differ within a pair and meet across pairs.
IDS = [EventId(f"{number:016x}" + letter * 48) for number in range(5) for letter in "12"]
KINDS = [1, 5, 0, 30_001, 30_002, 62, 1_059]
VALUES = ["x", "", 'quote" and \\', "é"]
NO_IDS = ["-" + "f" * 63, "٣" * 64, "F" * 64]  # as long as an id, and nearly numbers
ADDRESSES = [f"{kind}:{author}:{value}" for kind in (30_001, 30_002) for author in AUTHORS for value in ("x", "")]
ADDRESSES += [f"0:{author}:" for author in AUTHORS] + ["nonsense", "1:2"]

tags = st.one_of(
    st.tuples(st.sampled_from(["t", "word"]), st.sampled_from(VALUES)),
    st.tuples(st.just("d"), st.sampled_from(["x", ""])),
    st.tuples(st.just("e"), st.sampled_from([*IDS, *NO_IDS])),
    st.tuples(st.just("a"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("p"), st.sampled_from([*AUTHORS, "nobody"])),
    st.tuples(st.just("expiration"), st.sampled_from(["8", "12", "soon"])),
    st.tuples(st.sampled_from(["t", "d"])),
)


@st.composite
def events(draw: st.DrawFn, position: int) -> Event:
    """One of few events, so that they repeat, replace and delete each other."""
    created_at = Timestamp(10 + 2 * draw(st.integers(0, 2)) + position % 2)
    kind, author = draw(st.sampled_from(KINDS)), draw(st.sampled_from(AUTHORS))
    event_tags = tuple(draw(st.lists(tags, max_size=4)))
    content = draw(st.sampled_from(["", '["t","x"']))
    return Event(author, created_at, kind, event_tags, content, IDS[position], "0" * 128)


pools = st.tuples(*(events(position) for position in range(len(IDS))))
orders = st.lists(st.integers(0, len(IDS) - 1), min_size=5, max_size=25)
times = st.none() | st.integers(9, 16).map(Timestamp)
conditions = st.sampled_from(["ids", "authors", "kinds", "since", "until", "t", "d", "e"])


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    """A filter of up to three conditions."""
    chosen = draw(st.sets(conditions, max_size=3))
    values: dict[str, list[str]] = {
        "t": VALUES + list(map(str, range(10))),
        "d": ["x", "", "none"],
        "e": [*IDS, *NO_IDS],
    }
    drawn = {
        name: tuple(draw(st.lists(st.sampled_from(values[name]), max_size=12))) for name in sorted(chosen & {*values})
    }
    return Filter(
        ids=tuple(draw(st.lists(st.sampled_from(IDS), max_size=4))) if "ids" in chosen else None,
        authors=tuple(draw(st.lists(st.sampled_from(AUTHORS), max_size=3))) if "authors" in chosen else None,
        kinds=tuple(draw(st.lists(st.sampled_from(KINDS), max_size=3))) if "kinds" in chosen else None,
        tags=tuple(drawn.items()),
        since=draw(times) if "since" in chosen else None,
        until=draw(times) if "until" in chosen else None,
    )


ALWAYS_ASKED = [Filter(), *(Filter(ids=(event_id,)) for event_id in IDS)]
ALWAYS_ASKED += [Filter(tags=((letter, (value,)),)) for letter in "td" for value in ("x", "")]
ALWAYS_ASKED += [
    Filter(authors=(author,), kinds=(kind,), tags=(("d", (value,)),))
    for author in AUTHORS
    for kind in (30_001, 30_002)
    for value in ("x", "")
]


@contextmanager
def opened(directory: Path) -> Iterator[tuple[SqliteWriter, SqliteReader]]:
    store = SqliteStore(Storage(file=str(directory / "events.sqlite3"), synchronous="NORMAL"))
    writer, reader = store.open_writer(), store.open_reader()
    try:
        yield writer, reader
    finally:
        reader.close()
        writer.close()


def record(event: Event) -> Record:
    return Record(event, to_document(event))


def search(reader: SqliteReader, wanted: Filter, limit: int = 100, now: int = 0) -> list[EventId]:
    found = (step for step in reader.search(wanted, limit, Timestamp(now)) if step is not None)
    return [EventId(document_id(each.document).decode()) for each in found]


@given(
    pools,
    orders,
    st.integers(1, 6),
    st.lists(filters(), max_size=6),
    st.integers(0, 4),
    st.sampled_from([0, 8, 12]),
    st.integers(1, 3),
)
@settings(max_examples=200)
def test_it_answers_like_a_list(
    pool: tuple[Event, ...],
    order: list[int],
    batch_size: int,
    asked: list[Filter],
    limit: int,
    now: int,
    vanish_at_once: int,
) -> None:
    reference = ListStore()
    with TemporaryDirectory(dir=MEMORY) as directory, opened(Path(directory)) as (writer, reader):
        for start in range(0, len(order), batch_size):
            batch = [pool[position] for position in order[start : start + batch_size]]
            assert [reader.standing(event) for event in batch] == [reference.standing(event) for event in batch]
            assert writer.write(list(map(record, batch))) == [reference.write(event) for event in batch]
            while writer.remove_vanished(vanish_at_once):
                pass
            reference.remove_vanished()
        for wanted in (*asked, *ALWAYS_ASKED):
            assert search(reader, wanted, limit, now) == reference.search(wanted, limit, now)
            assert search(reader, wanted, 100, now) == reference.search(wanted, 100, now)
        reference.remove_expired(12)
        writer.remove_expired(Timestamp(12), 100)
        assert search(reader, Filter()) == reference.search(Filter(), 100, 0)


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


@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_deletion_by_address_takes_what_is_as_old_as_itself(tmp_path: Path, is_earlier: bool) -> None:
    event = sign(kind=30_001, tags=[["d", "x"]])
    deletion = sign(kind=5, tags=[["a", f"30001:{ALICE.public_key}:x"]])
    with opened(tmp_path) as (writer, reader):
        first, second = (deletion, event) if is_earlier else (event, deletion)
        writer.write([record(first)])
        assert writer.write([record(second)]) == [Standing.DELETED if is_earlier else Standing.FRESH]
        assert search(reader, Filter()) == [deletion.id]


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


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    events = many_events(10)
    with opened(tmp_path) as (writer, _):
        writer.write(list(map(record, events)))
    with opened(tmp_path) as (writer, reader):
        assert search(reader, Filter()) == [event.id for event in reversed(events)]
        assert writer.write([record(events[0])]) == [Standing.KNOWN]


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
