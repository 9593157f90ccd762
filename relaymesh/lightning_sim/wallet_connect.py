"""A wallet service for a wallet of the simulated network: whoever has its connection string uses the wallet (NIP-47).

Keys follow from the simulated node's own, so that a connection stays good when the network starts again. A request is
carried out once, however often a relay brings it, and its answer is sent again.
"""

import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskStatus

from relaymesh.adapters.wallet_connect_file import WalletConnection, save_connection
from relaymesh.adapters.wallet_connect_link import follow_relay
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.errors import RemoteProtocolError
from relaymesh.lightning_sim.ledger import Change
from relaymesh.lightning_sim.records import AttemptRecord, InvoiceRecord
from relaymesh.lightning_sim.server import LightningNetwork
from relaymesh.lightning_sim.wallet_connect_commands import (
    COMMANDS,
    NOTIFICATIONS,
    answer_wallet,
    describe_incoming,
    describe_outgoing,
)
from relaymesh.nostr import wallet_connect as nip47
from relaymesh.nostr.event import EventId, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.wallet_connect import (
    WalletAbilities,
    WalletError,
    WalletNotification,
    WalletResponse,
    build_abilities,
    build_notification,
    build_response,
    read_request,
    request_expiry,
)
from relaymesh.ports.relays import Delivered, Delivery, Relays, StoredEventsEnd
from relaymesh.units import MILLISECONDS_PER_SECOND, Moment

MAXIMUM_REMEMBERED: Final = 1_024
MAXIMUM_UNTOLD: Final = 1_024
REQUESTS_AT_ONCE: Final = 64
CONNECTION_FILE_NAME: Final = "wallet-connect"


@dataclass(slots=True)
class ConnectionFaults:
    """What goes wrong on purpose, for tests.

    Args:
        lose_answers: For a method, how many of the next answers are never sent, though the request is carried out.
        answer_late_ms: For a method, how late its answers are.
        answer_twice: Whether each answer is followed by another one, which says something else.
        deny_payments: Whether payments are answered with a failure, and made.
    """

    lose_answers: dict[str, int] = field(default_factory=dict)
    answer_late_ms: dict[str, int] = field(default_factory=dict)
    answer_twice: bool = False
    deny_payments: bool = False


