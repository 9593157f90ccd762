"""The client: keeps the market in view, opens sessions with those who sell best, runs jobs (RM-01, RM-02).

What it decides is decided by machines and by the market's functions; here they meet relays, wallet, ledger and clock.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.client_session import ClientSession
from relaymesh.machines.opening_events import OpeningFailed, OpeningSettings, RouterAnswered, SessionAgreed
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.market.bids import Way, choose_way
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.probation import RouterRecord
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.relays import Relays
from relaymesh.ports.sessions import Connection, Dialer
from relaymesh.protocol.key_schedule import derive_session_secrets
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.roles.client_jobs import OpenSession
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.containment import INTERNAL_ERROR, Contained
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.negotiation import QuoteWatcher, negotiate
from relaymesh.roles.router_dealings import RouterDealings
from relaymesh.roles.routers import RouterExaminer
from relaymesh.roles.session_driver import SessionDriver
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a client looks for nodes.

    Args:
        candidates: How many nodes are asked for a quote.
        discovery_seconds: How long to wait for a node that can serve, when none is in view yet.
        way: How a session is asked for; None lets what is known about the best node decide, or `routers` if any.
        routers: Routers to ask.
        maximum_router_fee_msat: The most that one ranking may cost.
        credit_key: The long-term key that vouches for session keys where `postpay` is asked for; None has no credit.
    """

    candidates: int = 3
    discovery_seconds: float = 5.0
    way: Way | None = None
    routers: tuple[PublicKey, ...] = ()
    maximum_router_fee_msat: AmountMsat = AmountMsat(0)
    credit_key: KeyPair | None = field(default=None, repr=False)
    opening: OpeningSettings = field(default_factory=OpeningSettings)
    session: SessionSettings = field(default_factory=SessionSettings)


class Client:
    """`async with` it: the market comes into view and sessions can be opened until the block ends.

    Args:
        relays: Where to look and to talk.
        dialer: How to connect to nodes.
        tools: Wallet, ledger, invoice reader, clock.
        settings: How to look for nodes.
        records: What was seen of routers before.

    Attributes:
        relays: Where it looks and talks.
        routers: The routers it uses, and what came of their rankings.
    """

    def __init__(
        self,
        relays: Relays,
        dialer: Dialer,
        tools: ClientTools,
        settings: ClientSettings | None = None,
        records: dict[PublicKey, RouterRecord] | None = None,
    ) -> None:
        self.tools = tools
        self._settings = settings or ClientSettings()
        self.market = MarketView(relays, tools.clock, self._settings.candidates, tools.experience)
        self.relays, self._dialer = relays, dialer
        examiner = RouterExaminer(relays, self.market, tools.clock, records)
        self.routers = RouterDealings(
            examiner, self._settings.routers, tools, self.market, self._settings.maximum_router_fee_msat
        )
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.market)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._tasks.start_soon(self.tools.experience.follow, self.relays, self.tools.clock)
            await self.tools.experience.recall(self.tools.ledger)  # while the relays answer
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        return await self._stack.__aexit__(error_type, error, trace)

    async def wait_for_choice(
        self, request: BuyerRequest, *, policy: Policy = BALANCED, count: int | None = None
    ) -> Selection:
        """Choose as soon as every relay has told what it has and somebody can serve, or when the wait is over."""
        seconds = self._settings.discovery_seconds
        return await self.market.wait_for_choice(request, seconds, policy=policy, count=count)

    @property
    def candidates(self) -> int:
        """How many nodes are asked for a quote."""
        return self._settings.candidates

    async def open_session(
        self,
        selection: Selection,
        on_quote: QuoteWatcher | None = None,
        key: KeyPair | None = None,
        way: Way | None = None,
    ) -> OpenSession | OpeningFailed:
        """Ask for quotes, for bids or for the posted price, take the best, shake hands, connect.

        Args:
            selection: Whom to ask.
            on_quote: Told of every quote and refusal as it arrives.
            key: The client session key; None makes a fresh one, as every session should have.
            way: How to ask; None asks as the settings say.
        """
        key, ephemeral = key or KeyPair.generate(), KeyPair.generate()
        standings, routing = self.market.standings, self.routers.routing()
        by_itself: Way = "routed" if routing is not None else choose_way(selection, standings)
        with Contained("negotiation"):
            result = await negotiate(
                self.relays,
                self.tools.clock,
                selection,
                key,
                ephemeral.public_key,
                settings=self._settings.opening,
                on_quote=on_quote,
                way=way or self._settings.way or by_itself,
                standings=standings,
                routing=routing,
                on_router=self._take_router_answer,
                credit_key=self._settings.credit_key,
            )
            if isinstance(result, SessionAgreed):
                return await self._connect(result, key, ephemeral)
            assert isinstance(result, OpeningFailed)
            self.tools.experience.book_refusals(result.refusals)
            return result
        broken = refuse(RefusalCode.INTERNAL, INTERNAL_ERROR)
        return OpeningFailed(tuple((choice.candidate.offer.node, broken) for choice in selection.chosen))

    def _take_router_answer(self, answered: RouterAnswered) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self.routers.take, answered)

    async def _connect(self, agreed: SessionAgreed, key: KeyPair, ephemeral: KeyPair) -> OpenSession | OpeningFailed:
        contract, accept = agreed.contract, agreed.accept
        try:
            ephemeral_secret = ephemeral.shared_secret(PublicKey(accept.ephemeral_key))
        except RemoteProtocolError as error:
            refusal = refuse(RefusalCode.INVALID_MESSAGE, f"the node's session key is not usable: {error}")
            return OpeningFailed(((contract.node, refusal),))
        secrets = derive_session_secrets(
            contract.request_id, contract.accept_id, ephemeral_secret, ephemeral.shared_secret(contract.node)
        )
        session = OpenSession(contract, key, secrets, self.tools, agreed.chosen_term)
        machine = ClientSession(contract.session_id, secrets, self._settings.session)
        endpoints = list(accept.endpoints)

        async def dial() -> Connection:
            endpoints.append(endpoints.pop(0))  # the next attempt begins with the next endpoint
            return await self._dialer.dial(endpoints[-1])

        driver = SessionDriver(machine, machine.receive, session, self.tools.clock, dial)
        assert self._tasks is not None
        await self._tasks.start(session.run, driver)
        return session
