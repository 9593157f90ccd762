"""Negotiation: an `Opening` machine joined to relays, from chosen nodes to quotes or to a session's contract."""

from collections.abc import Callable
from secrets import token_bytes
from typing import Final

import anyio
import anyio.to_thread

from relaymesh.machines.entropy import Entropy
from relaymesh.machines.guaranteeing import Guarantor
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
    RouterAnswered,
    RoutingRequest,
    SessionAgreed,
)
from relaymesh.market.bids import Way
from relaymesh.market.selection import Selection
from relaymesh.market.standing import NOBODY_KNOWN, Standings
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import MINING_BATCH, search
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.roles.driver import Clock, Driver

ANSWER_KINDS: Final = (Kind.QUOTE, Kind.SESSION_ACCEPT, Kind.REFUSAL, Kind.RANKING)
QuoteWatcher = Callable[[QuoteArrived], None]
RouterWatcher = Callable[[RouterAnswered], None]
NegotiationEnd = SessionAgreed | OpeningFailed | QuotesCollected


async def collect_quotes(
    relays: Relays,
    clock: Clock,
    selection: Selection,
    *,
    way: Way = "directed",
    standings: Standings = NOBODY_KNOWN,
    routing: RoutingRequest | None = None,
    on_router: RouterWatcher | None = None,
    credit_key: KeyPair | None = None,
) -> QuotesCollected:
    """Ask the chosen nodes for quotes, or everybody for bids, under a key made for this alone, and leave it at that."""
    key = KeyPair.generate()
    result = await negotiate(
        relays,
        clock,
        selection,
        key,
        key.public_key,
        wants_session=False,
        way=way,
        standings=standings,
        routing=routing,
        on_router=on_router,
        credit_key=credit_key,
    )
    assert isinstance(result, QuotesCollected)
    return result


async def negotiate(
    relays: Relays,
    clock: Clock,
    selection: Selection,
    key: KeyPair,
    ephemeral_key: PublicKey,
    *,
    settings: OpeningSettings | None = None,
    on_quote: QuoteWatcher | None = None,
    wants_session: bool = True,
    way: Way = "directed",
    standings: Standings = NOBODY_KNOWN,
    routing: RoutingRequest | None = None,
    on_router: RouterWatcher | None = None,
    credit_key: KeyPair | None = None,
) -> NegotiationEnd:
    """Drive an `Opening` to its last effect.

    Args:
        key: The client session key; `ephemeral_key` is for the session to come, `credit_key` vouches under `postpay`.
        on_quote: Told of every quote and refusal as it arrives; `on_router` of every router's answer.
        standings: What is known about the nodes, for the choice among their quotes.
        routing: Whom to ask when the way is `routed`.
    """
    machine = Opening(
        selection,
        signer=key,
        verify=verify,
        ephemeral_key=ephemeral_key,
        relay_urls=relays.urls,
        entropy=Entropy(token_bytes(32)),
        settings=settings,
        wants_session=wants_session,
        way=way,
        standings=standings,
        routing=routing,
        guarantor=None if credit_key is None else Guarantor(credit_key, key.public_key),
    )
    answers = Filter(kinds=ANSWER_KINDS, tags=(("p", (key.public_key,)),))
    return await _Run(relays, machine, clock, on_quote, on_router).converse(answers)


class _Run:
    def __init__(
        self,
        relays: Relays,
        machine: Opening,
        clock: Clock,
        on_quote: QuoteWatcher | None,
        on_router: RouterWatcher | None,
    ) -> None:
        self.result: NegotiationEnd | None = None
        self.driver: Driver[OpeningInput, OpeningEffect] = Driver(machine, self._act, clock)
        self._relays, self._on_quote, self._on_router = relays, on_quote, on_router

    async def converse(self, answers: Filter) -> NegotiationEnd:
        """Listen for answers while the machine runs."""
        async with self._relays.subscribe((answers,)) as deliveries, anyio.create_task_group() as tasks:

            async def listen() -> None:
                async for delivery in deliveries:
                    if isinstance(delivery, Delivered):
                        self.driver.tell(EventArrived(delivery.event))

            tasks.start_soon(listen)
            await self.driver.run()
            tasks.cancel_scope.cancel()
        assert self.result is not None
        return self.result

    def _act(self, driver: Driver[OpeningInput, OpeningEffect], effect: OpeningEffect) -> bool:
        match effect:
            case Publish(event, relay_url):
                driver.start_soon(self._publish, event, relay_url)
            case Mine():
                driver.start_soon(self._mine, effect)
            case QuoteArrived():
                if self._on_quote is not None:
                    self._on_quote(effect)
            case RouterAnswered():
                if self._on_router is not None:
                    self._on_router(effect)
            case SessionAgreed() | OpeningFailed() | QuotesCollected():
                self.result = effect
                driver.stop()
        return True

    async def _publish(self, event: VerifiedEvent, relay_url: str) -> None:
        for answer in await self._relays.publish(event, (relay_url,)):
            self.driver.tell(RelayAnswered(answer.relay_url, event.id, answer.accepted, answer.message))

    async def _mine(self, wanted: Mine) -> None:
        """Mine in a thread, batch by batch, so that giving up takes effect at once."""
        mined, first_nonce = None, 0
        while mined is None:
            mined = await anyio.to_thread.run_sync(_search, wanted, first_nonce)
            first_nonce += MINING_BATCH
        self.driver.tell(Mined(wanted.draft, mined))


def _search(wanted: Mine, first_nonce: int) -> UnsignedEvent | None:
    return search(wanted.draft, wanted.bits, first_nonce=first_nonce, tries=MINING_BATCH)
