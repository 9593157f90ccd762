"""From a choice of nodes to a session's contract: ask, take the best quote, shake hands (RM-01, RM-02).

There are three ways. Directed: ask the best few for quotes. Open: call for bids, and let everybody quote. Posted: ask
the best node for a session at its posted price, which saves a round trip. Whatever does not answer or says no is
followed by the next quote, and a posted price or an auction that comes to nothing by directed quotes.
"""

from contextlib import suppress
from enum import Enum
from typing import Final, assert_never

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.asking import Asking
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.guaranteeing import Guarantor
from relaymesh.machines.machine import TransitionTable, earliest
from relaymesh.machines.opening_events import (
    EventArrived,
    Mined,
    OpeningEffect,
    OpeningFailed,
    OpeningInput,
    OpeningSettings,
    QuoteArrived,
    QuotesCollected,
    RelayAnswered,
    RoutingRequest,
    SessionAgreed,
)
from relaymesh.machines.opening_requests import posted_request, quote_request, requested_job
from relaymesh.machines.routed_call import RoutedCall
from relaymesh.market.bids import (
    Bid,
    Bidders,
    Question,
    Way,
    make_bid,
    rank_bids,
)
from relaymesh.market.selection import Choice, Selection
from relaymesh.market.standing import NOBODY_KNOWN, UNKNOWN, Standing, Standings
from relaymesh.nostr.event import EventId, PublicKey, Signer, VerifiedEvent, parse_event
from relaymesh.protocol.codec import MarketMessage, is_timely, open_message
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.handshake import PostedAccept, PostedRequest, SessionAccept, SessionRequest
from relaymesh.protocol.open_request import OPEN_REQUEST_POW_BITS
from relaymesh.protocol.quote import (
    MAXIMUM_REPLY_RELAYS,
    OpenRequest,
    Quote,
    RefusalMessage,
)
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import SessionId
from relaymesh.units import Instant, Moment


class OpeningState(Enum):
    """Where the opening stands."""

    READY = "ready"
    QUOTING = "asking for quotes"
    REQUESTING = "asking for a session"
    ENDED = "ended"


_S = OpeningState
_CALLING: Final[frozenset[Way]] = frozenset({"open", "routed"})
"""The ways that begin with an open request."""
OPENING_TRANSITIONS: Final = TransitionTable(
    _S.READY,
    (
        (_S.READY, "start", _S.QUOTING),
        (_S.READY, "posted price", _S.REQUESTING),
        (_S.QUOTING, "no bid", _S.QUOTING),
        (_S.QUOTING, "best quote", _S.REQUESTING),
        (_S.QUOTING, "no quote", _S.ENDED),
        (_S.QUOTING, "quotes only", _S.ENDED),
        (_S.REQUESTING, "next quote", _S.REQUESTING),
        (_S.REQUESTING, "not at the posted price", _S.QUOTING),
        (_S.REQUESTING, "no quote left", _S.ENDED),
        (_S.REQUESTING, "accept", _S.ENDED),
    ),
)


