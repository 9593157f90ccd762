"""Comparing stored documents with filters, without parsing them: what a posting list found by a hash is checked by."""

from collections.abc import Callable, Sequence
from typing import Final

import orjson

from relaymesh.nostr.filters import Filter
from relaymesh_relay.store import document_author, document_id

Row = tuple[int, int, int, int, bytes]
"""(age, id order, sequence, kind, document): a stored event; the age is the created_at, negated."""

Comparison = Callable[[Sequence[Row]], Sequence[Row]]
"""Leaves those rows that fulfil a condition; a whole list at a time, since a query compares thousands."""

_NEEDLES_AT_MOST: Final = 8


def compare_with(wanted: Filter) -> Comparison:
    """What compares stored events with every condition of a filter (NIP-01)."""
    comparisons = [
        *_compare_fields(wanted),
        *(_find_tag(letter, values) for letter, values in wanted.tags),
    ]

    def leave_matching(rows: Sequence[Row]) -> Sequence[Row]:
        for comparison in comparisons:
            rows = comparison(rows)
        return rows

    return leave_matching


def _compare_fields(wanted: Filter) -> list[Comparison]:
    comparisons: list[Comparison] = []
    if wanted.since is not None:
        oldest = -wanted.since
        comparisons.append(lambda rows: [row for row in rows if row[0] <= oldest])
    if wanted.until is not None:
        newest = -wanted.until
        comparisons.append(lambda rows: [row for row in rows if row[0] >= newest])
    if wanted.kinds is not None:
        kinds = frozenset(wanted.kinds)
        comparisons.append(lambda rows: [row for row in rows if row[3] in kinds])
    if wanted.authors is not None:
        authors = frozenset(author.encode() for author in wanted.authors)
        comparisons.append(lambda rows: [row for row in rows if document_author(row[4]) in authors])
    if wanted.ids is not None:
        ids = frozenset(event_id.encode() for event_id in wanted.ids)
        comparisons.append(lambda rows: [row for row in rows if document_id(row[4]) in ids])
    return comparisons


def _find_tag(letter: str, values: tuple[str, ...]) -> Comparison:
    """What leaves the documents with one of these values in a tag of this name.

    A few values are searched as bytes: in our own compact JSON `["t","value"` begins a tag and cannot stand inside a
    string, where its quotes would be escaped.
    """
    if len(values) <= _NEEDLES_AT_MOST:
        needles = [orjson.dumps([letter, value])[:-1] for value in values]
        if len(needles) == 1:
            (needle,) = needles
            return lambda rows: [row for row in rows if needle in row[4]]
        return lambda rows: [row for row in rows if any(needle in row[4] for needle in needles)]
    wanted = frozenset(values)

    def has_tag(document: bytes) -> bool:
        tags = orjson.loads(document)["tags"]
        return any(len(tag) > 1 and tag[0] == letter and tag[1] in wanted for tag in tags)

    return lambda rows: [row for row in rows if has_tag(row[4])]
