"""Where a router answers: a client's open request in, a ranking back, and the request passed on to the best (RM-04).

The router is asked for its opinion. The nodes quote straight to the client, and neither a job nor its money ever comes
this way. Like a node it keeps every answer for two minutes: the same request gets the same ranking again, byte for
byte, and is passed on once.
"""

from dataclasses import dataclass
from typing import Final, assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.machine import earliest
from relaymesh.machines.reception_events import REMEMBERED_MS, PublishAnswer
from relaymesh.machines.reception_memory import Allowance, ReceptionMemory
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
from relaymesh.market.policy import Policy
from relaymesh.market.ranking import RankedMarket, Ranker, buyer_request
from relaymesh.market.selection import Choice
from relaymesh.nostr.event import EventId, PublicKey, Signer, VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import has_proof_of_work
from relaymesh.protocol.codec import MarketMessage, is_timely, open_message, seal_message
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.open_request import read_open_request
from relaymesh.protocol.quote import ForwardedRequest, OpenRequest, RefusalMessage
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import Instant, Moment

MAXIMUM_UNPAID: Final = 4_096
"""So many requests may wait for their fee at a time; more are refused as `busy`."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that may be ranked: what it asks, and on which relays its author listens."""

    event: VerifiedEvent
    inner: VerifiedEvent
    wanted: OpenRequest
    policy: Policy
    asks: int
    relay_urls: tuple[str, ...]


