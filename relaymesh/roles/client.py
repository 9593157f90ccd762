"""The client: keeps the market in view, opens sessions with those who sell best, runs jobs (RM-01, RM-02).

What it decides is decided by machines and by the market's functions; here they meet relays, wallet, ledger and clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_bytes
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from relaymesh.errors import RemoteProtocolError, SessionError
from relaymesh.machines.client_session import ClientSession
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.opening import Opening
from relaymesh.machines.opening_events import (
    EventArrived,
    Mine,
    Mined,
    OpeningEffect,
    OpeningFailed,
    OpeningInput,
    OpeningSettings,
    Publish,
    QuoteArrived,
    QuotesCollected,
    RelayAnswered,
    SessionAgreed,
)
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.market.directory import Directory
from relaymesh.market.eligibility import BuyerRequest
from relaymesh.market.selection import Selection, select
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import mine
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.ports.sessions import Connection, Dialer
from relaymesh.protocol.codec import TOPIC
from relaymesh.protocol.key_schedule import derive_session_secrets
from relaymesh.roles.client_jobs import ClientTools, OpenSession
from relaymesh.roles.driver import Driver
from relaymesh.roles.session_driver import SessionDriver

MARKET_FILTER: Final = Filter(kinds=(Kind.OFFER, Kind.STATUS), tags=(("t", (TOPIC,)),))
ANSWER_KINDS: Final = (Kind.QUOTE, Kind.SESSION_ACCEPT, Kind.REFUSAL)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a client looks for nodes.

    Args:
        candidates: How many nodes are asked for a quote.
        discovery_seconds: How long to wait for a node that can serve, when none is in view yet.
    """

    candidates: int = 3
    discovery_seconds: float = 5.0
    opening: OpeningSettings = field(default_factory=OpeningSettings)
    session: SessionSettings = field(default_factory=SessionSettings)


QuoteWatcher = Callable[[QuoteArrived], None]
OpeningEnd = SessionAgreed | OpeningFailed | QuotesCollected


