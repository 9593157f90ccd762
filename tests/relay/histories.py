"""Histories of few events that repeat, replace and delete each other, and what a store that saw them may be asked."""

from hypothesis import strategies as st

from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.nostr.filters import Filter
from relaymesh.units import Timestamp
from relaymesh_relay.store import Reader, Record, document_id, to_document

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


def record(event: Event) -> Record:
    return Record(event, to_document(event))


def search(reader: Reader, wanted: Filter, limit: int = 100, now: int = 0) -> list[EventId]:
    pieces = reader.search(wanted, limit, Timestamp(now))
    return [EventId(document_id(found.document).decode()) for piece in pieces for found in piece]