class WalletService:
    """Answers for one wallet, while `run` runs.

    Args:
        network: Where the wallet is.
        name: The wallet's.
        relays: Connected to the relays over which it is to be reached.
        clock: For the times that events carry.

    Attributes:
        connection: What a client needs; a secret.
        faults: What is to go wrong.
    """

    def __init__(self, network: LightningNetwork, name: str, relays: Relays, clock: Callable[[], Moment]) -> None:
        secret = bytes.fromhex(network.simulation.ledger.nodes[name].secret)
        self._network = network
        self._name = name
        self._relays = relays
        self._clock = clock
        self._key = KeyPair(hmac.digest(secret, b"relaymesh wallet connect: service", "sha256"))
        client = KeyPair(hmac.digest(secret, b"relaymesh wallet connect: client", "sha256"))
        self.connection = WalletConnection(self._key.public_key, relays.urls, client)
        self.faults = ConnectionFaults()
        self._answers: OrderedDict[EventId, VerifiedEvent | None] = OrderedDict()
        self._untold: deque[WalletNotification] = deque(maxlen=MAXIMUM_UNTOLD)
        self._has_news = anyio.Event()
        self._places = anyio.Semaphore(REQUESTS_AT_ONCE)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; begun once every relay has been asked for requests."""
        waiting = set(self._relays.urls)
        unwatch = self._network.watch(self._notice)
        try:
            async with anyio.create_task_group() as tasks:

                def take(delivery: Delivery) -> None:
                    if isinstance(delivery, Delivered):
                        tasks.start_soon(self._serve, delivery.event)
                    elif isinstance(delivery, StoredEventsEnd):
                        tasks.start_soon(self._announce, delivery.relay_url)
                        waiting.discard(delivery.relay_url)
                        if not waiting and not started:
                            started.append(True)
                            task_status.started()

                started: list[bool] = []
                tasks.start_soon(self._tell_news)
                for url in self._relays.urls:
                    tasks.start_soon(follow_relay, self._relays, self._filters(), url, take)
        finally:
            unwatch()

    def _filters(self) -> tuple[Filter, ...]:
        to_us = (("p", (self._key.public_key,)),)
        author = (self.connection.key.public_key,)
        return (Filter(kinds=(Kind.WALLET_REQUEST,), authors=author, tags=to_us, limit=1),)

    async def _announce(self, url: str) -> None:
        """The info event, again whenever a relay is new to us: it may have lost what it had."""
        abilities = WalletAbilities(frozenset(COMMANDS) | {"notifications"}, NOTIFICATIONS)
        event = self._key.sign(build_abilities(self._key.public_key, abilities, self._clock().timestamp))
        await self._relays.publish(event, (url,))

    async def _serve(self, event: VerifiedEvent) -> None:
        """One request, if it is new, in time, and the wallet is up."""
        if self._is_down():
            return
        if event.id in self._answers:
            known = self._answers[event.id]
            if known is not None:
                await self._relays.publish(known)
            return
        expires_at = request_expiry(event)
        if expires_at is not None and expires_at < self._clock().timestamp:
            return
        self._answers[event.id] = None
        if len(self._answers) > MAXIMUM_REMEMBERED:
            self._answers.popitem(last=False)
        async with self._places:
            response = await self._carry_out(event)
        await self._send(event.id, response)

    async def _carry_out(self, event: VerifiedEvent) -> WalletResponse:
        if event.tag_value("encryption") != nip47.NIP44:
            error = WalletError(nip47.UNSUPPORTED_ENCRYPTION, f"only {nip47.NIP44} is supported")
            return WalletResponse("", error=error)
        try:
            request = read_request(event, self._key)
        except RemoteProtocolError as error:
            return WalletResponse("", error=WalletError(nip47.OTHER, str(error)))
        return await answer_wallet(self._network, self._name, request)

    async def _send(self, request_id: EventId, response: WalletResponse) -> None:
        if self._is_down():
            return
        if self.faults.deny_payments and response.method == nip47.PAY_INVOICE:
            response = _denial(response)
        await anyio.sleep(self.faults.answer_late_ms.get(response.method, 0) / MILLISECONDS_PER_SECOND)
        answers = [self._sign(request_id, response)]
        self._answers[request_id] = answers[0]
        if self.faults.lose_answers.get(response.method, 0) > 0:
            self.faults.lose_answers[response.method] -= 1
            return
        if self.faults.answer_twice:
            answers.append(self._sign(request_id, _denial(response)))
        for answer in answers:
            await self._relays.publish(answer)

    def _sign(self, request_id: EventId, response: WalletResponse) -> VerifiedEvent:
        return build_response(
            self._key,
            self.connection.key.public_key,
            request_id,
            response,
            nonce=secrets.token_bytes(32),
            created_at=self._clock().timestamp,
        )

    def _is_down(self) -> bool:
        return self._name in self._network.simulation.faults.down

    # ── notifications ─────────────────────────────────────────────────────────────────────────────────────────────

    def _notice(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            told = self._describe(change)
            if told is not None:
                self._untold.append(told)
                self._has_news.set()

    def _describe(self, change: Change) -> WalletNotification | None:
        match change.record:
            case InvoiceRecord(payee=self._name, status="paid") as invoice:
                return WalletNotification(nip47.PAYMENT_RECEIVED, describe_incoming(invoice))
            case InvoiceRecord(payee=self._name, status="accepted") as invoice:
                return WalletNotification(nip47.HOLD_INVOICE_ACCEPTED, describe_incoming(invoice))
            case AttemptRecord(payer=self._name, status="complete") as attempt:
                return WalletNotification(nip47.PAYMENT_SENT, describe_outgoing(self._network.simulation, attempt))
        return None

    async def _tell_news(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news = anyio.Event()
            while self._untold:
                told = self._untold.popleft()
                if not self._is_down():
                    await self._relays.publish(
                        build_notification(
                            self._key,
                            self.connection.key.public_key,
                            told,
                            nonce=secrets.token_bytes(32),
                            created_at=self._clock().timestamp,
                        )
                    )


@asynccontextmanager
async def serve_wallets(
    network: LightningNetwork, relay_urls: tuple[str, ...], clock: Callable[[], Moment]
) -> AsyncIterator[dict[str, Path]]:
    """Serve every wallet of the network at these relays while the block lasts; nobody where no relay is named.

    Yields:
        For each wallet, the file with its connection string, which only its owner can read.

    Raises:
        UsageError: A URL is no relay's, or a file cannot be written.
    """
    connections: dict[str, Path] = {}
    if not relay_urls:
        yield connections
        return
    async with WebSocketRelays(relay_urls, clock=clock) as relays, anyio.create_task_group() as tasks:
        for name, node in network.simulation.ledger.nodes.items():
            if not node.is_hub:
                service = WalletService(network, name, relays, clock)
                connections[name] = network.rpc_path(name).with_name(CONNECTION_FILE_NAME)
                connections[name].unlink(missing_ok=True)
                save_connection(connections[name], service.connection)
                tasks.start_soon(service.run)
        yield connections
        tasks.cancel_scope.cancel()


def _denial(response: WalletResponse) -> WalletResponse:
    return WalletResponse(response.method, error=WalletError(nip47.PAYMENT_FAILED, "no route was found"))