class Client:
    """`async with` it: the market comes into view and sessions can be opened until the block ends.

    Args:
        relays: Where to look and to talk.
        dialer: How to connect to nodes.
        tools: Wallet, ledger, invoice reader, clock.
        settings: How to look for nodes.
    """

    def __init__(
        self, relays: Relays, dialer: Dialer, tools: ClientTools, settings: ClientSettings | None = None
    ) -> None:
        self.directory = Directory()
        self.tools = tools
        self._relays, self._dialer = relays, dialer
        self._settings = settings or ClientSettings()
        self._changed = anyio.Event()
        self._complete: set[str] = set()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._follow_market)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(error_type, error, trace)

    # ── the market ────────────────────────────────────────────────────────────────────────────────────────────────

    def select(self, request: BuyerRequest, seed: bytes | None = None) -> Selection:
        """Choose among the nodes now in view, with a reason for everyone left out."""
        now = self.tools.clock().timestamp
        candidates = self.directory.candidates(None, request.job_type, now)
        chosen_seed = seed if seed is not None else token_bytes(32)
        return select(candidates, request, seed=chosen_seed, count=self._settings.candidates, now=now)

    async def wait_for_choice(self, request: BuyerRequest) -> Selection:
        """Choose as soon as every relay has told what it has and somebody can serve, or when the wait is over."""
        with anyio.move_on_after(self._settings.discovery_seconds):
            while True:
                changed = self._changed
                selection = self.select(request)
                if selection.chosen and self.is_market_complete:
                    return selection
                await changed.wait()
        return self.select(request)

    @property
    def is_market_complete(self) -> bool:
        """Whether every relay has sent all it had stored."""
        return self._complete >= set(self._relays.urls)

    async def wait_market_changed(self) -> None:
        """Wait until an offer or a status changes, comes or goes; has no deadline, since a market may stand still."""
        await self._changed.wait()

    async def _follow_market(self) -> None:
        async with self._relays.subscribe((MARKET_FILTER,)) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, Delivered):
                    now = self.tools.clock().timestamp
                    if not self.directory.apply(delivery.event, delivery.relay_url, now):
                        continue
                else:
                    self._complete.add(delivery.relay_url)
                self._changed.set()
                self._changed = anyio.Event()

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def open_session(
        self, selection: Selection, on_quote: QuoteWatcher | None = None, key: KeyPair | None = None
    ) -> OpenSession | OpeningFailed:
        """Ask the chosen nodes for quotes, take the best, shake hands, connect.

        Args:
            selection: Whom to ask.
            on_quote: Told of every quote and refusal as it arrives.
            key: The client session key; None makes a fresh one, as every session should have.
        """
        key = key or KeyPair.generate()
        ephemeral = KeyPair.generate()
        result = await self._converse(selection, key, ephemeral, on_quote, wants_session=True)
        if isinstance(result, SessionAgreed):
            return await self._connect(result, key, ephemeral)
        assert isinstance(result, OpeningFailed)
        return result

    async def collect_quotes(self, selection: Selection) -> QuotesCollected:
        """Ask the chosen nodes for quotes, and leave it at that."""
        key = KeyPair.generate()
        result = await self._converse(selection, key, key, None, wants_session=False)
        assert isinstance(result, QuotesCollected)
        return result

    async def _converse(
        self,
        selection: Selection,
        key: KeyPair,
        ephemeral: KeyPair,
        on_quote: QuoteWatcher | None,
        *,
        wants_session: bool,
    ) -> OpeningEnd:
        """Drive an `Opening` over the relays to its last effect."""
        answers = Filter(kinds=ANSWER_KINDS, tags=(("p", (key.public_key,)),))
        machine = Opening(
            selection,
            signer=key,
            ephemeral_key=ephemeral.public_key,
            relay_urls=self._relays.urls,
            entropy=Entropy(token_bytes(32)),
            settings=self._settings.opening,
            wants_session=wants_session,
        )
        run = _OpeningRun(self._relays, machine, self.tools, on_quote)
        async with self._relays.subscribe((answers,)) as deliveries, anyio.create_task_group() as tasks:

            async def listen() -> None:
                async for delivery in deliveries:
                    if isinstance(delivery, Delivered):
                        run.driver.tell(EventArrived(delivery.event))

            tasks.start_soon(listen)
            await run.driver.run()
            tasks.cancel_scope.cancel()
        assert run.result is not None
        return run.result

    async def _connect(self, agreed: SessionAgreed, key: KeyPair, ephemeral: KeyPair) -> OpenSession:
        contract, accept = agreed.contract, agreed.accept
        try:
            ephemeral_secret = ephemeral.shared_secret(type(key.public_key)(accept.ephemeral_key))
        except RemoteProtocolError as error:
            raise SessionError(f"the node's session key is not usable: {error}") from error
        secrets = derive_session_secrets(
            contract.request_id, contract.accept_id, ephemeral_secret, ephemeral.shared_secret(contract.node)
        )
        session = OpenSession(contract, key, secrets, self.tools)
        machine = ClientSession(contract.session_id, secrets, self._settings.session)
        endpoints = list(accept.endpoints)

        async def dial() -> Connection:
            endpoints.append(endpoints.pop(0))  # the next attempt begins with the next endpoint
            return await self._dialer.dial(endpoints[-1])

        driver = SessionDriver(machine, machine.receive, session, self.tools.clock, dial)
        assert self._tasks is not None
        await self._tasks.start(session.run, driver)
        return session


class _OpeningRun:
    """An `Opening` machine joined to relays."""

    def __init__(self, relays: Relays, machine: Opening, tools: ClientTools, on_quote: QuoteWatcher | None) -> None:
        self.result: OpeningEnd | None = None
        self.driver: Driver[OpeningInput, OpeningEffect] = Driver(machine, self._carry_out, tools.clock)
        self._relays, self._on_quote = relays, on_quote

    async def _carry_out(self, driver: Driver[OpeningInput, OpeningEffect], effect: OpeningEffect) -> None:
        match effect:
            case Publish(event, relay_url):
                driver.start_soon(self._publish, event, relay_url)
            case Mine():
                driver.start_soon(self._mine, effect)
            case QuoteArrived():
                if self._on_quote is not None:
                    self._on_quote(effect)
            case SessionAgreed() | OpeningFailed() | QuotesCollected():
                self.result = effect
                driver.stop()

    async def _publish(self, event: VerifiedEvent, relay_url: str) -> None:
        for answer in await self._relays.publish(event, (relay_url,)):
            self.driver.tell(RelayAnswered(event.id, answer.accepted, answer.message))

    async def _mine(self, wanted: Mine) -> None:
        mined = await anyio.to_thread.run_sync(mine, wanted.draft, wanted.bits, abandon_on_cancel=True)
        self.driver.tell(Mined(wanted.draft, mined))
