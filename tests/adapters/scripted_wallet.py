"""A wallet service that says exactly what a test tells it to, over a relay in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from relaymesh.adapters.wallet_connect_file import WalletConnection
from relaymesh.nostr.event import UnsignedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.wallet_connect import (
    NIP44,
    WalletAbilities,
    WalletNotification,
    WalletResponse,
    build_abilities,
    build_notification,
    build_response,
    read_request,
)
from relaymesh.ports.memory_relays import MemoryRelay
from relaymesh.ports.relays import Delivered
from relaymesh.units import Instant, Moment, Timestamp

NOW = Timestamp(1_750_000_000)
METHODS = frozenset({"pay_invoice", "make_invoice", "make_hold_invoice", "settle_hold_invoice", "lookup_invoice"})
Script = Callable[[str, dict[str, Any]], WalletResponse | None]


class ScriptedWallet:
    """Answers each request as the script says; None is silence."""

    def __init__(self, relay: MemoryRelay, script: Script) -> None:
        self.relay, self.script = relay, script
        self.key, self.client = KeyPair(b"\x21" * 32), KeyPair(b"\x22" * 32)
        self.connection = WalletConnection(self.key.public_key, (relay.url,), self.client)
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.ids: list[str] = []
        self._nonces = 0

    def announce(
        self,
        methods: frozenset[str] = METHODS | {"get_info", "get_balance"},
        encryptions: tuple[str, ...] = (NIP44,),
        created_at: Timestamp = NOW,
    ) -> None:
        """Publish the info event."""
        abilities = WalletAbilities(methods, frozenset(), encryptions)
        self.publish(build_abilities(self.key.public_key, abilities, created_at))

    def publish(self, event: UnsignedEvent) -> None:
        """Sign an event and hand it to the relay."""
        self.relay.accept(self.key.sign(event))

    def answer(self, request_id: str, response: WalletResponse, key: KeyPair | None = None) -> None:
        """Answer a request, under another key than ours if one is given."""
        author = key or self.key
        self._nonces += 1
        nonce = self._nonces.to_bytes(32)
        self.relay.accept(
            build_response(author, self.client.public_key, request_id, response, nonce=nonce, created_at=NOW)  # type: ignore[arg-type]  # any text may stand there
        )

    def notify(self, notification: WalletNotification) -> None:
        """Tell something unasked."""
        self._nonces += 1
        nonce = self._nonces.to_bytes(32)
        self.relay.accept(
            build_notification(self.key, self.client.public_key, notification, nonce=nonce, created_at=NOW)
        )

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Answer until cancelled."""
        filters = (Filter(kinds=(Kind.WALLET_REQUEST,), authors=(self.client.public_key,)),)
        async with self.relay.connect().subscribe(filters) as deliveries:
            task_status.started()
            async for delivery in deliveries:
                if isinstance(delivery, Delivered):
                    request = read_request(delivery.event, self.key)
                    self.heard.append((request.method, request.parameters))
                    self.ids.append(delivery.event.id)
                    response = self.script(request.method, request.parameters)
                    if response is not None:
                        self.answer(delivery.event.id, response)


@asynccontextmanager
async def scripted_wallet(script: Script, relay: MemoryRelay | None = None) -> AsyncIterator[ScriptedWallet]:
    """A scripted wallet service, for as long as the block lasts; announce it."""
    wallet = ScriptedWallet(relay or MemoryRelay(), script)
    async with anyio.create_task_group() as tasks:
        await tasks.start(wallet.run)
        yield wallet
        tasks.cancel_scope.cancel()


def clock() -> Moment:
    """A wall clock that stands still."""
    return Moment(Instant(int(anyio.current_time() * 1_000_000)), NOW * 1_000)
