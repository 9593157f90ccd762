"""Where a node answers the market: requests for quotes and for sessions in, sealed answers out (RM-01, RM-02).

A node keeps no state for a quote: a session request brings the signed quote back. What it does keep, for two minutes,
is every answer it gave, so that the same request gets the same answer again, byte for byte, and no other effect.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.machines.entropy import Entropy
from relaymesh.market.admission import NodeLoad, admit_quote_request, refuse_for_load
from relaymesh.nostr.event import EventId, PublicKey, Signer, VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.proof_of_work import has_proof_of_work
from relaymesh.protocol.codec import MarketMessage, SignedOffer, is_timely, open_message, seal_message
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.handshake import SessionAccept, SessionRequest
from relaymesh.protocol.quote import Quote, QuoteRequest, RefusalMessage
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import SessionId
from relaymesh.units import Instant, Moment

REMEMBERED_MS: Final = 120_000
MAXIMUM_REMEMBERED: Final = 65_536


@dataclass(frozen=True, slots=True)
class ReceptionSettings:
    """What a node promises in its answers, and how much it lets strangers ask.

    Args:
        endpoints: Where clients connect; told only in a session accept.
        quote_validity_ms: How long a quote stands.
        eta_ms: When the first output usually comes.
        max_jobs: Concurrent jobs in one session.
        idle_ms: Sessions end after this long without a message.
        requests_per_key: In two minutes; more are refused as `rate-limited`. A client needs a few, since it makes a
            key for each session.
        requests_per_second: All strangers together; more are refused as `rate-limited`, and what was answered before is
            not answered again.
    """

    endpoints: tuple[str, ...]
    quote_validity_ms: int = 60_000
    eta_ms: int = 1_000
    max_jobs: int = 64
    idle_ms: int = 300_000
    requests_per_key: int = 32
    requests_per_second: int = 500


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A verified event that names this node came from a relay.

    Args:
        session_id: 32 fresh random bytes, used if this opens a session.
        ephemeral_key: A fresh x-only key of ours, used if this opens a session.
    """

    event: VerifiedEvent
    relay_url: str
    session_id: SessionId
    ephemeral_key: PublicKey


@dataclass(frozen=True, slots=True)
class PublishAnswer:
    """Effect: send this answer on these relays."""

    event: VerifiedEvent
    relay_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitSession:
    """Effect: a client will connect under this contract; `client_ephemeral_key` is its half of the secret."""

    contract: SessionContract
    client_ephemeral_key: PublicKey


