"""Where a node answers the market: requests for quotes and for sessions in, sealed answers out (RM-01, RM-02).

A node keeps no state for a quote: a session request brings the signed quote back. What it does keep, for two minutes,
is every answer it gave, so that the same request gets the same answer again, byte for byte, and no other effect.

Whoever asks this node is told why it does not serve. A request that calls on everybody is answered with a quote or not
at all, and one quote is all that its proof of work buys, however often and on whatever way it comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.reception_events import (
    REMEMBERED_MS,
    AwaitSession,
    PublishAnswer,
    ReceptionEffect,
    ReceptionSettings,
    RequestArrived,
)
from relaymesh.machines.reception_memory import Allowance, ReceptionMemory
from relaymesh.market.admission import NodeLoad, admit_quote_request, refuse_for_load
from relaymesh.market.unpaid_work import Trust, UnpaidWork
from relaymesh.nostr.event import EventId, PublicKey, Signer, VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import has_proof_of_work
from relaymesh.protocol.codec import MarketMessage, SignedOffer, is_timely, open_message, seal_message
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.guarantee import SignedGuarantee, parse_guarantee
from relaymesh.protocol.handshake import PostedAccept, PostedRequest, SessionAccept, SessionRequest
from relaymesh.protocol.open_request import is_open_request, read_open_request
from relaymesh.protocol.quote import ForwardedRequest, Quote, QuoteRequest, RefusalMessage, RequestedJob
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import Instant, Moment

MAXIMUM_POSTED_QUOTE_BYTES: Final = 4_500
"""A quote that a session accept brings must leave room for the endpoints beside it."""


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A session request that is granted, and the quote it rests on; `is_posted` if that is made for it."""

    ephemeral_key: PublicKey
    term: int
    quote_event: VerifiedEvent
    quote: Quote
    guarantee: SignedGuarantee | None
    is_posted: bool = False


