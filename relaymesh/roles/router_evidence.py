"""What a router learns about nodes, and what it says about them: receipts in, standings and assertions out (RM-05).

It has no jobs of its own, so all it knows is what others signed: receipts, and what keys it trusts stand by.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import anyio

from relaymesh.errors import RelayError, RemoteProtocolError
from relaymesh.market.reputation import Reputation
from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.protocol.assertion import build_assertion_event
from relaymesh.protocol.codec import TOPIC
from relaymesh.protocol.evidence import read_receipt
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Clock
from relaymesh.roles.market_view import MarketView
from relaymesh.units import Timestamp

EVIDENCE_FILTER: Final = Filter(kinds=(Kind.RECEIPT,), tags=(("t", (TOPIC,)),))
ASSERTION_PAUSE_SECONDS: Final = 60
ASSERTIONS_AT_ONCE: Final = 100
"""So many assertions are published in one pause: relays limit what an address may publish."""
MAXIMUM_ASSERTED: Final = 100_000


class RouterEvidence:
    """Follows evidence, keeps standings, publishes assertions, until cancelled.

    Args:
        market: Whose directory is told the standings.
        assertion_seconds: How long an assertion stands.

    Attributes:
        reputation: What is held.
        on_assertion: Told of every assertion that was published.
        refused: Evidence that did not verify.
    """

    def __init__(
        self,
        relays: Relays,
        market: MarketView,
        key: KeyPair,
        ledger: Ledger,
        clock: Clock,
        assertion_seconds: int,
    ) -> None:
        self.reputation = Reputation()
        self.on_assertion: Callable[[PublicKey, VerifiedEvent], None] = lambda node, event: None
        self.refused = 0
        self._relays, self._market, self._key, self._ledger, self._clock = relays, market, key, ledger, clock
        self._assertion_seconds = assertion_seconds
        self._changed: OrderedDict[PublicKey, None] = OrderedDict()
        self._asserted: OrderedDict[PublicKey, Timestamp] = OrderedDict()

    async def run(self) -> None:
        """Follow and publish until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow)
            tasks.start_soon(self._keep_asserting)

    async def _follow(self) -> None:
        async with self._relays.subscribe((EVIDENCE_FILTER,)) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, Delivered):
                    with Contained("evidence"):
                        self.take(delivery.event)

    def take(self, event: VerifiedEvent) -> None:
        """Take in a piece of evidence; what does not verify is counted and forgotten."""
        now = self._clock().timestamp
        try:
            receipt = read_receipt(event, verify)
        except RemoteProtocolError:
            self.refused += 1
            return
        node = receipt.metering.event.public_key
        if self.reputation.add_receipt(receipt, now):
            self._market.directory.set_standing(node, self.reputation.standing(node, now))
            self._changed[node] = None

    async def _keep_asserting(self) -> None:
        while True:
            await anyio.sleep(ASSERTION_PAUSE_SECONDS)
            await self.assert_changes()

    async def assert_changes(self) -> None:
        """Say in public what is now believed about the nodes of which something new was heard, or long ago said."""
        for node in tuple(self._due())[:ASSERTIONS_AT_ONCE]:
            with Contained("assertion"), suppress(RelayError):
                await self._assert(node)

    def _due(self) -> Iterator[PublicKey]:
        now = self._clock().timestamp
        yield from self._changed
        for node, renewed_at in self._asserted.items():
            if node not in self._changed and renewed_at <= now:
                yield node

    async def _assert(self, node: PublicKey) -> None:
        now, key = self._clock().timestamp, self._key.public_key
        seq = await self._ledger.next_sequence(f"{key}/{int(Kind.REPUTATION_ASSERTION)}/{node}", now)
        until = Timestamp(now + self._assertion_seconds)
        assertion = self.reputation.make_assertion(node, now, seq=seq, valid_until=until)
        event = self._key.sign(build_assertion_event(assertion, node, key, Timestamp(max(now, seq))))
        answers = await self._relays.publish(event)
        if any(answer.accepted for answer in answers):
            self._changed.pop(node, None)
            self._asserted[node] = Timestamp(now + self._assertion_seconds // 2)
            self._asserted.move_to_end(node)
            if len(self._asserted) > MAXIMUM_ASSERTED:
                self._asserted.popitem(last=False)
            self.on_assertion(node, event)
