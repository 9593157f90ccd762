"""Requests to a wallet service over its relays, each with a deadline of its own (NIP-47).

A relay may lose an answer, a service may be restarting, a subscription may be closed: so whatever only asks is asked
again until its deadline, a `CLOSED` subscription is opened anew, and what moves money is sent once and looked up.
"""

import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup

from relaymesh.adapters.background_tasks import BackgroundTasks
from relaymesh.adapters.wallet_connect_file import WalletConnection
from relaymesh.errors import LightningError, RemoteProtocolError
from relaymesh.nostr.event import EventId, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.wallet_connect import (
    NIP44,
    WalletAbilities,
    WalletNotification,
    WalletRequest,
    WalletResponse,
    build_request,
    read_abilities,
    read_notification,
    read_response,
)
from relaymesh.ports.relays import Delivered, Delivery, Published, RelayGone, Relays, StoredEventsEnd
from relaymesh.units import Moment, Timestamp

MAXIMUM_UNANSWERED: Final = 1_024
"""So many requests may wait for their answer; the oldest is forgotten beyond."""

_FIRST_REPEAT_SECONDS: Final = 2.0
_LONGEST_REPEAT_SECONDS: Final = 8.0
_REFUSED_PAUSE_SECONDS: Final = 0.5
_REACH_SECONDS: Final = 5.0
"""So long nobody at all may be listening, or no info event be there, before a wallet is called out of reach."""

_FIRST_RETURN_SECONDS: Final = 0.2
_LONGEST_RETURN_SECONDS: Final = 30.0
_NOT_DELIVERED: Final = frozenset(
    {"mute", "blocked", "invalid", "pow", "auth-required", "restricted", "rate-limited", "unsupported"}
)
"""Reasons of an `OK` false after which a relay has passed the event on to nobody (NIP-01)."""


class WalletUnreachable(LightningError):
    """Nobody has been asked: no relay took the request, or the service cannot be asked this."""


class WalletSilent(LightningError):
    """The request left, and no answer came: whatever it asked for may have happened."""


