"""The queue of a node whose places are all taken: bounded, and fair to clients (RM-02, "Jobs").

One key has as many places in the queue as it may have and no more, and the keys take turns: whoever sends fifty jobs at
once waits for forty-nine of them behind everybody who sends one.
"""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from relaymesh.errors import LocalProtocolError
from relaymesh.nostr.event import PublicKey

TicketT = TypeVar("TicketT")


class WaitingQueue(Generic[TicketT]):
    """Who waits, in the order in which they will be served.

    Args:
        limit: Tickets of all clients together; 0 lets nobody wait.
        limit_per_client: Tickets of one client session key.
    """

    def __init__(self, limit: int, limit_per_client: int) -> None:
        if limit < 0 or limit_per_client < 1:
            raise LocalProtocolError("a queue holds at least nobody, and of each client at least one")
        self.limit, self._limit_per_client = limit, limit_per_client
        self._turns: OrderedDict[PublicKey, deque[TicketT]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def enter(self, client: PublicKey, ticket: TicketT) -> bool:
        """Wait behind those who wait; False when there is no room, or not for this client."""
        if not self.has_room(client):
            return False
        self._turns.setdefault(client, deque()).append(ticket)
        self._length += 1
        return True

    def has_room(self, client: PublicKey) -> bool:
        """Whether this client may wait."""
        return self._length < self.limit and len(self._turns.get(client, ())) < self._limit_per_client

    def leave(self, client: PublicKey, ticket: TicketT) -> None:
        """Wait no longer; costs what this client has waiting."""
        waiting = self._turns.get(client)
        if waiting is None or ticket not in waiting:
            return
        waiting.remove(ticket)
        self._length -= 1
        if not waiting:
            del self._turns[client]

    def take(self) -> TicketT | None:
        """Whose turn it is: the next client's oldest ticket; that client's others then wait for its next turn."""
        if not self._turns:
            return None
        client, waiting = self._turns.popitem(last=False)
        self._length -= 1
        ticket = waiting.popleft()
        if waiting:
            self._turns[client] = waiting
        return ticket