class Opening:
    """The client's machine from selection to contract.

    Args:
        selection: Whom to ask, best first.
        signer: The client session key.
        verify: Checks the quote that the accept of a posted price brings.
        ephemeral_key: The client's x-only key for the session to come.
        relay_urls: The relays we listen on, best first.
        entropy: For salts and nonces.
        wants_session: False asks for quotes and leaves it at that.
        way: How to ask.
        standings: What is known about the nodes, for the choice among their quotes.
        routing: Whom to ask when the way is `routed`.
        guarantor: Who vouches for the session key where `postpay` is asked for.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        signer: Signer,
        verify: Verifier,
        ephemeral_key: PublicKey,
        relay_urls: tuple[str, ...],
        entropy: Entropy,
        settings: OpeningSettings | None = None,
        wants_session: bool = True,
        way: Way = "directed",
        standings: Standings = NOBODY_KNOWN,
        routing: RoutingRequest | None = None,
        guarantor: Guarantor | None = None,
    ) -> None:
        self.state = OPENING_TRANSITIONS.initial
        self._selection, self._signer, self._verify, self._ephemeral_key = selection, signer, verify, ephemeral_key
        self._relay_urls, self._settings = relay_urls, settings or OpeningSettings()
        self._wants_session, self._way, self._standings = wants_session, way, standings
        self._bidders: Bidders
        self._bids: list[Bid] = []
        self._chosen: Bid | None = None
        self._refusals: dict[PublicKey, Refusal] = {}
        self._decide_at: Instant | None = None
        self._effects: list[OpeningEffect] = []
        routed = RoutedCall(routing) if way == "routed" and routing is not None else None
        self._asking = Asking(signer, relay_urls, entropy, self._effects, routed, guarantor)

    def start(self, now: Moment) -> None:
        """Ask for quotes, call for bids, or ask the best node for a session at its posted price."""
        chosen = self._selection.chosen
        if not chosen or (self._way == "posted" and not self._wants_session):
            self._way = "directed"
        if self._way in _CALLING and self._open_bits() > self._selection.request.maximum_pow_bits:
            self._way = "directed"  # an auction takes more work than this buyer does
        if self._way == "posted":
            self._move("posted price", _S.REQUESTING)
            self._decide_at = now.after_ms(self._settings.accept_ms)
            self._asking.ask(self._posted_request(chosen[0]), chosen[0], None, now)
            return
        self._move("start", _S.QUOTING)
        self._ask_for_quotes(now)

    def receive(self, message: OpeningInput, now: Moment) -> None:
        """Take in an answer, a relay's word, or finished proof of work."""
        if self.state not in (_S.QUOTING, _S.REQUESTING):
            return
        match message:
            case EventArrived(event):
                self._take_answer(event, now)
            case RelayAnswered():
                self._asking.take_relay_word(message, now)
            case Mined():
                self._asking.take_mined(message, now)
            case _:
                assert_never(message)

    def deadline(self) -> Instant | None:
        """The next retransmission or decision."""
        return earliest(self._asking.deadline(), self._decide_at)

    def handle_deadline(self, now: Moment) -> None:
        """Send again what is due, decide when it is time."""
        if self._decide_at is not None and now.instant >= self._decide_at:
            self._decide(now)
        self._asking.resend(now)

    def effects(self) -> tuple[OpeningEffect, ...]:
        """What is to be done, once, in order."""
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_for_quotes(self, now: Moment) -> None:
        self._decide_at = now.after_ms(self._settings.quote_ms)
        if self._way in _CALLING:
            wanted = requested_job(self._selection.request, self._selection.chosen[0], self._relay_urls)
            self._asking.call(OpenRequest(**wanted.model_dump()), self._open_bits(), now)
            self._bidders = Bidders(self._selection)
            return
        for choice in self._selection.chosen:
            if choice.candidate.offer.node not in self._refusals:
                asked = quote_request(self._selection.request, choice, self._relay_urls)
                self._asking.ask(asked, choice, None, now)
        self._decide_if_complete(now)

    def _posted_request(self, choice: Choice) -> PostedRequest:
        wanted, standing = self._selection.request, self._standing(choice)
        return posted_request(wanted, choice, self._relay_urls, ephemeral_key=self._ephemeral_key, standing=standing)

    def _open_bits(self) -> int:
        """What the best nodes want of whoever calls on everybody."""
        asked = [choice.candidate.offer.offer.pow_bits for choice in self._selection.chosen]
        return max(OPEN_REQUEST_POW_BITS, *asked)

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_answer(self, event: VerifiedEvent, now: Moment) -> None:
        routed = self._asking.routed
        if routed is not None and routed.answers(event) and is_timely(event, now):
            self._take_router_answer(routed, event, now)
            return
        asked = self._asking.find(event)
        if asked is None or asked.event is None or not is_timely(event, now):
            return
        if asked.choice is None:
            self._take_bid(asked.event.id, event, now)
            return
        answer = self._read(event)
        if answer is None:
            return
        asked.answered = True
        match answer:
            case Quote() if self.state is _S.QUOTING:
                self._note_quote(asked.choice, asked.event.id, event, answer, now)
                self._decide_if_complete(now)
            case SessionAccept() if self.state is _S.REQUESTING:
                self._take_accept(asked.choice, asked.event.id, event, answer, now)
            case Refusal():
                self._take_refusal(asked.choice, answer, now)
            case _:
                self._take_refusal(asked.choice, _wrong("an answer of the wrong kind"), now)

    def _take_router_answer(self, routed: RoutedCall, event: VerifiedEvent, now: Moment) -> None:
        with suppress(RemoteProtocolError):  # what does not open is as if it had not come
            self._effects.append(routed.take(event, open_message(event, self._signer)))
            self._decide_if_called_all(now)

    def _read(self, event: VerifiedEvent) -> MarketMessage | Refusal | None:
        """What was answered; None if it is not for us to read: as if it had not come."""
        try:
            answer = open_message(event, self._signer)
            return answer.to_refusal() if isinstance(answer, RefusalMessage) else answer
        except RemoteProtocolError:
            return None

    def _take_bid(self, request_id: EventId, event: VerifiedEvent, now: Moment) -> None:
        """Take one bid of each node whose offer we know; those of strangers are not even opened."""
        if self._asking.routed is not None:
            self._asking.routed.heard_from(event.public_key)
        answer = self._read(event) if self._bidders.hear(event.public_key) else None
        choice = self._bidders.find(event.public_key, answer) if isinstance(answer, Quote) else None
        if isinstance(answer, Quote) and choice is not None:
            self._note_quote(choice, request_id, event, answer, now)
        self._decide_if_called_all(now)

    def _note_quote(self, choice: Choice, request_id: EventId, event: VerifiedEvent, quote: Quote, now: Moment) -> None:
        bid = self._examine(choice, request_id, event, quote, now)
        if isinstance(bid, Refusal):
            self._note_refusal(choice, bid)
            return
        self._bids.append(bid)
        self._effects.append(QuoteArrived(choice, quote))
        if len(self._bids) == 1 and self._decide_at is not None:
            patience_ms = self._settings.auction_ms if self._way in _CALLING else self._settings.patience_ms
            self._decide_at = min(self._decide_at, now.after_ms(patience_ms))

    def _examine(
        self, choice: Choice, request_id: EventId, event: VerifiedEvent, quote: Quote, now: Moment
    ) -> Bid | Refusal:
        """The bid that a quote is, if it can be relied on (RM-01, "Quote")."""
        question = Question(self._selection.request, request_id, self._way)
        bid = make_bid(quote, event, question, choice, self._standing(choice), now)
        return _wrong(bid) if isinstance(bid, str) else bid

    def _standing(self, choice: Choice) -> Standing:
        return self._standings.get(choice.candidate.offer.node, UNKNOWN)

    def _take_refusal(self, choice: Choice, refusal: Refusal, now: Moment) -> None:
        self._note_refusal(choice, refusal)
        if self.state is _S.REQUESTING:
            self._go_on(now)
        else:
            self._decide_if_complete(now)

    def _note_refusal(self, choice: Choice, refusal: Refusal) -> None:
        self._refusals[choice.candidate.offer.node] = refusal
        self._effects.append(QuoteArrived(choice, refusal))

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _decide_if_complete(self, now: Moment) -> None:
        if self.state is _S.QUOTING and not self._asking.unanswered:
            self._decide(now)

    def _decide_if_called_all(self, now: Moment) -> None:
        """An open request is over when nobody is left to bid, or enough have."""
        routed = self._asking.routed
        is_over = len(self._bids) >= min(self._settings.enough_bids, len(self._bidders))
        if self.state is _S.QUOTING and (routed.is_complete if routed is not None else is_over):
            self._decide(now)

    def _decide(self, now: Moment) -> None:
        """The time for answers is over, or all have come: take the best quote, or the next one."""
        for asked in self._asking.unanswered:
            if asked.choice is not None:
                late = refuse(RefusalCode.RUNNER_UNAVAILABLE, "the node did not answer in time")
                self._refusals[asked.choice.candidate.offer.node] = late
        if self._wants_session:
            self._go_on(now)
            return
        self._move("quotes only", _S.ENDED)
        self._decide_at = None
        ranked = rank_bids(self._bids, self._selection, self._standings, now.timestamp)
        self._effects.append(QuotesCollected(ranked, tuple(self._refusals.items())))

    def _go_on(self, now: Moment) -> None:
        """Ask for a session under the best quote there is; without one, go from the shorter ways to the usual one."""
        self._asking.clear()
        self._decide_at = None
        if self._way != "directed" and not self._bids and self._chosen is None:
            self._move("not at the posted price" if self._way == "posted" else "no bid", _S.QUOTING)
            self._way = "directed"
            self._forget_refused_credit()
            self._ask_for_quotes(now)
            return
        ranked = rank_bids(self._bids, self._selection, self._standings, now.timestamp)
        if not ranked:
            self._move("no quote" if self.state is _S.QUOTING else "no quote left", _S.ENDED)
            self._effects.append(OpeningFailed(tuple(self._refusals.items())))
            return
        self._move("best quote" if self.state is _S.QUOTING else "next quote", _S.REQUESTING)
        best, *self._bids = ranked
        self._chosen = best
        self._decide_at = now.after_ms(self._settings.accept_ms)
        message = SessionRequest(
            quote=best.event.to_json(),
            term=best.term,
            ephemeral_key=self._ephemeral_key,
            relays=self._relay_urls[:MAXIMUM_REPLY_RELAYS],
        )
        self._asking.ask(message, best.choice, best.event.id, now)

    def _forget_refused_credit(self) -> None:
        """Who would not work unpaid at its posted price may still quote what is paid beforehand."""
        for node, refusal in tuple(self._refusals.items()):
            if refusal.code is RefusalCode.PAYMENT_REQUIRED:
                del self._refusals[node]

    def _take_accept(
        self, choice: Choice, request_id: EventId, event: VerifiedEvent, accept: SessionAccept, now: Moment
    ) -> None:
        bid = self._chosen or self._read_posted(choice, request_id, accept, now)
        if isinstance(bid, Refusal):
            self._take_refusal(choice, bid, now)
            return
        if accept.request_id != request_id or accept.term != bid.term:
            self._take_refusal(choice, _wrong("the accept is not of our terms"), now)
            return
        self._move("accept", _S.ENDED)
        self._decide_at = None
        contract = SessionContract(
            node=event.public_key,
            client=self._signer.public_key,
            session_id=SessionId(accept.session_id),
            request_id=request_id,
            accept_id=event.id,
            quote_event=bid.event,
            quote=bid.quote,
            term=bid.quote.settlement[bid.term],
            lightning_node_id=choice.candidate.offer.offer.ln_pubkey,
            quote_plaintext=self._signer.open(bid.event.content, bid.event.public_key),
        )
        self._effects.append(SessionAgreed(choice, contract, accept, bid.chosen))

    def _read_posted(self, choice: Choice, request_id: EventId, accept: SessionAccept, now: Moment) -> Bid | Refusal:
        """The quote that the accept of a posted price brings, as good as one that was asked for."""
        if not isinstance(accept, PostedAccept):
            return _wrong("an accept at a posted price without its quote")
        try:
            event = self._verify(parse_event(accept.quote))
            quote = open_message(event, self._signer)
        except RemoteProtocolError:
            return _wrong("the quote of a posted price is not valid")
        if event.public_key != choice.candidate.offer.node or not isinstance(quote, Quote):
            return _wrong("the quote of a posted price is not the node's")
        return self._examine(choice, request_id, event, quote, now)

    def _move(self, trigger: str, target: OpeningState) -> None:
        self.state = OPENING_TRANSITIONS.move(self.state, trigger, target)


def _wrong(reason: str) -> Refusal:
    return refuse(RefusalCode.INVALID_MESSAGE, reason)