class WalletRefused(LightningError):
    """The wallet's own no: a code of NIP-47 and its words."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"the wallet refused: {reason} ({code})")
        self.code = code
        self.reason = reason


@dataclass(eq=False, slots=True)
class Asked:
    """A request that was sent.

    Args:
        event: As it was signed.
        ended: Set once there is an answer, or it is clear that nobody received the request.
        response: The answer.
        refusal: Why no relay passed the request on to anybody; empty otherwise.
    """

    event: VerifiedEvent
    ended: anyio.Event = field(default_factory=anyio.Event)
    response: WalletResponse | None = None
    refusal: str = ""

    def result(self) -> dict[str, Any]:
        """What the wallet answered.

        Raises:
            WalletUnreachable: Nobody was asked.
            WalletSilent: There is no answer (yet).
            WalletRefused: The wallet said no.
        """
        if self.refusal:
            raise WalletUnreachable(f"the wallet cannot be reached: {self.refusal}", retryable=True)
        if self.response is None:
            raise WalletSilent("the wallet did not answer in time", retryable=True)
        if self.response.error is not None:
            raise WalletRefused(self.response.error.code, self.response.error.message)
        return self.response.result


class WalletLink:
    """The conversation with one wallet service, while its block runs.

    Args:
        connection: Whom to ask, where, and under which key.
        relays: Connected to the connection's relays, for as long as the block runs at least.
        clock: For the times that events carry.
        hear: Called with every notification; it must not block.
    """

    def __init__(
        self,
        connection: WalletConnection,
        relays: Relays,
        clock: Callable[[], Moment],
        hear: Callable[[WalletNotification], None],
    ) -> None:
        self._connection = connection
        self._relays = relays
        self._clock = clock
        self._hear = hear
        self._unanswered: dict[EventId, Asked] = {}
        self._abilities: WalletAbilities | None = None
        self._abilities_at = Timestamp(0)
        self._changed = anyio.Event()
        self._followed: set[str] = set()
        self._group: BackgroundTasks | None = None
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = BackgroundTasks()
        self._tasks = await self._group.__aenter__()
        for url in self._connection.relay_urls:
            self._tasks.start_soon(follow_relay, self._relays, self._filters(), url, self._hear_relay)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._group is not None
        return await self._group.__aexit__(kind, error, trace)

    def start_soon(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the conversation, until the block ends."""
        assert self._tasks is not None, "a wallet link is used inside its `async with` block"
        self._tasks.start_soon(task)

    async def abilities(self, seconds: float) -> WalletAbilities:
        """What the service says that it can do; waits for its info event.

        Raises:
            WalletUnreachable: There is none in time, or it offers no encryption that is safe.
        """
        until = anyio.current_time() + seconds
        while self._abilities is None and (left := until - anyio.current_time()) > 0:
            with anyio.move_on_after(min(left, _REACH_SECONDS) if self._followed else left) as waited:
                await self._changed.wait()
            if waited.cancelled_caught and self._followed:
                break
        if self._abilities is None:
            reason = "its relay has no info event (13194) of it" if self._followed else "its relay does not answer"
            raise WalletUnreachable(f"the wallet cannot be reached: {reason}", retryable=True)
        if NIP44 not in self._abilities.encryptions:
            raise WalletUnreachable(
                "the wallet speaks only the older encryption (NIP-04), which is not safe: take one that speaks NIP-44"
            )
        return self._abilities

    async def call(self, method: str, parameters: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask for something that changes nothing, or nothing twice; asked again until there is an answer.

        Raises:
            WalletUnreachable: Nobody could be asked in time.
            WalletSilent: No answer came in time.
            WalletRefused: The wallet said no.
        """
        began = anyio.current_time()
        until = began + seconds
        tries: list[Asked] = []
        pause = _FIRST_REPEAT_SECONDS
        try:
            while not tries or anyio.current_time() < until:
                latest = await self.ask(method, parameters, until - anyio.current_time())
                tries.append(latest)
                for each in tries:
                    each.ended = latest.ended  # an answer to an earlier request ends the wait as well
                with anyio.move_on_after(min(pause, until - anyio.current_time())):
                    await latest.ended.wait()
                answered = next((each for each in tries if each.response is not None), None)
                if answered is not None:
                    return answered.result()
                if all(each.refusal for each in tries) and anyio.current_time() > began + _REACH_SECONDS:
                    break
                if latest.refusal:
                    await anyio.sleep(min(_REFUSED_PAUSE_SECONDS, max(until - anyio.current_time(), 0)))
                else:
                    pause = min(2 * pause, _LONGEST_REPEAT_SECONDS)
            return next((each for each in tries if not each.refusal), tries[-1]).result()
        finally:
            for each in tries:
                self.forget(each)

    async def ask(self, method: str, parameters: dict[str, Any], seconds: float) -> Asked:
        """Send a request, once; its answer comes into what this returns, until that is forgotten.

        Raises:
            WalletUnreachable: It was not sent.
        """
        assert self._tasks is not None, "a wallet link is used inside its `async with` block"
        until = anyio.current_time() + seconds
        abilities = await self.abilities(seconds)
        if method not in abilities.methods:
            raise WalletUnreachable(f"the wallet does not offer {method} over this connection")
        with anyio.move_on_after(until - anyio.current_time()):
            while not self._followed:  # an answer would be lost
                await self._changed.wait()
        if not self._followed:
            raise WalletUnreachable("the wallet cannot be reached: its relay does not answer", retryable=True)
        now = self._clock().timestamp
        event = build_request(
            self._connection.key,
            self._connection.wallet,
            WalletRequest(method, parameters),
            nonce=secrets.token_bytes(32),
            created_at=now,
            expires_at=Timestamp(now + max(int(until - anyio.current_time()), 0) + 1),
        )
        asked = Asked(event)
        self._unanswered[event.id] = asked
        if len(self._unanswered) > MAXIMUM_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]
        self._tasks.start_soon(self._publish, asked)
        return asked

    def forget(self, asked: Asked) -> None:
        """Take no answer any more."""
        self._unanswered.pop(asked.event.id, None)

    async def _publish(self, asked: Asked) -> None:
        answers = await self._relays.publish(asked.event, self._connection.relay_urls)
        if answers and all(map(_is_not_delivered, answers)) and asked.response is None:
            asked.refusal = "; ".join(dict.fromkeys(f"{answer.message}"[:120] for answer in answers))
            asked.ended.set()

    def _hear_relay(self, delivery: Delivery) -> None:
        if isinstance(delivery, Delivered):
            self._take(delivery.event)
        elif isinstance(delivery, StoredEventsEnd):
            self._followed.add(delivery.relay_url)
            self._tell()
        elif isinstance(delivery, RelayGone):
            self._followed.discard(delivery.relay_url)

    def _filters(self) -> tuple[Filter, ...]:
        """The service's info event, and what it says to us; of old answers, where a relay keeps them, only one.

        No `since` does that: the service's clock may be behind ours.
        """
        author = (self._connection.wallet,)
        kinds = (Kind.WALLET_RESPONSE, Kind.WALLET_NOTIFICATION)
        to_us = (("p", (self._connection.key.public_key,)),)
        return (
            Filter(kinds=(Kind.WALLET_INFORMATION,), authors=author, limit=1),
            Filter(kinds=kinds, authors=author, tags=to_us, limit=1),
        )

    def _take(self, event: VerifiedEvent) -> None:
        """Whatever does not open, or answers nothing that we asked, is dropped."""
        try:
            if event.kind == Kind.WALLET_INFORMATION:
                if event.created_at >= self._abilities_at:
                    self._abilities, self._abilities_at = read_abilities(event), event.created_at
                    self._tell()
            elif event.kind == Kind.WALLET_NOTIFICATION:
                self._hear(read_notification(event, self._connection.key))
            else:
                self._answer(event)
        except RemoteProtocolError:
            pass

    def _answer(self, event: VerifiedEvent) -> None:
        asked = self._unanswered.get(EventId(event.tag_value("e") or ""))
        if asked is None or asked.response is not None:  # a second answer changes nothing
            return
        asked.response = read_response(event, self._connection.key)
        asked.refusal = ""
        del self._unanswered[asked.event.id]
        asked.ended.set()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


async def follow_relay(relays: Relays, filters: tuple[Filter, ...], url: str, take: Callable[[Delivery], None]) -> None:
    """Follow one relay for good: where it closes the subscription for good, a new one is opened after a while."""
    pause = _FIRST_RETURN_SECONDS
    while True:
        async with relays.subscribe(filters, (url,), with_carriers=True) as deliveries:
            async for delivery in deliveries:
                take(delivery)
                if isinstance(delivery, RelayGone):
                    break
                if isinstance(delivery, Delivered):
                    pause = _FIRST_RETURN_SECONDS
        await anyio.sleep(pause)
        pause = min(2 * pause, _LONGEST_RETURN_SECONDS)


def _is_not_delivered(answer: Published) -> bool:
    prefix, colon, _ = answer.message.partition(":")
    return not answer.accepted and bool(colon) and prefix in _NOT_DELIVERED