class Reception:
    """The node's machine for what comes through relays; it has one state, and memory.

    Args:
        signer: The node's key.
        verify: Checks the quote that a session request brings back, and the request that a router passes on.
        is_curve_point: Checks the client's ephemeral key.
        entropy: For salts and nonces.
        unpaid: What the node has at stake: terms that would put more at stake are not quoted.
    """

    def __init__(
        self,
        settings: ReceptionSettings,
        *,
        signer: Signer,
        verify: Verifier,
        is_curve_point: Callable[[PublicKey], bool],
        entropy: Entropy,
        unpaid: UnpaidWork | None = None,
    ) -> None:
        if settings.quote_validity_ms > REMEMBERED_MS:
            raise LocalProtocolError(f"a quote may stand for at most {REMEMBERED_MS} ms")
        self._settings, self._signer, self._entropy = settings, signer, entropy
        self._verify, self._is_curve_point = verify, is_curve_point
        self._unpaid = unpaid or UnpaidWork()
        self._offers: dict[EventId, SignedOffer] = {}
        self._load = NodeLoad(free=0, queue=0, draining=False)
        self._crowded: frozenset[PublicKey] = frozenset()
        self._memory = ReceptionMemory()
        self._allowance = Allowance(settings.requests_per_second)
        self._open_allowance = Allowance(settings.open_requests_per_second)
        self._effects: list[ReceptionEffect] = []

    def start(self, now: Moment) -> None:
        """Begin with a full allowance."""
        self._allowance.start(now)
        self._open_allowance.start(now)

    def update(
        self, offers: dict[EventId, SignedOffer], load: NodeLoad, crowded: frozenset[PublicKey] = frozenset()
    ) -> None:
        """Answer from these offers and this load from now on; `crowded` are the clients that have sessions enough."""
        self._offers, self._load, self._crowded = offers, load, crowded

    def receive(self, message: RequestArrived, now: Moment) -> None:
        """Answer a request: a quote, a session, a refusal, or nothing at all where nothing is owed."""
        self.handle_deadline(now)
        event = message.event
        if event.id in self._memory:
            self._answer_again(event.id, message.relay_url, now)
            return
        if event.kind not in (Kind.QUOTE_REQUEST, Kind.SESSION_REQUEST) or not is_timely(event, now):
            return
        if is_open_request(event):
            self._take_open_request(message, now)
        elif has_proof_of_work(event, self._required_bits()):
            self._take_sealed_request(message, now)

    def deadline(self) -> Instant | None:
        """When the oldest answer or used quote may be forgotten."""
        return self._memory.deadline()

    def handle_deadline(self, now: Moment) -> None:
        """Forget what is two minutes old, and of too many answers the oldest; a used quote is never pushed out."""
        self._memory.forget(now)

    def effects(self) -> tuple[ReceptionEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = tuple(self._effects), []
        return effects

    # ── ways in ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer_again(self, request_id: EventId, relay_url: str, now: Moment) -> None:
        stored = self._memory.recall(request_id)
        if stored is not None and self._allowance.spend(now):
            self._effects.append(PublishAnswer(stored.event, _each_once(relay_url, *stored.relay_urls)))

    def _take_sealed_request(self, arrived: RequestArrived, now: Moment) -> None:
        event = arrived.event
        try:
            request = open_message(event, self._signer)
        except RemoteProtocolError:
            return
        refusal = self._refuse_for_limits(event.public_key, now)
        if refusal is None and isinstance(request, ForwardedRequest) and event.kind == Kind.QUOTE_REQUEST:
            refusal = self._take_forwarded_request(arrived, request, now)
            if refusal is None:
                return
        wanted = request.relays if isinstance(request, RequestedJob | SessionRequest) else ()
        answer = refusal or self._decide(event, request, now)
        if isinstance(answer, _Admitted):
            self._accept(arrived, answer, wanted, now)
        else:
            self._reply(event, answer, _each_once(arrived.relay_url, *wanted), now)

    def _take_open_request(self, arrived: RequestArrived, now: Moment) -> None:
        """Bid for what calls on everybody, or stay silent: nobody asked this node, and refusals would be noise."""
        event = arrived.event
        if not has_proof_of_work(event, self._required_open_bits()) or not self._open_allowance.spend(now):
            return
        try:
            request = read_open_request(event)
        except RemoteProtocolError:
            return
        if self._memory.count_asked(event.public_key) >= self._settings.requests_per_key:
            return
        answer = self._quote(request, event, None, now)
        if isinstance(answer, Quote):
            self._reply(event, answer, _each_once(arrived.relay_url, *request.relays), now)
        else:
            self._memory.remember(event.id, event.public_key, None, now)

    def _take_forwarded_request(
        self, arrived: RequestArrived, carrier: ForwardedRequest, now: Moment
    ) -> Refusal | None:
        """Answer the author of the open request that a router passed on; what the router is refused, if it is."""
        try:
            inner = self._verify(parse_event(carrier.request))
            request = read_open_request(inner)
        except RemoteProtocolError as error:
            return refuse(RefusalCode.INVALID_MESSAGE, f"the request passed on is not valid: {error}")
        if not is_timely(inner, now):
            return refuse(RefusalCode.EXPIRED, "the request passed on is of another time")
        if not has_proof_of_work(inner, self._required_open_bits()):
            bits = self._required_open_bits()
            return refuse(RefusalCode.POW, f"the request passed on must carry {bits} bits of proof of work")
        if inner.id in self._memory:
            self._answer_again(inner.id, arrived.relay_url, now)
            return None
        relay_urls = _each_once(arrived.relay_url, *request.relays)
        refusal = self._refuse_for_key(inner.public_key)
        self._reply(inner, refusal or self._quote(request, inner, None, now), relay_urls, now)
        self._memory.remember(arrived.event.id, None, self._memory.recall(inner.id), now)
        return None

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _required_bits(self) -> int:
        return min((signed.offer.pow_bits for signed in self._offers.values()), default=0)

    def _required_open_bits(self) -> int:
        return max(self._settings.open_pow_bits, self._required_bits())

    def _refuse_for_limits(self, client: PublicKey, now: Moment) -> Refusal | None:
        if not self._allowance.spend(now):
            return refuse(RefusalCode.RATE_LIMITED, "this node is asked too much; ask again in a few seconds")
        return self._refuse_for_key(client)

    def _refuse_for_key(self, client: PublicKey) -> Refusal | None:
        if self._memory.count_asked(client) < self._settings.requests_per_key:
            return None
        return refuse(RefusalCode.RATE_LIMITED, "this key has asked too much; ask again in two minutes")

    def _decide(
        self, event: VerifiedEvent, request: MarketMessage | Refusal, now: Moment
    ) -> Quote | Refusal | _Admitted:
        match request:
            case PostedRequest() if event.kind == Kind.SESSION_REQUEST:
                return self._admit_posted(event, request, now)
            case QuoteRequest() if event.kind == Kind.QUOTE_REQUEST:
                guarantee = self._read_guarantee(request.guarantee, event.public_key, now)
                return guarantee if isinstance(guarantee, Refusal) else self._quote(request, event, guarantee, now)
            case SessionRequest() if event.kind == Kind.SESSION_REQUEST:
                return self._admit_session(event.public_key, request, now)
            case Refusal():
                return request
            case _:
                return refuse(RefusalCode.INVALID_MESSAGE, "expected a quote request or a session request")

    def _read_guarantee(
        self, fields: dict[str, Any] | None, client: PublicKey, now: Moment
    ) -> SignedGuarantee | Refusal | None:
        """Who vouches for this session key; None if nobody does (RM-03, "Postpay")."""
        if fields is None:
            return None
        try:
            guarantee = parse_guarantee(fields, self._verify)
        except RemoteProtocolError as error:
            return refuse(RefusalCode.INVALID_MESSAGE, f"the guarantee is not valid: {error}")
        objection = guarantee.find_objection(node=self._signer.public_key, client=client, now=now.timestamp)
        return guarantee if objection is None else refuse(RefusalCode.PAYMENT_REQUIRED, objection)

    def _quote(
        self, request: RequestedJob, event: VerifiedEvent, guarantee: SignedGuarantee | None, now: Moment
    ) -> Quote | Refusal:
        return admit_quote_request(
            request,
            self._offers,
            self._load,
            trust=self._trust(event.public_key, guarantee),
            request_id=event.id,
            now_ms=now.unix_ms,
            validity_ms=self._settings.quote_validity_ms,
            eta_ms=self._settings.eta_ms,
        )

    def _admit_session(self, client: PublicKey, request: SessionRequest, now: Moment) -> Refusal | _Admitted:
        try:
            quote_event = self._verify(parse_event(request.quote))
            quote = open_message(quote_event, self._signer)
        except RemoteProtocolError as error:
            return refuse(RefusalCode.INVALID_MESSAGE, f"the quote brought back is not valid: {error}")
        is_ours = quote_event.public_key == self._signer.public_key and quote_event.tag_value("p") == client
        if not is_ours or not isinstance(quote, Quote):
            return refuse(RefusalCode.INVALID_MESSAGE, "the quote brought back is not one we gave to this key")
        refusal = self._refuse_client(client, request.ephemeral_key)
        refusal = refusal or self._refuse_session(quote_event.id, quote, request, now)
        guarantee = refusal or self._read_guarantee(request.guarantee, client, now)
        if isinstance(guarantee, Refusal):
            return guarantee
        term = quote.settlement[request.term]
        refusal = self._trust(client, guarantee).refuse(term.order, term.exposure_node_msat)
        key = PublicKey(request.ephemeral_key)
        return refusal or _Admitted(key, request.term, quote_event, quote, guarantee)

    def _trust(self, client: PublicKey, guarantee: SignedGuarantee | None) -> Trust:
        return self._unpaid.trust(client, None if guarantee is None else guarantee.guarantor)

    def _admit_posted(self, event: VerifiedEvent, request: PostedRequest, now: Moment) -> Refusal | _Admitted:
        """A session at the posted price: the quote is made here, once, and travels in the accept."""
        refusal = self._refuse_client(event.public_key, request.ephemeral_key)
        guarantee = refusal or self._read_guarantee(request.guarantee, event.public_key, now)
        if isinstance(guarantee, Refusal):
            return guarantee
        quote = self._quote(request, event, guarantee, now)
        if isinstance(quote, Refusal):
            return quote
        posted = quote.model_copy(update={"max_msat": None})
        quote_event = self._seal(posted, event, now)
        if quote_event.size > MAXIMUM_POSTED_QUOTE_BYTES:
            return refuse(RefusalCode.UNSUPPORTED_PARAMETER, "this price takes a quote of its own; ask for one")
        return _Admitted(PublicKey(request.ephemeral_key), 0, quote_event, posted, guarantee, is_posted=True)

    def _refuse_client(self, client: PublicKey, ephemeral_key: str) -> Refusal | None:
        if client in self._crowded:
            return refuse(RefusalCode.RATE_LIMITED, "this key has as many sessions as it may; end one first")
        if not self._is_curve_point(PublicKey(ephemeral_key)):
            return refuse(RefusalCode.INVALID_MESSAGE, "the ephemeral key is no point on the curve")
        return None

    def _refuse_session(self, quote_id: EventId, quote: Quote, request: SessionRequest, now: Moment) -> Refusal | None:
        if self._memory.is_used(quote_id):
            return refuse(RefusalCode.REPLAYED, "the quote has already opened a session; ask for a new one")
        if quote.valid_until_ms <= now.unix_ms:
            return refuse(RefusalCode.EXPIRED, "the quote is no longer valid; ask for a new one")
        if quote.offer_id not in self._offers:
            return refuse(RefusalCode.OFFER_CHANGED, "the offer has changed since the quote; ask for a new one")
        if request.term >= len(quote.settlement):
            return refuse(RefusalCode.INVALID_MESSAGE, "the quote has no such settlement term")
        return refuse_for_load(self._load)

    # ── replying ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, arrived: RequestArrived, admitted: _Admitted, wanted: tuple[str, ...], now: Moment) -> None:
        event, quote = arrived.event, admitted.quote
        accept = SessionAccept(
            request_id=event.id,
            session_id=arrived.session_id,
            endpoints=self._settings.endpoints,
            ephemeral_key=arrived.ephemeral_key,
            term=admitted.term,
            max_jobs=self._settings.max_jobs,
            idle_in_ms=self._settings.idle_ms,
        )
        if admitted.is_posted:
            accept = PostedAccept(**accept.model_dump(), quote=admitted.quote_event.to_json())
        signed = self._seal(accept, event, now)
        contract = SessionContract(
            node=self._signer.public_key,
            client=event.public_key,
            session_id=arrived.session_id,
            request_id=event.id,
            accept_id=signed.id,
            quote_event=admitted.quote_event,
            quote=quote,
            term=quote.settlement[admitted.term],
            lightning_node_id=self._offers[quote.offer_id].offer.ln_pubkey,
            guarantee=admitted.guarantee,
        )
        self._memory.use(admitted.quote_event.id, now)
        self._effects.append(AwaitSession(contract, admitted.ephemeral_key))
        self._publish(event, signed, _each_once(arrived.relay_url, *wanted), now)

    def _reply(self, request: VerifiedEvent, answer: Quote | Refusal, relay_urls: tuple[str, ...], now: Moment) -> None:
        message = RefusalMessage.of(answer) if isinstance(answer, Refusal) else answer
        self._publish(request, self._seal(message, request, now), relay_urls, now)

    def _seal(self, message: MarketMessage, request: VerifiedEvent, now: Moment) -> VerifiedEvent:
        draft = seal_message(
            message,
            author=self._signer.public_key,
            signer=self._signer,
            recipient=request.public_key,
            answers=request.id,
            created_at=now.timestamp,
            entropy=self._entropy.take(64),
        )
        return self._signer.sign(draft)

    def _publish(self, request: VerifiedEvent, signed: VerifiedEvent, relay_urls: tuple[str, ...], now: Moment) -> None:
        reply = PublishAnswer(signed, relay_urls)
        self._memory.remember(request.id, request.public_key, reply, now)
        self._effects.append(reply)


def _each_once(*relay_urls: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(relay_urls))
