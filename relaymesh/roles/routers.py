"""A client's side of routers: their rankings are computed again and put beside the client's own view (RM-04).

A router whose ranking does not come out again is ignored, and that is booked against it. One on probation weighs
nothing; what it says is told all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import anyio

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.opening_events import RouterAnswered
from relaymesh.market.consensus import Opinion
from relaymesh.market.policy import CHEAPEST, POLICIES
from relaymesh.market.probation import RouterRecord, weigh_router
from relaymesh.market.recomputation import Cited, Comparison, Recomputation, SignedRanking, compare, recompute
from relaymesh.market.stake import check_stake, weigh_stakes
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.protocol.citation import citation_filters, read_citation
from relaymesh.protocol.codec import SignedOffer, SignedStatus, read_offer, read_status
from relaymesh.protocol.lightning_message import recover_signer
from relaymesh.protocol.ranking import MAXIMUM_RANKED, registry_digest
from relaymesh.protocol.refusal import Refusal
from relaymesh.roles.driver import Clock
from relaymesh.roles.market_view import MarketView

FETCH_SECONDS: Final = 5
SECONDS_PER_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Examined:
    """What a router answered, and what came of looking at it.

    Args:
        router: Who.
        signed: Its ranking; None where it refused.
        refusal: Its refusal; None where it ranked.
        bolt11: The invoice for its fee, with a refusal `payment-required`; None otherwise.
        recomputation: What came of computing the ranking again; None with a refusal.
        comparison: The ranking beside the client's own view; None with a refusal, or with a policy nobody knows.
        weight_milli: What the router weighs beside the client's own view, in thousandths: 0 on probation.
    """

    router: PublicKey
    signed: SignedRanking | None = None
    refusal: Refusal | None = None
    bolt11: str | None = None
    recomputation: Recomputation | None = None
    comparison: Comparison | None = None
    weight_milli: int = 0

    @property
    def opinion(self) -> Opinion:
        """Its eligible nodes and what they weigh; nothing where the ranking did not come out."""
        if self.signed is None or not self.is_right:
            return Opinion((), 0)
        nodes = tuple(row.node for row in self.signed.ranking.rows if row.excluded is None)
        return Opinion(nodes, self.weight_milli)

    @property
    def is_right(self) -> bool:
        """Whether there is a ranking, and it came out as stated."""
        return self.recomputation is not None and self.recomputation.is_right


class RouterExaminer:
    """Computes rankings again, compares them, and keeps a record of each router.

    Args:
        relays: Where cited events are looked for.
        market: The client's own view.
        records: What was seen of routers so far.

    Attributes:
        records: The same, and what was seen since.
    """

    def __init__(
        self, relays: Relays, market: MarketView, clock: Clock, records: dict[PublicKey, RouterRecord] | None = None
    ) -> None:
        self.records = dict(records or {})
        self._relays, self._market, self._clock = relays, market, clock

    async def examine(self, answered: RouterAnswered) -> Examined:
        """Look at one answer; a ranking is booked for or against its router, unless what it cites is not to be had."""
        router, answer = answered.router, answered.answer
        if isinstance(answer, Refusal):
            return Examined(router, refusal=answer, bolt11=answered.bolt11)
        recomputation = recompute(answer, await self._fetch(answer))
        if recomputation.is_right or recomputation.faults:
            self._book(router, is_right=recomputation.is_right)
        return Examined(
            router,
            signed=answer,
            recomputation=recomputation,
            comparison=self._compare(answer) if answer.ranking.policy in POLICIES else None,
            weight_milli=self.weigh(router),
        )

    def weigh(self, router: PublicKey) -> int:
        """What a router weighs beside the client's own view, in thousandths: 0 on probation."""
        return weigh_router(self.records.get(router, RouterRecord()), self._stake_units(router))

    def _book(self, router: PublicKey, *, is_right: bool) -> None:
        day = self._clock().timestamp // SECONDS_PER_DAY
        record = self.records.get(router, RouterRecord())
        self.records[router] = record.book_ranking(is_right=is_right, day=day)

    def _stake_units(self, router: PublicKey) -> int:
        """What the router has at stake, as far as it counts beside what else the same Lightning node backs."""
        now = self._clock().timestamp
        live = {signed.author: signed for signed in self._market.directory.stakes(now)}
        backing = live[router].stake.backing if router in live else None
        if backing is None:
            return 0
        stakes = [
            check_stake(each, recover_signer)
            for each in live.values()
            if each.stake.backing is not None and each.stake.backing.ln_pubkey == backing.ln_pubkey
        ]
        weight = weigh_stakes(stakes, (), now).get(router)
        return 0 if weight is None else weight.units

    def _compare(self, signed: SignedRanking) -> Comparison:
        """The client's own choice for the same request, policy, seed and moment."""
        ranking, request, directory = signed.ranking, signed.request, self._market.directory
        now = self._clock().timestamp
        own = directory.select(
            request,
            seed=bytes.fromhex(ranking.seed),
            count=MAXIMUM_RANKED,
            now=now,
            policy=POLICIES.get(ranking.policy, CHEAPEST),
        )
        digest = registry_digest(directory.considered_ids(request.model, request.job_type, now))
        nodes = {row.node for row in ranking.rows}
        return compare(signed, own, digest, {node: directory.standing(node) for node in nodes})

    async def _fetch(self, signed: SignedRanking) -> Cited:
        """What the ranking cites, as it is still on relays or as its router serves it; what is missing is missing."""
        wanted = tuple(
            each for row in signed.ranking.rows for each in (row.offer_id, row.status_id) if each is not None
        )
        found: dict[EventId, VerifiedEvent] = {}
        if not wanted:
            return Cited({}, {})
        ended: set[str] = set()
        everywhere = set(self._relays.urls)
        filters = citation_filters(wanted, signed.router)
        with anyio.move_on_after(FETCH_SECONDS):
            async with self._relays.subscribe(filters) as deliveries:
                async for delivery in deliveries:
                    if isinstance(delivery, Delivered):
                        _keep(delivery.event, set(wanted), found)
                    else:
                        ended.add(delivery.relay_url)
                    is_told = ended >= everywhere and not _is_new(signed, self._clock)
                    if len(found) == len(set(wanted)) or is_told:
                        break
        return read_cited(found.values())


def read_cited(events: Iterable[VerifiedEvent]) -> Cited:
    """Offers and statuses among events, by id; what is neither, or not valid, is left out."""
    offers: dict[EventId, SignedOffer] = {}
    statuses: dict[EventId, SignedStatus] = {}
    for event in events:
        try:
            if event.kind == Kind.OFFER:
                offers[event.id] = read_offer(event)
            elif event.kind == Kind.STATUS:
                statuses[event.id] = read_status(event)
        except RemoteProtocolError:
            continue
    return Cited(offers, statuses)


def _keep(event: VerifiedEvent, wanted: set[EventId], found: dict[EventId, VerifiedEvent]) -> None:
    """An event that is wanted, itself or inside a repost whose contents verify."""
    if event.kind == Kind.GENERIC_REPOST:
        try:
            event = verify(read_citation(event))
        except RemoteProtocolError:
            return
    if event.id in wanted:
        found[event.id] = event


def _is_new(signed: SignedRanking, clock: Clock) -> bool:
    """Whether its router may still be about to publish what it cites."""
    return clock().timestamp - signed.event.created_at < FETCH_SECONDS
