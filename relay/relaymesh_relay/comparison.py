"""Comparing stored documents with filters, without parsing them: what a posting list found by a hash is checked by."""

from collections.abc import Callable
from typing import Final

import orjson

from relaymesh.nostr.filters import Filter
from relaymesh_relay.store import document_author, document_id

_NEEDLES_AT_MOST: Final = 8
_HIGHEST: Final = 2**63 - 1

Comparison = Callable[[int, int, bytes], bool]
"""Called with kind, created_at and document of a stored event: whether the filter matches it."""


def compare_with(wanted: Filter) -> Comparison:
    """What compares a stored event with every condition of a filter (NIP-01)."""
    kinds = None if wanted.kinds is None else frozenset(wanted.kinds)
    authors = None if wanted.authors is None else frozenset(author.encode() for author in wanted.authors)
    ids = None if wanted.ids is None else frozenset(event_id.encode() for event_id in wanted.ids)
    since = wanted.since if wanted.since is not None else 0
    until = wanted.until if wanted.until is not None else _HIGHEST
    tags = [_find_tag(letter, values) for letter, values in wanted.tags]

    def matches(kind: int, created_at: int, document: bytes) -> bool:
        if not since <= created_at <= until:
            return False
        if kinds is not None and kind not in kinds:
            return False
        if authors is not None and document_author(document) not in authors:
            return False
        if ids is not None and document_id(document) not in ids:
            return False
        return not tags or all(has_tag(document) for has_tag in tags)

    return matches


def _find_tag(letter: str, values: tuple[str, ...]) -> Callable[[bytes], bool]:
    """What finds one of these values in a document's tags of this name.

    A few values are searched as bytes: in our own compact JSON `["t","value"` begins a tag and cannot stand inside a
    string, where its quotes would be escaped.
    """
    if len(values) == 1:
        needle = orjson.dumps([letter, values[0]])[:-1]
        return lambda document: needle in document
    if len(values) <= _NEEDLES_AT_MOST:
        needles = [orjson.dumps([letter, value])[:-1] for value in values]
        return lambda document: any(needle in document for needle in needles)
    wanted = frozenset(values)

    def has_tag(document: bytes) -> bool:
        tags = orjson.loads(document)["tags"]
        return any(len(tag) > 1 and tag[0] == letter and tag[1] in wanted for tag in tags)

    return has_tag
