"""What administrators decided while the relay runs (NIP-86), on top of what its settings say."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from relaymesh_relay.addresses import name_address
from relaymesh_relay.settings import Settings

ALLOWED: Final = "allowed"
DENIED: Final = "denied"


class Listing(StrEnum):
    """The lists that administrators keep."""

    BANNED_AUTHOR = "banned_author"
    ALLOWED_AUTHOR = "allowed_author"
    BANNED_EVENT = "banned_event"
    KIND = "kind"
    BLOCKED_ADDRESS = "blocked_address"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Change:
    """One decision.

    Args:
        listing: Which list.
        value: What is put on it: a public key, an event id, a kind, an address, or a name of `Identity`.
        reason: Why, or empty; `ALLOWED` or `DENIED` for a kind; the new text for an identity. None takes it off again.
    """

    listing: Listing
    value: str
    reason: str | None


class Moderation:
    """All decisions.

    Args:
        changes: What was decided before the relay started.
    """

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._lists: dict[Listing, dict[str, str]] = {listing: {} for listing in Listing}
        self.blocked_names: frozenset[str] = frozenset()
        """Blocked addresses, under the names that connections are counted by."""
        for change in changes:
            self._put(change)
        self._name_blocked()

    def decide(self, change: Change) -> None:
        """Take in one more decision."""
        self._put(change)
        self._name_blocked()

    def entries(self, listing: Listing) -> dict[str, str]:
        """What is on a list, and why."""
        return self._lists[listing]

    def bans(self) -> tuple[Change, ...]:
        """The decisions that have stored events removed."""
        listings = (Listing.BANNED_AUTHOR, Listing.BANNED_EVENT)
        return tuple(
            Change(listing, value, reason) for listing in listings for value, reason in self._lists[listing].items()
        )

    def apply(self, settings: Settings) -> Settings:
        """The settings as administrators changed them."""
        access, kinds = settings.access, self._lists[Listing.KIND]
        allowed = tuple(int(kind) for kind, verdict in kinds.items() if verdict == ALLOWED)
        denied = tuple(int(kind) for kind, verdict in kinds.items() if verdict == DENIED)
        return replace(
            settings,
            identity=replace(settings.identity, **self._lists[Listing.IDENTITY]),
            access=replace(
                access,
                # A list that is empty takes everything: allowing one kind must not refuse all others.
                allowed_kinds=access.allowed_kinds and access.allowed_kinds + allowed,
                denied_kinds=tuple(kind for kind in access.denied_kinds if kind not in allowed) + denied,
                denied_authors=access.denied_authors + tuple(self._lists[Listing.BANNED_AUTHOR]),
                members=access.members + tuple(self._lists[Listing.ALLOWED_AUTHOR]),
            ),
        )

    def _put(self, change: Change) -> None:
        if change.reason is None:
            self._lists[change.listing].pop(change.value, None)
        else:
            self._lists[change.listing][change.value] = change.reason

    def _name_blocked(self) -> None:
        self.blocked_names = frozenset(map(name_address, self._lists[Listing.BLOCKED_ADDRESS]))