class Routing:
    """The router's machine; it has one state, and memory.

    Args:
        market: What is ranked; whoever feeds it tells nobody here.
        signer: The router's key.
        verify: Checks the open request that a client's request embeds.
        entropy: For salts and nonces.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        market: RankedMarket,
        *,
        signer: Signer,
        verify: Verifier,
        entropy: Entropy,
    ) -> None:
        self._settings, self._signer, self._verify, self._entropy = settings, signer, verify, entropy
        self._ranker = Ranker(market, signer.public_key)
        self._policies = {policy.name: policy for policy in settings.policies}
        self._memory = ReceptionMemory()
        self._allowance = Allowance(settings.requests_per_second)
        self._unpaid: dict[EventId, tuple[Instant, _Request]] = {}
        self._effects: list[RoutingEffect] = []

    def start(self, now: Moment) -> None:
        """Begin with a full allowance."""
        self._allowance.start(now)

    def asserted(self, node: PublicKey, assertion: VerifiedEvent) -> None:
        """Cite this assertion of ours whenever the node is ranked from now on."""
        self._ranker.assertions[node] = assertion

    def receive(self, message: RoutingInput, now: Moment) -> None:
        """Answer a request, with a ranking, with a refusal, or not at all where nothing is owed."""
        self.handle_deadline(now)
        match message:
            case RankingAsked():
                self._take_request(message, now)
            case FeeInvoiced():
                self._take_invoice(message, now)
            case FeePaid(request_id):
                paid = self._unpaid.pop(request_id, None)
                if paid is not None:
                    self._rank(paid[1], now)
            case _:
                assert_never(message)

    def deadline(self) -> Instant | None:
        """When the oldest answer, or the oldest request without its fee, may be forgotten."""
        return earliest(self._memory.deadline(), next((until for until, _ in self._unpaid.values()), None))

    def handle_deadline(self, now: Moment) -> None:
        """Forget what is two minutes old: answers, and requests whose fee was not paid in time."""
        self._memory.forget(now)
        while self._unpaid:
            request_id, (until, _) = next(iter(self._unpaid.items()))
            if now.instant < until:
                break
            del self._unpaid[request_id]

    def effects(self) -> tuple[RoutingEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = tuple(self._effects), []
        return effects

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_request(self, asked: RankingAsked, now: Moment) -> None:
        event = asked.event
        if event.id in self._memory:
            self._answer_again(event.id, asked.relay_url, now)
            return
        if event.id in self._unpaid:
            return  # its invoice is being made
        if event.kind != Kind.QUOTE_REQUEST or not is_timely(event, now):
            return
        if not has_proof_of_work(event, self._settings.pow_bits):
            return
        try:
            message = open_message(event, self._signer)
        except RemoteProtocolError:
            return
        request = self._refuse_for_limits(event.public_key, now) or self._read(asked, message, now)
        if isinstance(request, Refusal):
            self._reply(event, RefusalMessage.of(request), (asked.relay_url,), now)
        elif self._settings.fee_msat:
            self._unpaid[event.id] = (now.after_ms(REMEMBERED_MS), request)
            self._effects.append(InvoiceFee(event.id, self._settings.fee_msat))
        else:
            self._rank(request, now)

    def _refuse_for_limits(self, client: PublicKey, now: Moment) -> Refusal | None:
        if not self._allowance.spend(now):
            return refuse(RefusalCode.RATE_LIMITED, "this router is asked too much; ask again in a few seconds")
        if self._memory.count_asked(client) >= self._settings.requests_per_key:
            return refuse(RefusalCode.RATE_LIMITED, "this key has asked too much; ask again in two minutes")
        if self._settings.fee_msat and len(self._unpaid) >= MAXIMUM_UNPAID:
            return refuse(RefusalCode.BUSY, "too many requests wait for their fee; ask again in a minute")
        return None

    def _read(self, asked: RankingAsked, message: MarketMessage | Refusal, now: Moment) -> _Request | Refusal:
        if isinstance(message, Refusal):
            return message
        if not isinstance(message, ForwardedRequest):
            return refuse(RefusalCode.INVALID_MESSAGE, "a router expects an open request inside the request to it")
        try:
            inner = self._verify(parse_event(message.request))
            wanted = read_open_request(inner)
        except RemoteProtocolError as error:
            return refuse(RefusalCode.INVALID_MESSAGE, f"the open request inside is not valid: {error}")
        if inner.public_key != asked.event.public_key:
            return refuse(RefusalCode.INVALID_MESSAGE, "the open request inside must be by whoever asks the router")
        if not is_timely(inner, now):
            return refuse(RefusalCode.EXPIRED, "the open request inside is of another time")
        bits = self._settings.open_pow_bits
        if not has_proof_of_work(inner, bits):
            return refuse(RefusalCode.POW, f"the open request inside must carry {bits} bits of proof of work")
        policy = self._policies.get(message.policy or self._settings.policies[0].name)
        if policy is None:
            known = ", ".join(self._policies)
            return refuse(RefusalCode.UNSUPPORTED_PARAMETER, f"this router ranks by {known} only")
        asks = min(message.asks, self._settings.maximum_asks)
        relay_urls = tuple(dict.fromkeys((asked.relay_url, *wanted.relays)))
        return _Request(asked.event, inner, wanted, policy, asks, relay_urls)

    def _take_invoice(self, made: FeeInvoiced, now: Moment) -> None:
        if made.request_id not in self._unpaid:
            return
        _, request = self._unpaid[made.request_id]
        if made.bolt11 is None:
            del self._unpaid[made.request_id]
            failed = refuse(RefusalCode.INTERNAL, "the router's wallet made no invoice; ask again or ask another")
            self._reply(request.event, RefusalMessage.of(failed), request.relay_urls, now)
            return
        fee = refuse(RefusalCode.PAYMENT_REQUIRED, f"a ranking costs {self._settings.fee_msat} msat here")
        message = RefusalMessage.of(fee).model_copy(update={"bolt11": made.bolt11})
        self._reply(request.event, message, request.relay_urls, now)

    # ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer_again(self, request_id: EventId, relay_url: str, now: Moment) -> None:
        stored = self._memory.recall(request_id)
        if stored is not None and self._allowance.spend(now):
            relay_urls = tuple(dict.fromkeys((relay_url, *stored.relay_urls)))
            self._effects.append(PublishAnswer(stored.event, relay_urls))

    def _rank(self, request: _Request, now: Moment) -> None:
        ranked = self._ranker.rank(
            buyer_request(request.wanted, request.inner),
            request.event.id,
            policy=request.policy,
            asks=request.asks,
            now=now.timestamp,
        )
        self._reply(request.event, ranked.ranking, request.relay_urls, now)
        for choice in ranked.asked:
            self._pass_on(request, choice, now)
        if ranked.cited:
            self._effects.append(Cite(ranked.cited))

    def _pass_on(self, request: _Request, choice: Choice, now: Moment) -> None:
        """A 28770 of our own to one node, with the client's inside: the node answers the client."""
        offer = choice.candidate.offer
        carrier = ForwardedRequest(request=request.inner.to_json(), asks=0)
        event = self._seal(carrier, offer.node, None, now)
        self._effects.append(AskNode(event, offer.node, offer.offer.relays))

    def _reply(self, request: VerifiedEvent, message: MarketMessage, relay_urls: tuple[str, ...], now: Moment) -> None:
        answer = PublishAnswer(self._seal(message, request.public_key, request.id, now), relay_urls)
        self._memory.replace(request.id, request.public_key, answer, now)
        self._effects.append(answer)

    def _seal(
        self, message: MarketMessage, recipient: PublicKey, answers: EventId | None, now: Moment
    ) -> VerifiedEvent:
        draft = seal_message(
            message,
            author=self._signer.public_key,
            signer=self._signer,
            recipient=recipient,
            answers=answers,
            created_at=now.timestamp,
            entropy=self._entropy.take(64),
        )
        return self._signer.sign(draft)
