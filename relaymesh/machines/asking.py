"""Asking the market: what was published for an opening, sent again until it is answered (RM-01, "Conversation").

What is published is ephemeral, so the only success is the answer: each request is sent again, the same event, on the
next relay after 1, 2 and 4 seconds. What calls on everybody goes to every relay, since each reaches others.
"""

from dataclasses import dataclass
from typing import Final

from relaymesh.machines.entropy import Entropy
from relaymesh.machines.guaranteeing import Guarantor
from relaymesh.machines.machine import earliest
from relaymesh.machines.opening_events import Mine, Mined, OpeningEffect, Publish, RelayAnswered
from relaymesh.machines.routed_call import RoutedCall
from relaymesh.market.selection import Choice
from relaymesh.nostr.event import EventId, PublicKey, Signer, UnsignedEvent, VerifiedEvent
from relaymesh.protocol.codec import MarketMessage, seal_message
from relaymesh.protocol.open_request import build_open_request
from relaymesh.protocol.quote import OpenRequest
from relaymesh.units import Instant, Moment

RETRANSMIT_AFTER_MS: Final = (1_000, 2_000, 4_000)


@dataclass(slots=True)
class Asked:
    """One request and whether it still waits for an answer.

    Attributes:
        choice: Whom it asks; None when it asks everybody.
        draft: What waits for its proof of work; None once it is signed.
    """

    choice: Choice | None
    event: VerifiedEvent | None = None
    draft: UnsignedEvent | None = None
    attempts: int = 0
    resend_at: Instant | None = None
    answered: bool = False


class Asking:
    """The requests under way, and the relays they go to.

    Args:
        signer: The client session key.
        relay_urls: The relays we listen on, best first.
        entropy: For salts and nonces.
        effects: Where what is to be done is added.
        routed: The routers that open requests go to; None lets them go to everybody.
        guarantor: Who vouches for the session key where `postpay` is asked for, and offered.
    """

    def __init__(
        self,
        signer: Signer,
        relay_urls: tuple[str, ...],
        entropy: Entropy,
        effects: list[OpeningEffect],
        routed: RoutedCall | None = None,
        guarantor: Guarantor | None = None,
    ) -> None:
        self._signer, self._relay_urls, self._entropy, self._effects = signer, relay_urls, entropy, effects
        self.routed, self._guarantor = routed, guarantor
        self._limiting: set[str] = set()
        self._requests: list[Asked] = []

    @property
    def unanswered(self) -> tuple[Asked, ...]:
        """What still waits."""
        return tuple(request for request in self._requests if not request.answered)

    def ask(self, message: MarketMessage, choice: Choice, answers: EventId | None, now: Moment) -> None:
        """Ask one node something, sealed to it, with the work that its offer wants."""
        node, offered = choice.candidate.offer.node, choice.candidate.offer.offer.settlement
        if self._guarantor is not None and any(term.order == "postpay" for term in offered):
            message = self._guarantor.attach(message, node, now)
        draft = self._seal(message, node, answers, now)
        self._begin(Asked(choice, draft=draft), draft, choice.candidate.offer.offer.pow_bits, now)

    def call(self, request: OpenRequest, bits: int, now: Moment) -> None:
        """Ask everybody, readable by all; or the routers alone, where there are some."""
        draft = build_open_request(request, self._signer.public_key, now.timestamp)
        self._begin(Asked(None, draft=draft), draft, bits, now)

    def clear(self) -> None:
        """Wait for nothing any more; what is answered from now on is late."""
        self._requests.clear()

    def find(self, event: VerifiedEvent) -> Asked | None:
        """The request that an event answers, if whoever was asked has signed it."""
        answers = event.tag_value("e")
        for request in self._requests:
            if request.event is None or request.event.id != answers or request.answered:
                continue
            if request.choice is None or request.choice.candidate.offer.node == event.public_key:
                return request
        return None

    def take_mined(self, mined: Mined, now: Moment) -> None:
        """The work is done: sign, and send."""
        for request in self._requests:
            if request.draft == mined.draft:
                self._publish(request, mined.mined, now)

    def take_relay_word(self, answer: RelayAnswered, now: Moment) -> None:
        """A relay that refuses the event, or knows that nobody listens there, saves us the wait for the next one."""
        if answer.accepted:
            return
        if answer.message.startswith("rate-limited:"):
            self._limiting.add(answer.relay_url)
        has_others = len(self._relay_urls) > max(len(self._limiting), 1)
        for request in self.unanswered:
            is_ours = request.event is not None and request.event.id == answer.event_id and request.choice is not None
            if is_ours and request.resend_at is not None and has_others:
                self._send(request, now)

    def deadline(self) -> Instant | None:
        """The next retransmission."""
        return earliest(*[request.resend_at for request in self.unanswered])

    def resend(self, now: Moment) -> None:
        """Send again what is due."""
        for request in self.unanswered:
            if request.resend_at is not None and now.instant >= request.resend_at:
                self._send(request, now)

    def _begin(self, request: Asked, draft: UnsignedEvent, bits: int, now: Moment) -> None:
        self._requests.append(request)
        if bits:
            self._effects.append(Mine(draft, bits))
        else:
            self._publish(request, draft, now)

    def _publish(self, request: Asked, event: UnsignedEvent, now: Moment) -> None:
        request.event, request.draft = self._signer.sign(event), None
        if request.choice is None and self.routed is not None:
            for router in self.routed.routers:
                carrier = self._seal(self.routed.carrier(request.event), router, None, now)
                self.routed.sent(router, self._signer.sign(carrier))
        self._send(request, now)

    def _seal(
        self, message: MarketMessage, recipient: PublicKey, answers: EventId | None, now: Moment
    ) -> UnsignedEvent:
        return seal_message(
            message,
            author=self._signer.public_key,
            signer=self._signer,
            recipient=recipient,
            answers=answers,
            created_at=now.timestamp,
            entropy=self._entropy.take(64),
        )

    def _send(self, request: Asked, now: Moment) -> None:
        assert request.event is not None
        relays = self._relays_for(request.choice)
        if request.choice is not None:
            relays = (relays[request.attempts % len(relays)],)
        is_routed = request.choice is None and self.routed is not None
        events = self.routed.unanswered if is_routed and self.routed is not None else (request.event,)
        self._effects += [Publish(event, url) for event in events for url in relays]
        pauses = RETRANSMIT_AFTER_MS
        request.resend_at = now.after_ms(pauses[request.attempts]) if request.attempts < len(pauses) else None
        request.attempts += 1

    def _relays_for(self, choice: Choice | None) -> tuple[str, ...]:
        """Our relays, those first on which the node says it listens; none that limits us while there are others."""
        listed = () if choice is None else choice.candidate.offer.offer.relays
        willing = [url for url in self._relay_urls if url not in self._limiting]
        return tuple(sorted(willing or self._relay_urls, key=lambda url: url not in listed))
