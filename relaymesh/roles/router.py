"""The router: keeps the market in view, says who it is, answers whoever asks for a ranking (RM-04).

What it decides is decided by the `Routing` machine and by the market's functions; here they meet relays, ledger, wallet
and clock. It is never on the way of a job, and never paid for one.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from relaymesh.errors import LightningError, RelayError
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.reception_events import PublishAnswer
from relaymesh.machines.routing import Routing
from relaymesh.machines.routing_events import (
    AskNode,
    Cite,
    FeeInvoiced,
    FeePaid,
    InvoiceFee,
    RankingAsked,
    RoutingEffect,
    RoutingInput,
    RoutingSettings,
)
from relaymesh.market.ranking import FORMULA
from relaymesh.nostr.event import EventId, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.lightning import InvoiceIssuer, InvoiceRequest, InvoiceStatus
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.protocol.router_announcement import (
    ROUTER_LABEL,
    RouterAnnouncement,
    SignedRouterAnnouncement,
    build_router_announcement,
    read_router_announcement,
)
from relaymesh.roles.citations import Citations
from relaymesh.roles.clock_check import check_clock
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.router_evidence import RouterEvidence
from relaymesh.units import Timestamp

ANNOUNCEMENT_RENEWED_AT: Final = 2
"""An announcement is published again when half of its validity is over."""
FEE_EXPIRY_SECONDS: Final = 60
VIEW_SECONDS: Final = 5
"""So long a router waits for the relays to tell what they have, before it answers anybody."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How a router presents itself.

    Args:
        relay_urls: Where it says it listens and serves what it cites.
        lightning_node_id: Whom its fee pays; None where it has none.
        announcement_seconds: How long an announcement stands.
        assertion_seconds: How long an assertion about a node stands; renewed when half of that is over.
    """

    relay_urls: tuple[str, ...]
    routing: RoutingSettings = field(default_factory=RoutingSettings)
    lightning_node_id: str | None = None
    announcement_seconds: int = 3_600
    assertion_seconds: int = 86_400


@dataclass(frozen=True, slots=True)
class RouterTools:
    """What a router works with; `issuer` is the wallet that its fee is paid to, where it asks for one."""

    key: KeyPair
    ledger: Ledger
    clock: Clock
    issuer: InvoiceIssuer | None = None


@dataclass(slots=True)
class RouterCounters:
    """What a router did: requests heard, answers given, nodes asked, fees paid."""

    heard: int = 0
    answered: int = 0
    asked: int = 0
    paid: int = 0


class Router:
    """Runs until cancelled.

    Args:
        settings: How it presents itself.
        relays: Where it is heard.
        market: The market in view.
        tools: Key, ledger, wallet, clock.
    """

    def __init__(self, settings: RouterSettings, relays: Relays, market: MarketView, tools: RouterTools) -> None:
        self.counters = RouterCounters()
        self._settings, self._relays, self._market, self._tools = settings, relays, market, tools
        entropy = Entropy(token_bytes(32))
        self._routing = Routing(settings.routing, market.directory, signer=tools.key, verify=verify, entropy=entropy)
        self.citations = Citations(tools.key, relays, tools.clock)
        self.evidence = RouterEvidence(relays, market, tools.key, tools.ledger, tools.clock, settings.assertion_seconds)
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[SignedRouterAnnouncement]) -> None:
        """Answer until cancelled; started with its announcement, once at least one relay has it.

        Raises:
            RelayError: No relay took the announcement.
            UsageError: The router's clock is not the relays'.
        """
        await self._market.wait_complete(VIEW_SECONDS)
        check_clock(self._relays.clock_offsets)
        self._routing.start(self._tools.clock())
        self.evidence.on_assertion = self._routing.asserted
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await tasks.start(self._listen)
            announcement = await self.announce()
            tasks.start_soon(self._keep_announcement)
            tasks.start_soon(self.citations.run)
            tasks.start_soon(self.evidence.run)
            task_status.started(announcement)
            await anyio.sleep_forever()

    async def announce(self) -> SignedRouterAnnouncement:
        """Say once who and where this router is.

        Raises:
            RelayError: No relay took the announcement.
        """
        settings, now = self._settings, self._tools.clock().timestamp
        key = self._tools.key.public_key
        routing = settings.routing
        announcement = RouterAnnouncement(
            seq=await self._tools.ledger.next_sequence(f"{key}/{int(Kind.ROUTER_ANNOUNCEMENT)}/{ROUTER_LABEL}", now),
            valid_until=Timestamp(now + settings.announcement_seconds),
            relays=settings.relay_urls,
            policies=tuple(policy.name for policy in routing.policies),
            formula=FORMULA,
            pow_bits=routing.pow_bits,
            fee_msat=routing.fee_msat,
            ln_pubkey=settings.lightning_node_id if routing.fee_msat else None,
        )
        unsigned = build_router_announcement(announcement, key, Timestamp(max(now, announcement.seq)))
        return read_router_announcement(await self._publish_state(unsigned))

    async def _publish_state(self, unsigned: UnsignedEvent) -> VerifiedEvent:
        event = self._tools.key.sign(unsigned)
        answers = await self._relays.publish(event)
        if not any(answer.accepted for answer in answers):
            said = "; ".join(f"{answer.relay_url}: {answer.message or 'no answer'}" for answer in answers)
            raise RelayError(f"no relay took the router's announcement ({said})", retryable=True)
        return event

    async def _keep_announcement(self) -> None:
        while True:
            await anyio.sleep(self._settings.announcement_seconds / ANNOUNCEMENT_RENEWED_AT)
            with Contained("announcement"), suppress(RelayError):
                await self.announce()

    # ── conversation ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        requests = Filter(kinds=(Kind.QUOTE_REQUEST,), tags=(("p", (self._tools.key.public_key,)),), limit=0)
        async with self._relays.subscribe((requests,), with_repeats=True) as deliveries:
            task_status.started()
            async for delivery in deliveries:
                if isinstance(delivery, Delivered):
                    self.counters.heard += 1
                    with Contained("request"):
                        self._tell(RankingAsked(delivery.event, delivery.relay_url))

    def _tell(self, message: RoutingInput) -> None:
        self._routing.receive(message, self._tools.clock())
        for effect in self._routing.effects():
            self._carry_out(effect)

    def _carry_out(self, effect: RoutingEffect) -> None:
        assert self._tasks is not None
        match effect:
            case PublishAnswer(event, relay_urls):
                self.counters.answered += 1
                self._tasks.start_soon(self._publish, event, relay_urls)
            case AskNode(event, _, relay_urls):
                self.counters.asked += 1
                self._tasks.start_soon(self._publish, event, relay_urls)
            case Cite(events):
                self.citations.cite(events)
            case InvoiceFee():
                self._tasks.start_soon(self._collect_fee, effect)

    async def _publish(self, event: VerifiedEvent, relay_urls: tuple[str, ...]) -> None:
        known = tuple(url for url in relay_urls if url in self._relays.urls)
        with Contained("answer"):
            await self._relays.publish(event, known)  # none of them ours: on all of ours

    # ── routing fee ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _collect_fee(self, wanted: InvoiceFee) -> None:
        """The invoice's label is the request: whichever replica looks, one request has one invoice."""
        with Contained("fee"):
            bolt11 = await self._make_invoice(wanted)
            self._tell(FeeInvoiced(wanted.request_id, bolt11))
            if bolt11 is not None and await self._is_paid(wanted.request_id):
                self.counters.paid += 1
                self._tell(FeePaid(wanted.request_id))

    async def _make_invoice(self, wanted: InvoiceFee) -> str | None:
        assert self._tools.issuer is not None
        label = fee_label(wanted.request_id)
        request = InvoiceRequest(label, wanted.fee_msat, "RelayMesh ranking", FEE_EXPIRY_SECONDS)
        try:
            return (await self._tools.issuer.create_invoice(request)).bolt11
        except LightningError as error:
            _log.warning("no_invoice_for_a_ranking", reason=str(error))
            return None

    async def _is_paid(self, request_id: EventId) -> bool:
        assert self._tools.issuer is not None
        try:
            state = await self._tools.issuer.wait_invoice(fee_label(request_id))
        except LightningError as error:
            _log.warning("ranking_fee_in_doubt", reason=str(error))
            return False
        return state.status is InvoiceStatus.PAID


def fee_label(request_id: EventId) -> str:
    """The invoice label of a ranking's fee."""
    return f"ranking/{request_id}"