ReceptionEffect = PublishAnswer | AwaitSession


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A session request that is granted, and the quote it rests on."""

    request: SessionRequest
    quote_event: VerifiedEvent
    quote: Quote


class Reception:
    """The node's machine for what comes through relays; it has one state, and memory.

    Args:
        signer: The node's key.
        verify: Checks the quote that a session request brings back.
        is_curve_point: Checks the client's ephemeral key.
        entropy: For salts and nonces.
    """

    def __init__(
        self,
        settings: ReceptionSettings,
        *,
        signer: Signer,
        verify: Verifier,
        is_curve_point: Callable[[PublicKey], bool],
        entropy: Entropy,
    ) -> None:
        if settings.quote_validity_ms > REMEMBERED_MS:
            raise LocalProtocolError(f"a quote may stand for at most {REMEMBERED_MS} ms")
        self._settings, self._signer, self._entropy = settings, signer, entropy
        self._verify, self._is_curve_point = verify, is_curve_point
        self._offers: dict[EventId, SignedOffer] = {}
        self._load = NodeLoad(free=0, queue=0, draining=False)
        self._crowded: frozenset[PublicKey] = frozenset()
        self._answers: dict[EventId, PublishAnswer] = {}
        self._answers_until: deque[tuple[Instant, EventId, PublicKey]] = deque()
        self._asked: Counter[PublicKey] = Counter()
        self._used_quotes: set[EventId] = set()
        self._used_until: deque[tuple[Instant, EventId]] = deque()
        self._allowance, self._refilled = settings.requests_per_second, Instant(0)
        self._effects: list[ReceptionEffect] = []

    def start(self, now: Moment) -> None:
        """Begin with a full allowance."""
        self._refilled = now.instant

    def update(
        self, offers: dict[EventId, SignedOffer], load: NodeLoad, crowded: frozenset[PublicKey] = frozenset()
    ) -> None:
        """Answer from these offers and this load from now on; `crowded` are the clients that have sessions enough."""
        self._offers, self._load, self._crowded = offers, load, crowded

    def receive(self, message: RequestArrived, now: Moment) -> None:
        """Answer a request: a quote, a session, a refusal, or nothing at all where nothing is owed."""
        self.handle_deadline(now)
        event = message.event
        stored = self._answers.get(event.id)
        if stored is not None:
            if self._spend_allowance(now):
                self._effects.append(PublishAnswer(stored.event, _each_once(message.relay_url, *stored.relay_urls)))
            return
        if event.kind not in (Kind.QUOTE_REQUEST, Kind.SESSION_REQUEST) or not is_timely(event, now):
            return
        if not has_proof_of_work(event, self._required_bits()):
            return
        try:
            request = open_message(event, self._signer)
        except RemoteProtocolError:
            return
        wanted = request.relays if isinstance(request, QuoteRequest | SessionRequest) else ()
        answer = self._decide(message, request, now)
        if isinstance(answer, _Admitted):
            self._accept(message, answer, wanted, now)
        else:
            self._reply(message, answer, wanted, now)

    def deadline(self) -> Instant | None:
        """When the oldest answer or used quote may be forgotten."""
        return min((queue[0][0] for queue in (self._answers_until, self._used_until) if queue), default=None)

    def handle_deadline(self, now: Moment) -> None:
        """Forget what is two minutes old, and of too many answers the oldest; a used quote is never pushed out."""
        answers, used = self._answers_until, self._used_until
        while answers and (answers[0][0] <= now.instant or len(answers) > MAXIMUM_REMEMBERED):
            _, request_id, client = answers.popleft()
            del self._answers[request_id]
            self._asked[client] -= 1
            if not self._asked[client]:
                del self._asked[client]
        while used and used[0][0] <= now.instant:
            self._used_quotes.remove(used.popleft()[1])

    def effects(self) -> tuple[ReceptionEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = tuple(self._effects), []
        return effects

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _required_bits(self) -> int:
        return min((signed.offer.pow_bits for signed in self._offers.values()), default=0)

    def _decide(
        self, arrived: RequestArrived, request: MarketMessage | Refusal, now: Moment
    ) -> Quote | Refusal | _Admitted:
        if not self._spend_allowance(now):
            return refuse(RefusalCode.RATE_LIMITED, "this node is asked too much; ask again in a few seconds")
        if self._asked[arrived.event.public_key] >= self._settings.requests_per_key:
            return refuse(RefusalCode.RATE_LIMITED, "this key has asked too much; ask again in two minutes")
        match request:
            case QuoteRequest() if arrived.event.kind == Kind.QUOTE_REQUEST:
                return admit_quote_request(
                    request,
                    self._offers,
                    self._load,
                    request_id=arrived.event.id,
                    now_ms=now.unix_ms,
                    validity_ms=self._settings.quote_validity_ms,
                    eta_ms=self._settings.eta_ms,
                )
            case SessionRequest() if arrived.event.kind == Kind.SESSION_REQUEST:
                return self._admit_session(arrived.event.public_key, request, now)
            case Refusal():
                return request
            case _:
                return refuse(RefusalCode.INVALID_MESSAGE, "expected a quote request or a session request")

    def _admit_session(self, client: PublicKey, request: SessionRequest, now: Moment) -> Refusal | _Admitted:
        try:
            quote_event = self._verify(parse_event(request.quote))
            quote = open_message(quote_event, self._signer)
        except RemoteProtocolError as error:
            return refuse(RefusalCode.INVALID_MESSAGE, f"the quote brought back is not valid: {error}")
        is_ours = quote_event.public_key == self._signer.public_key and quote_event.tag_value("p") == client
        if not is_ours or not isinstance(quote, Quote):
            return refuse(RefusalCode.INVALID_MESSAGE, "the quote brought back is not one we gave to this key")
        if client in self._crowded:
            return refuse(RefusalCode.RATE_LIMITED, "this key has as many sessions as it may; end one first")
        return self._refuse_session(quote_event.id, quote, request, now) or _Admitted(request, quote_event, quote)

    def _refuse_session(self, quote_id: EventId, quote: Quote, request: SessionRequest, now: Moment) -> Refusal | None:
        if quote_id in self._used_quotes:
            return refuse(RefusalCode.REPLAYED, "the quote has already opened a session; ask for a new one")
        if quote.valid_until_ms <= now.unix_ms:
            return refuse(RefusalCode.EXPIRED, "the quote is no longer valid; ask for a new one")
        if quote.offer_id not in self._offers:
            return refuse(RefusalCode.OFFER_CHANGED, "the offer has changed since the quote; ask for a new one")
        if request.term >= len(quote.settlement):
            return refuse(RefusalCode.INVALID_MESSAGE, "the quote has no such settlement term")
        if not self._is_curve_point(PublicKey(request.ephemeral_key)):
            return refuse(RefusalCode.INVALID_MESSAGE, "the ephemeral key is no point on the curve")
        return refuse_for_load(self._load)

    def _spend_allowance(self, now: Moment) -> bool:
        rate = self._settings.requests_per_second
        earned = (now.instant - self._refilled) * rate // 1_000_000
        if earned > 0:
            self._allowance = min(rate, self._allowance + earned)
            self._refilled = now.instant
        if self._allowance == 0:
            return False
        self._allowance -= 1
        return True

    # ── replying ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, arrived: RequestArrived, admitted: _Admitted, wanted: tuple[str, ...], now: Moment) -> None:
        request, quote = admitted.request, admitted.quote
        accept = SessionAccept(
            request_id=arrived.event.id,
            session_id=arrived.session_id,
            endpoints=self._settings.endpoints,
            ephemeral_key=arrived.ephemeral_key,
            term=request.term,
            max_jobs=self._settings.max_jobs,
            idle_in_ms=self._settings.idle_ms,
        )
        signed = self._seal(accept, arrived.event, now)
        contract = SessionContract(
            node=self._signer.public_key,
            client=arrived.event.public_key,
            session_id=arrived.session_id,
            request_id=arrived.event.id,
            accept_id=signed.id,
            quote_event=admitted.quote_event,
            quote=quote,
            term=quote.settlement[request.term],
            lightning_node_id=self._offers[quote.offer_id].offer.ln_pubkey,
        )
        self._used_quotes.add(admitted.quote_event.id)
        self._used_until.append((now.after_ms(REMEMBERED_MS), admitted.quote_event.id))
        self._effects.append(AwaitSession(contract, PublicKey(request.ephemeral_key)))
        self._remember(arrived, signed, wanted, now)

    def _reply(self, arrived: RequestArrived, answer: Quote | Refusal, wanted: tuple[str, ...], now: Moment) -> None:
        message = RefusalMessage.of(answer) if isinstance(answer, Refusal) else answer
        self._remember(arrived, self._seal(message, arrived.event, now), wanted, now)

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

    def _remember(self, arrived: RequestArrived, signed: VerifiedEvent, wanted: tuple[str, ...], now: Moment) -> None:
        reply = PublishAnswer(signed, _each_once(arrived.relay_url, *wanted))
        self._answers[arrived.event.id] = reply
        self._answers_until.append((now.after_ms(REMEMBERED_MS), arrived.event.id, arrived.event.public_key))
        self._asked[arrived.event.public_key] += 1
        self._effects.append(reply)


def _each_once(*relay_urls: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(relay_urls))
