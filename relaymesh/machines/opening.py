"""From a choice of nodes to a session's contract: ask the best few, take the best quote, shake hands (RM-01, RM-02).

What is published is sealed and ephemeral, so the only success is the answer: each request is sent again, the same
event, on the next relay after 1, 2 and 4 seconds, and the next quote or node is tried when one does not answer.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.machine import TransitionTable, earliest
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
    SessionAgreed,
)
from relaymesh.market.selection import Choice, Selection
from relaymesh.nostr.event import EventId, PublicKey, Signer, UnsignedEvent, VerifiedEvent
from relaymesh.protocol.codec import MarketMessage, is_timely, open_message, seal_message
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.handshake import SessionAccept, SessionRequest
from relaymesh.protocol.quote import MAXIMUM_QUOTE_EVENT_BYTES, Quote, QuotedTerm, QuoteRequest, RefusalMessage
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import SessionId
from relaymesh.units import Instant, Moment

RETRANSMIT_AFTER_MS: Final = (1_000, 2_000, 4_000)


class OpeningState(Enum):
    """Where the opening stands."""

    READY = "ready"
    QUOTING = "asking for quotes"
    REQUESTING = "asking for a session"
    ENDED = "ended"


_S = OpeningState
OPENING_TRANSITIONS: Final = TransitionTable(
    _S.READY,
    (
        (_S.READY, "start", _S.QUOTING),
        (_S.QUOTING, "best quote", _S.REQUESTING),
        (_S.QUOTING, "no quote", _S.ENDED),
        (_S.QUOTING, "quotes only", _S.ENDED),
        (_S.REQUESTING, "next quote", _S.REQUESTING),
        (_S.REQUESTING, "no quote left", _S.ENDED),
        (_S.REQUESTING, "accept", _S.ENDED),
    ),
)


@dataclass(slots=True)
class _Request:
    """One published request and the answer it waits for."""

    choice: Choice
    event: VerifiedEvent | None = None
    draft: UnsignedEvent | None = None
    attempts: int = 0
    resend_at: Instant | None = None
    answered: bool = False


@dataclass(frozen=True, slots=True)
class _Quoted:
    choice: Choice
    event: VerifiedEvent
    quote: Quote
    term: int

    @property
    def preference(self) -> tuple[int, int]:
        assert self.quote.max_msat is not None
        return self.quote.max_msat, self.choice.rank


class Opening:
    """The client's machine from selection to contract.

    Args:
        selection: Whom to ask, best first.
        signer: The client session key.
        ephemeral_key: The client's x-only key for the session to come.
        relay_urls: The relays we listen on, best first.
        entropy: For salts and nonces.
        wants_session: False asks for quotes and leaves it at that.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        signer: Signer,
        ephemeral_key: PublicKey,
        relay_urls: tuple[str, ...],
        entropy: Entropy,
        settings: OpeningSettings | None = None,
        wants_session: bool = True,
    ) -> None:
        self.state = OPENING_TRANSITIONS.initial
        self._selection, self._signer, self._ephemeral_key = selection, signer, ephemeral_key
        self._relay_urls, self._entropy = relay_urls, entropy
        self._settings = settings or OpeningSettings()
        self._wants_session = wants_session
        self._limiting: set[str] = set()
        self._requests: list[_Request] = []
        self._quotes: list[_Quoted] = []
        self._chosen: _Quoted | None = None
        self._refusals: dict[PublicKey, Refusal] = {}
        self._decide_at: Instant | None = None
        self._effects: list[OpeningEffect] = []

    def start(self, now: Moment) -> None:
        """Ask every chosen node for a quote."""
        self._move("start", _S.QUOTING)
        self._decide_at = now.after_ms(self._settings.quote_ms)
        for choice in self._selection.chosen:
            self._ask(choice, self._quote_request(choice), None, now)
        self._decide_if_complete(now)

    def receive(self, message: OpeningInput, now: Moment) -> None:
        """Take in an answer, a relay's word, or finished proof of work."""
        if self.state not in (_S.QUOTING, _S.REQUESTING):
            return
        match message:
            case EventArrived(event):
                self._take_answer(event, now)
            case RelayAnswered():
                self._take_relay_word(message, now)
            case Mined(draft, mined):
                for request in self._requests:
                    if request.draft == draft:
                        self._publish(request, self._signer.sign(mined), now)
            case _:
                assert_never(message)

    def deadline(self) -> Instant | None:
        """The next retransmission or decision."""
        instants = [request.resend_at for request in self._requests if not request.answered]
        return earliest(*instants, self._decide_at)

    def handle_deadline(self, now: Moment) -> None:
        """Send again what is due, decide when it is time."""
        if self._decide_at is not None and now.instant >= self._decide_at:
            self._decide(now)
        for request in self._requests:
            due = request.resend_at is not None and now.instant >= request.resend_at
            if due and not request.answered and request.event is not None:
                self._send(request, now)

    def effects(self) -> tuple[OpeningEffect, ...]:
        """What is to be done, once, in order."""
        effects, self._effects = tuple(self._effects), []
        return effects

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _quote_request(self, choice: Choice) -> QuoteRequest:
        wanted, offer = self._selection.request, choice.candidate.offer
        return QuoteRequest(
            offer_id=offer.event.id,
            offer_seq=offer.offer.seq,
            model=choice.candidate.row.model,
            job_type=wanted.job_type,
            shape=wanted.shape,
            capabilities=wanted.capabilities,
            budget_msat=wanted.budget_msat,
            settlement=wanted.orders,
            relays=self._relay_urls[:3],
        )

    def _ask(self, choice: Choice, message: MarketMessage, answers: EventId | None, now: Moment) -> None:
        draft = seal_message(
            message,
            author=self._signer.public_key,
            signer=self._signer,
            recipient=choice.candidate.offer.node,
            answers=answers,
            created_at=now.timestamp,
            entropy=self._entropy.take(64),
        )
        request = _Request(choice, draft=draft)
        self._requests.append(request)
        bits = choice.candidate.offer.offer.pow_bits
        if bits:
            self._effects.append(Mine(draft, bits))
        else:
            self._publish(request, self._signer.sign(draft), now)

    def _publish(self, request: _Request, event: VerifiedEvent, now: Moment) -> None:
        request.event, request.draft = event, None
        self._send(request, now)

    def _send(self, request: _Request, now: Moment) -> None:
        assert request.event is not None
        relays = self._relays_for(request.choice)
        self._effects.append(Publish(request.event, relays[request.attempts % len(relays)]))
        pauses = RETRANSMIT_AFTER_MS
        request.resend_at = now.after_ms(pauses[request.attempts]) if request.attempts < len(pauses) else None
        request.attempts += 1

    def _relays_for(self, choice: Choice) -> tuple[str, ...]:
        """Our relays, those first on which the node says it listens; none that limits us while there are others."""
        listed = choice.candidate.offer.offer.relays
        willing = [url for url in self._relay_urls if url not in self._limiting]
        return tuple(sorted(willing or self._relay_urls, key=lambda url: url not in listed))

    def _take_relay_word(self, answer: RelayAnswered, now: Moment) -> None:
        # A relay that refuses the event, or knows that nobody listens there, saves us the wait for the next one.
        if answer.accepted:
            return
        if answer.message.startswith("rate-limited:"):
            self._limiting.add(answer.relay_url)
        has_others = len(self._relay_urls) > max(len(self._limiting), 1)
        for request in self._requests:
            is_ours = request.event is not None and request.event.id == answer.event_id and not request.answered
            if is_ours and request.resend_at is not None and has_others:
                self._send(request, now)

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_answer(self, event: VerifiedEvent, now: Moment) -> None:
        request = self._find_request(event)
        if request is None or not is_timely(event, now):
            return
        try:
            answer = open_message(event, self._signer)
            if isinstance(answer, RefusalMessage):
                answer = answer.to_refusal()
        except RemoteProtocolError:
            return  # not for us to read: as if it had not come
        request.answered = True
        match answer:
            case Quote() if self.state is _S.QUOTING:
                self._take_quote(request, event, answer, now)
            case SessionAccept() if self.state is _S.REQUESTING:
                self._take_accept(request, event, answer, now)
            case Refusal():
                self._take_refusal(request, answer, now)
            case _:
                self._take_refusal(request, refuse(RefusalCode.INVALID_MESSAGE, "an answer of the wrong kind"), now)

    def _find_request(self, event: VerifiedEvent) -> _Request | None:
        answers = event.tag_value("e")
        for request in self._requests:
            is_asked = request.event is not None and request.event.id == answers and not request.answered
            if is_asked and request.choice.candidate.offer.node == event.public_key:
                return request
        return None

    def _take_quote(self, request: _Request, event: VerifiedEvent, quote: Quote, now: Moment) -> None:
        complaint = self._find_complaint(request, event, quote, now)
        term = self._find_term(quote)
        if complaint is None and term is not None:
            self._quotes.append(_Quoted(request.choice, event, quote, term))
            self._effects.append(QuoteArrived(request.choice, quote))
            if len(self._quotes) == 1 and self._decide_at is not None:
                self._decide_at = min(self._decide_at, now.after_ms(self._settings.patience_ms))
        else:
            refusal = refuse(RefusalCode.INVALID_MESSAGE, complaint or "the quote has no settlement term we accept")
            self._refusals[request.choice.candidate.offer.node] = refusal
            self._effects.append(QuoteArrived(request.choice, refusal))
        self._decide_if_complete(now)

    def _find_complaint(self, request: _Request, event: VerifiedEvent, quote: Quote, now: Moment) -> str | None:
        """Why this quote cannot be relied on; None if it can (RM-01, "Quote")."""
        candidate, wanted = request.choice.candidate, self._selection.request
        offer = candidate.offer
        if event.size > MAXIMUM_QUOTE_EVENT_BYTES:
            return f"the quote's event is larger than {MAXIMUM_QUOTE_EVENT_BYTES} bytes"
        if request.event is None or quote.request_id != request.event.id:
            return "the quote answers another request"
        if quote.offer_id != offer.event.id or quote.offer_seq != offer.offer.seq:
            return "the quote cites another offer than the one relied on"
        if quote.row not in offer.offer.rows:
            return "the quote states a price that the offer does not have"
        if quote.row.model != candidate.row.model or wanted.job_type not in quote.row.job_types:
            return "the quote is for another model or job type than the one asked about"
        if quote.max_msat is None or quote.max_msat > wanted.budget_msat:
            return f"the quote's limit exceeds the budget of {wanted.budget_msat} msat"
        if quote.valid_until_ms <= now.unix_ms:
            return "the quote has expired"
        return None

    def _find_term(self, quote: Quote) -> int | None:
        for order in self._selection.request.orders:
            for index, term in enumerate(quote.settlement):
                if term.order == order and term.scope == "job":
                    return index
        return None

    def _take_refusal(self, request: _Request, refusal: Refusal, now: Moment) -> None:
        self._refusals[request.choice.candidate.offer.node] = refusal
        self._effects.append(QuoteArrived(request.choice, refusal))
        if self.state is _S.REQUESTING:
            self._request_session("next quote", now)
        else:
            self._decide_if_complete(now)

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _decide_if_complete(self, now: Moment) -> None:
        if self.state is _S.QUOTING and all(request.answered for request in self._requests):
            self._decide(now)

    def _decide(self, now: Moment) -> None:
        """The time for answers is over: take the best quote, or the next one."""
        for request in self._requests:
            if not request.answered:
                late = refuse(RefusalCode.RUNNER_UNAVAILABLE, "the node did not answer in time")
                self._refusals[request.choice.candidate.offer.node] = late
        if self._wants_session:
            self._request_session("best quote" if self.state is _S.QUOTING else "next quote", now)
            return
        self._move("quotes only", _S.ENDED)
        self._decide_at = None
        quotes = tuple((quoted.choice, quoted.quote) for quoted in sorted(self._quotes, key=lambda q: q.preference))
        self._effects.append(QuotesCollected(quotes, tuple(self._refusals.items())))

    def _request_session(self, trigger: str, now: Moment) -> None:
        self._requests.clear()
        self._decide_at = None
        if not self._quotes:
            self._move("no quote" if self.state is _S.QUOTING else "no quote left", _S.ENDED)
            self._effects.append(OpeningFailed(tuple(self._refusals.items())))
            return
        self._move(trigger, _S.REQUESTING)
        self._chosen = min(self._quotes, key=lambda quoted: quoted.preference)
        self._quotes.remove(self._chosen)
        self._decide_at = now.after_ms(self._settings.accept_ms)
        message = SessionRequest(
            quote=self._chosen.event.to_json(),
            term=self._chosen.term,
            ephemeral_key=self._ephemeral_key,
            relays=self._relay_urls[:3],
        )
        self._ask(self._chosen.choice, message, self._chosen.event.id, now)

    def _take_accept(self, request: _Request, event: VerifiedEvent, accept: SessionAccept, now: Moment) -> None:
        chosen = self._chosen
        assert chosen is not None and request.event is not None
        if accept.request_id != request.event.id or accept.term != chosen.term:
            self._take_refusal(request, refuse(RefusalCode.INVALID_MESSAGE, "the accept is not of our terms"), now)
            return
        self._move("accept", _S.ENDED)
        self._decide_at = None
        term: QuotedTerm = chosen.quote.settlement[chosen.term]
        contract = SessionContract(
            node=event.public_key,
            client=self._signer.public_key,
            session_id=SessionId(accept.session_id),
            request_id=request.event.id,
            accept_id=event.id,
            quote_event=chosen.event,
            quote=chosen.quote,
            term=term,
            lightning_node_id=chosen.choice.candidate.offer.offer.ln_pubkey,
            quote_plaintext=self._signer.open(chosen.event.content, chosen.event.public_key),
        )
        self._effects.append(SessionAgreed(chosen.choice, contract, accept))

    def _move(self, trigger: str, target: OpeningState) -> None:
        self.state = OPENING_TRANSITIONS.move(self.state, trigger, target)
