"""The node: publishes its offers and heartbeat, answers the market, serves sessions (RM-01, RM-02).

What it decides is decided by machines and by the market's functions; here they meet relays, listener, wallet, runner,
ledger and clock.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_bytes
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from relaymesh.errors import RelayError, RemoteProtocolError, SessionError
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.node_session import NodeSession
from relaymesh.machines.reception import Reception
from relaymesh.machines.reception_events import AwaitSession, PublishAnswer, ReceptionSettings, RequestArrived
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.market.admission import refuse_for_load
from relaymesh.market.surge import BASE_PERMILLE, SurgeTerms, surge_permille, surged_row
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, is_curve_point, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.relays import Delivered, Published, Relays
from relaymesh.ports.sessions import Connection, Listener
from relaymesh.protocol.codec import TOPIC, SignedOffer, build_offer, build_status, read_offer
from relaymesh.protocol.frames import parse_hello
from relaymesh.protocol.handshake import MAXIMUM_CONCURRENT_JOBS
from relaymesh.protocol.key_schedule import derive_session_secrets
from relaymesh.protocol.offer import Offer, PriceRow, SettlementTerm
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS
from relaymesh.protocol.session_messages import SessionId
from relaymesh.protocol.status import STATUS_LABEL, LabelLoad, Status
from relaymesh.roles.clock_check import check_clock
from relaymesh.roles.containment import Contained
from relaymesh.roles.node_jobs import ServedSession
from relaymesh.roles.node_tools import NodeTools
from relaymesh.roles.session_driver import SessionDriver
from relaymesh.units import Timestamp

HELLO_SECONDS: Final = 5
RELAY_SECONDS: Final = 5
"""So long a node waits for the first relay, to compare clocks before it signs anything."""
GOODBYE_SECONDS: Final = 0.5
"""For saying to all relays that the node is draining: with what closing takes, it is gone within two seconds."""
HEARTBEATS_UNTIL_EXPIRY: Final = 3
STATUSES_PER_HEARTBEAT: Final = 10
OFFER_RENEWED_AT: Final = 2
"""An offer is published again when half of its validity is over."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node sells and how it behaves.

    Args:
        label: The offer's `d`.
        rows: Prices; the model names are the runner's.
        settlement: Terms, preferred first.
        lightning_node_id: Who is paid: the wallet's own id.
        relay_urls: Where the node says it listens.
        heartbeat_seconds: Between statuses; 120 by default, since public relays limit what an address may publish.
        offer_validity_seconds: How long an offer stands.
        pow_bits: What requests must carry.
        maximum_sessions: All clients together; beyond it the node is busy.
        maximum_sessions_per_client: Under one client session key.
        surge: How far the posted prices follow the load.
        open_requests_per_second: How many calls on everybody are looked at; 0 makes the node bid for none.
        open_pow_bits: The least work of such a call.
    """

    label: str
    rows: tuple[PriceRow, ...]
    settlement: tuple[SettlementTerm, ...]
    lightning_node_id: str
    relay_urls: tuple[str, ...]
    region: str | None = None
    heartbeat_seconds: int = 120
    offer_validity_seconds: int = 3_600
    pow_bits: int = 0
    maximum_sessions: int = 1_024
    maximum_sessions_per_client: int = 16
    eta_ms: int = 1_000
    surge: SurgeTerms = field(default_factory=SurgeTerms)
    open_requests_per_second: int = 100
    open_pow_bits: int = OPEN_REQUEST_POW_BITS
    session: SessionSettings = field(default_factory=SessionSettings)


class Node:
    """Runs until cancelled; then it says that it is draining and ends its sessions.

    Args:
        settings: What it sells.
        relays: Where it is heard.
        listener: Where clients connect.
        tools: Key, wallet, runner, ledger, clock.
    """

    def __init__(self, settings: NodeSettings, relays: Relays, listener: Listener, tools: NodeTools) -> None:
        self._settings, self._relays, self._listener, self._tools = settings, relays, listener, tools
        self._offers: dict[EventId, SignedOffer] = {}
        self._sessions: dict[SessionId, ServedSession] = {}
        self._held: Counter[PublicKey] = Counter()
        self._crowded: set[PublicKey] = set()
        self._posted_permille = BASE_PERMILLE
        self._ephemeral = KeyPair.generate()  # for the next session, whoever opens it
        self._relay_heard = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._reception: Reception | None = None

    async def run(self, *, task_status: TaskStatus[SignedOffer]) -> None:
        """Serve until cancelled; started with its offer, once at least one relay has it.

        Raises:
            RelayError: No relay took the offer.
            UsageError: The node's clock is not the relays'.
        """
        async with self._listener.listen(self._accept) as endpoints:
            self._reception = self._make_reception(endpoints)
            self._reception.start(self._tools.clock())
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await tasks.start(self._listen)
                with anyio.move_on_after(RELAY_SECONDS):  # one that is out of reach shows when the offer is published
                    await self._relay_heard.wait()
                check_clock(self._relays.clock_offsets)
                offer = await self._publish_offer()
                await self._publish_status()
                tasks.start_soon(self._keep_offer)
                tasks.start_soon(self._beat)
                if not self._settings.surge.is_off:
                    tasks.start_soon(self._follow_demand)
                task_status.started(offer)
                try:
                    await anyio.sleep_forever()
                finally:
                    await self._say_goodbye()

    def _make_reception(self, endpoints: tuple[str, ...]) -> Reception:
        return Reception(
            ReceptionSettings(
                endpoints=endpoints,
                eta_ms=self._settings.eta_ms,
                max_jobs=min(self._tools.places.maximum_jobs, MAXIMUM_CONCURRENT_JOBS),
                idle_ms=self._settings.session.idle_in_ms,
                open_requests_per_second=self._settings.open_requests_per_second,
                open_pow_bits=self._settings.open_pow_bits,
            ),
            signer=self._tools.key,
            verify=verify,
            is_curve_point=is_curve_point,
            entropy=Entropy(token_bytes(32)),
            unpaid=self._tools.unpaid,
        )

    # ── state: offers and heartbeat ───────────────────────────────────────────────────────────────────────────────

    async def _publish_offer(self) -> SignedOffer:
        settings, now = self._settings, self._tools.clock().timestamp
        key = self._tools.key.public_key
        permille = surge_permille(self._tools.places.load(), settings.surge)
        offer = Offer(
            seq=await self._tools.ledger.next_sequence(f"{key}/{int(Kind.OFFER)}/{settings.label}", now),
            valid_until=Timestamp(now + self._offer_seconds),
            ln_pubkey=settings.lightning_node_id,
            pow_bits=settings.pow_bits,
            relays=settings.relay_urls,
            settlement=settings.settlement,
            rows=tuple(surged_row(row, permille) for row in settings.rows),
            region=settings.region,
        )
        event = await self._publish_state(build_offer(offer, settings.label, key, Timestamp(max(now, offer.seq))))
        signed = read_offer(event)
        # The one before stays valid for requests that were made on it, until it expires by itself.
        kept = {known.event.id: known for known in self._offers.values() if known.offer.valid_until > now}
        self._offers = {**kept, signed.event.id: signed}
        self._posted_permille = permille
        self._update_reception()
        return signed

    @property
    def _offer_seconds(self) -> int:
        """How long an offer stands; not long where prices move, since it binds the node for all that time."""
        validity, surge = self._settings.offer_validity_seconds, self._settings.surge
        return validity if surge.is_off else min(validity, surge.offer_seconds)

    async def _publish_status(self, draining: bool = False) -> None:
        settings, now = self._settings, self._tools.clock().timestamp
        load = self._tools.places.load()
        key = self._tools.key.public_key
        status = Status(
            seq=await self._tools.ledger.next_sequence(f"{key}/{int(Kind.STATUS)}/{STATUS_LABEL}", now),
            state="draining" if draining else "up" if refuse_for_load(load) is None else "busy",
            labels={settings.label: LabelLoad(free=0 if draining else load.free, queue=load.queue)},
        )
        expires_at = Timestamp(now + HEARTBEATS_UNTIL_EXPIRY * settings.heartbeat_seconds)
        await self._publish_state(build_status(status, key, Timestamp(max(now, status.seq)), expires_at))

    async def _publish_state(self, unsigned: UnsignedEvent) -> VerifiedEvent:
        """Publish to every relay; one success is enough to go on."""
        event = self._tools.key.sign(unsigned)
        answers: tuple[Published, ...] = await self._relays.publish(event)
        if not any(answer.accepted for answer in answers):
            said = "; ".join(f"{answer.relay_url}: {answer.message or 'no answer'}" for answer in answers)
            raise RelayError(f"no relay took the node's {Kind(event.kind).name.lower()} ({said})", retryable=True)
        return event

    async def _keep_offer(self) -> None:
        while True:
            await anyio.sleep(self._offer_seconds / OFFER_RENEWED_AT)
            await self._try(self._publish_offer)

    async def _follow_demand(self) -> None:
        """Post other prices when the load asks for them, and no more often than the terms of the surge say.

        A quote is never above the offer it cites, so prices rise by a new offer; who relied on the one before is still
        served at its price until it ends.
        """
        while True:
            await anyio.sleep(self._settings.surge.interval_seconds)
            if surge_permille(self._tools.places.load(), self._settings.surge) != self._posted_permille:
                await self._try(self._publish_offer)

    async def _beat(self) -> None:
        """A status at every interval, and soon after the node became busy or free again.

        Not more often than ten times an interval: relays limit what an address may publish, and `seq`, which grows with
        every status, must not run ahead of the clock.
        """
        told = self._tools.places.room
        pause = max(self._settings.heartbeat_seconds / STATUSES_PER_HEARTBEAT, 1)
        while True:
            await anyio.sleep(pause)
            with anyio.move_on_after(self._settings.heartbeat_seconds - pause):
                while self._tools.places.room == told:
                    await self._tools.places.changed.wait()
                    self._update_reception()
            told = self._tools.places.room
            await self._try(self._publish_status)

    async def _try(self, publish: Callable[[], Awaitable[object]]) -> None:
        # The next heartbeat tries again; until then the market sees the node expire, which is the truth.
        with Contained("publication"), suppress(RelayError):
            await publish()

    async def _say_goodbye(self) -> None:
        self._tools.places.drain()
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            for session in self._sessions.values():
                if session.driver is not None:
                    session.driver.end("the node is shutting down")
            await self._try(partial(self._publish_status, draining=True))

    # ── conversation ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        to_me = (("p", (self._tools.key.public_key,)),)
        filters = [Filter(kinds=(Kind.QUOTE_REQUEST, Kind.SESSION_REQUEST), tags=to_me, limit=0)]
        if self._settings.open_requests_per_second:
            models = tuple(dict.fromkeys(row.model for row in self._settings.rows))
            to_all = (("t", (TOPIC,)), ("m", models))
            filters.append(Filter(kinds=(Kind.QUOTE_REQUEST,), tags=to_all, limit=0))
        async with self._relays.subscribe(tuple(filters), with_repeats=True) as deliveries:
            task_status.started()
            async for delivery in deliveries:
                if isinstance(delivery, Delivered):
                    with Contained("request"):
                        self._receive(delivery)
                else:
                    self._relay_heard.set()

    def _receive(self, delivery: Delivered) -> None:
        assert self._reception is not None and self._tasks is not None
        event = delivery.event
        session_id = SessionId(token_bytes(32).hex())
        self._update_reception()
        arrived = RequestArrived(event, delivery.relay_url, session_id, self._ephemeral.public_key)
        self._reception.receive(arrived, self._tools.clock())
        for effect in self._reception.effects():
            match effect:
                case AwaitSession():
                    ephemeral, self._ephemeral = self._ephemeral, KeyPair.generate()
                    self._await_session(effect, ephemeral)
                case PublishAnswer(answer, relay_urls):
                    known = tuple(url for url in relay_urls if url in self._relays.urls)
                    self._tasks.start_soon(self._answer, answer, known)

    async def _answer(self, answer: VerifiedEvent, relay_urls: tuple[str, ...]) -> None:
        with Contained("answer"):
            await self._relays.publish(answer, relay_urls)

    def _update_reception(self) -> None:
        load = self._tools.places.load()
        if len(self._sessions) >= self._settings.maximum_sessions:
            load = replace(load, free=0, queue_limit=0)
        if self._reception is not None:
            self._reception.update(self._offers, load, frozenset(self._crowded))

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _await_session(self, agreed: AwaitSession, ephemeral: KeyPair) -> None:
        assert self._tasks is not None
        contract = agreed.contract
        ephemeral_secret = ephemeral.shared_secret(agreed.client_ephemeral_key)
        static_secret = self._tools.key.shared_secret(agreed.client_ephemeral_key)
        secrets = derive_session_secrets(contract.request_id, contract.accept_id, ephemeral_secret, static_secret)
        machine = NodeSession(contract.session_id, secrets, self._settings.session)
        session = ServedSession(contract, secrets, self._tools, contract.quote.row.model)
        session.driver = SessionDriver(machine, machine.receive, session, self._tools.clock)
        self._sessions[contract.session_id] = session
        self._count_session(contract.client, +1)
        self._tasks.start_soon(self._run_session, session)

    async def _run_session(self, session: ServedSession) -> None:
        try:
            with Contained("session"):
                await session.run()
        finally:
            self._sessions.pop(session.contract.session_id, None)
            self._count_session(session.contract.client, -1)
            self._update_reception()

    def _count_session(self, client: PublicKey, change: int) -> None:
        """Note who has as many sessions as one key may have; a client needs one, and a few more while it comes back."""
        self._held[client] += change
        if self._held[client] >= self._settings.maximum_sessions_per_client:
            self._crowded.add(client)
        else:
            self._crowded.discard(client)
        if self._held[client] == 0:
            del self._held[client]

    async def _accept(self, connection: Connection) -> None:
        """A connection says HELLO within five seconds, for a session that is expected, or is closed."""
        try:
            # Whoever breaks the protocol here gets no answer.
            with Contained("connection"), suppress(RemoteProtocolError, SessionError, TimeoutError):
                with anyio.fail_after(HELLO_SECONDS):
                    hello = parse_hello(await connection.receive())
                session = self._sessions.get(hello.session_id)
                if session is not None and session.driver is not None:
                    await session.driver.serve(connection, hello)
        finally:
            await connection.aclose()
