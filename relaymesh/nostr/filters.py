"""Filters: which events a subscription asks for (NIP-01, "From client to relay")."""

from dataclasses import dataclass, field
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import MAXIMUM_CREATED_AT, MAXIMUM_KIND, Event, EventId, PublicKey, is_hex_32
from relaymesh.units import Timestamp

TagConditions = tuple[tuple[str, tuple[str, ...]], ...]
"""For each single-letter tag name, the values of which one must occur."""

_HEX_TAGS: Final = frozenset("ep")


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that an event must meet, all of them; a condition that is None (or an absent tag) asks for nothing.

    An empty tuple of values is a condition that no event meets.

    Args:
        ids: The event's id is one of these.
        authors: The event's author is one of these.
        kinds: The event's kind is one of these.
        tags: For each (single letter, values), some tag of that name has one of the values as its first value.
        since: The event was created at this time or later.
        until: The event was created at this time or earlier.
        limit: At most so many stored events, the newest; no condition on an event, so `matches` ignores it.
    """

    ids: tuple[EventId, ...] | None = None
    authors: tuple[PublicKey, ...] | None = None
    kinds: tuple[int, ...] | None = None
    tags: TagConditions = ()
    since: Timestamp | None = None
    until: Timestamp | None = None
    limit: int | None = None
    # The same lists as sets, made once: a relay asks `matches` far more often than it parses a filter.
    _ids: frozenset[str] | None = field(init=False, repr=False, compare=False)
    _authors: frozenset[str] | None = field(init=False, repr=False, compare=False)
    _kinds: frozenset[int] | None = field(init=False, repr=False, compare=False)
    _tags: tuple[tuple[str, frozenset[str]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", None if self.ids is None else frozenset(self.ids))
        object.__setattr__(self, "_authors", None if self.authors is None else frozenset(self.authors))
        object.__setattr__(self, "_kinds", None if self.kinds is None else frozenset(self.kinds))
        object.__setattr__(self, "_tags", tuple((letter, frozenset(values)) for letter, values in self.tags))

    def matches(self, event: Event) -> bool:
        """Whether `event` meets every condition (NIP-01); `limit` is none."""
        if self._kinds is not None and event.kind not in self._kinds:
            return False
        if self._authors is not None and event.public_key not in self._authors:
            return False
        if self._ids is not None and event.id not in self._ids:
            return False
        if self.since is not None and event.created_at < self.since:
            return False
        if self.until is not None and event.created_at > self.until:
            return False
        for letter, values in self._tags:
            for tag in event.tags:
                if tag[0] == letter and len(tag) > 1 and tag[1] in values:
                    break
            else:
                return False
        return True

    def to_json(self) -> dict[str, Any]:
        """The filter as the JSON object of NIP-01, conditions that ask for nothing left out."""
        lists = (("ids", self.ids), ("authors", self.authors), ("kinds", self.kinds))
        value: dict[str, Any] = {name: list(values) for name, values in lists if values is not None}
        value.update((f"#{letter}", list(values)) for letter, values in self.tags)
        numbers = (("since", self.since), ("until", self.until), ("limit", self.limit))
        value.update((name, number) for name, number in numbers if number is not None)
        return value


def parse_filter(value: object) -> Filter:
    """Check a filter that was parsed from JSON, strictly: what is not understood would match too much.

    An `until` after the last possible `created_at` is brought down to it, since it means the same.

    Raises:
        RemoteProtocolError: The filter is no object, or has an unknown element or one of the wrong form.
    """
    if not isinstance(value, dict):
        raise RemoteProtocolError("a filter must be a JSON object")
    conditions: dict[str, Any] = {}
    tags: list[tuple[str, tuple[str, ...]]] = []
    for name, element in value.items():
        if name in ("ids", "authors"):
            conditions[name] = _parse_hex_values(name, element)
        elif name == "kinds":
            conditions[name] = _parse_kinds(element)
        elif name in ("since", "until", "limit"):
            conditions[name] = _parse_number(name, element)
        elif len(name) == 2 and name[0] == "#" and name[1].isascii() and name[1].isalpha():
            tags.append((name[1], _parse_tag_values(name, element)))
        else:
            raise RemoteProtocolError(
                "a filter may hold ids, authors, kinds, single-letter #tags, since, until and limit, nothing else"
            )
    return Filter(tags=tuple(tags), **conditions)


def _parse_hex_values(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(map(is_hex_32, value)):
        raise RemoteProtocolError(f"a filter's {name} must be a list of 64 lowercase hex characters each")
    return tuple(value)


def _parse_tag_values(name: str, value: object) -> tuple[str, ...]:
    if name[1] in _HEX_TAGS:
        return _parse_hex_values(name, value)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RemoteProtocolError(f"a filter's {name} must be a list of strings")
    return tuple(value)


def _parse_kinds(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= MAXIMUM_KIND for item in value):
        raise RemoteProtocolError(f"a filter's kinds must be a list of integers from 0 to {MAXIMUM_KIND}")
    return tuple(value)


def _parse_number(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise RemoteProtocolError(f"a filter's {name} must be an integer of at least 0")
    if name == "until":
        return min(value, MAXIMUM_CREATED_AT)
    if value > MAXIMUM_CREATED_AT:
        raise RemoteProtocolError(f"a filter's {name} must be at most {MAXIMUM_CREATED_AT}")
    return value
