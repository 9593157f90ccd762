"""What becomes of a session when its job is over: closed, unless somebody keeps it for the next."""

from typing import Protocol

from relaymesh.market.selection import Selection
from relaymesh.roles.client_jobs import OpenSession
from relaymesh.units import AmountMsat


class SessionKeeper(Protocol):
    """Who has sessions open already, and decides what becomes of one when its job is over."""

    def find(self, selection: Selection) -> OpenSession | None:
        """A session in which the job that was selected for can begin now, with a node as good as the chosen ones."""
        ...

    def begin(self, session: OpenSession, maximum_msat: AmountMsat) -> None:
        """A job that may cost so much begins in this session, found here or newly opened."""
        ...

    async def finish(self, session: OpenSession, maximum_msat: AmountMsat, *, is_sound: bool) -> None:
        """That job is over; `is_sound` if nothing about it speaks against using the session again."""
        ...


class OneJobEach:
    """Keeps no session: each serves one job and is closed."""

    def find(self, selection: Selection) -> OpenSession | None:
        """None is open."""
        return None

    def begin(self, session: OpenSession, maximum_msat: AmountMsat) -> None:
        """Its only job begins."""

    async def finish(self, session: OpenSession, maximum_msat: AmountMsat, *, is_sound: bool) -> None:
        """Close it."""
        await session.aclose()
