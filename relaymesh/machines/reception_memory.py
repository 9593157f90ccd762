"""What a node remembers of what strangers asked: two minutes of answers and used quotes, and how much was asked."""

from collections import Counter, deque
from typing import Final

from relaymesh.machines.machine import earliest
from relaymesh.machines.reception_events import REMEMBERED_MS, PublishAnswer
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.units import Instant, Moment

MAXIMUM_REMEMBERED: Final = 65_536

Remembered = PublishAnswer | None
"""An answer that was given; None stands for silence."""


class Allowance:
    """So much a second and no more, whoever asks: one second's worth at once, refilled as time passes."""

    def __init__(self, per_second: int) -> None:
        self._rate, self._left, self._refilled = per_second, per_second, Instant(0)

    def start(self, now: Moment) -> None:
        """Begin with a full allowance."""
        self._refilled = now.instant

    def spend(self, now: Moment) -> bool:
        """Whether one more may be served; then it is counted."""
        earned = (now.instant - self._refilled) * self._rate // 1_000_000
        if earned > 0:
            self._left = min(self._rate, self._left + earned)
            self._refilled = now.instant
        if self._left == 0:
            return False
        self._left -= 1
        return True


class ReceptionMemory:
    """Answers by request, used quotes, and how many requests of each key are remembered.

    Of too many answers the oldest are forgotten early; a used quote is never pushed out.
    """

    def __init__(self) -> None:
        self._answers: dict[EventId, Remembered] = {}
        self._answers_until: deque[tuple[Instant, EventId, PublicKey | None]] = deque()
        self._asked: Counter[PublicKey] = Counter()
        self._used_quotes: set[EventId] = set()
        self._used_until: deque[tuple[Instant, EventId]] = deque()

    def __contains__(self, request_id: EventId) -> bool:
        return request_id in self._answers

    def recall(self, request_id: EventId) -> Remembered:
        """What a remembered request was answered."""
        return self._answers[request_id]

    def remember(self, request_id: EventId, client: PublicKey | None, answer: Remembered, now: Moment) -> None:
        """Keep an answer, or that there was none; `client` is whose request it counts as, if anybody's."""
        if request_id in self._answers:
            return
        self._answers[request_id] = answer
        self._answers_until.append((now.after_ms(REMEMBERED_MS), request_id, client))
        if client is not None:
            self._asked[client] += 1

    def replace(self, request_id: EventId, client: PublicKey, answer: PublishAnswer, now: Moment) -> None:
        """Keep an answer instead of the one that this request was given before, if any."""
        self.remember(request_id, client, answer, now)
        self._answers[request_id] = answer

    def count_asked(self, client: PublicKey) -> int:
        """How many requests of this key are remembered."""
        return self._asked[client]

    def is_used(self, quote_id: EventId) -> bool:
        """Whether this quote has opened a session."""
        return quote_id in self._used_quotes

    def use(self, quote_id: EventId, now: Moment) -> None:
        """Note that a quote opens a session now, which it can do once."""
        self._used_quotes.add(quote_id)
        self._used_until.append((now.after_ms(REMEMBERED_MS), quote_id))

    def deadline(self) -> Instant | None:
        """When the oldest answer or used quote may be forgotten."""
        return earliest(*[queue[0][0] for queue in (self._answers_until, self._used_until) if queue])

    def forget(self, now: Moment) -> None:
        """Forget what is two minutes old, and of too many answers the oldest."""
        answers, used = self._answers_until, self._used_until
        while answers and (answers[0][0] <= now.instant or len(answers) > MAXIMUM_REMEMBERED):
            _, request_id, client = answers.popleft()
            del self._answers[request_id]
            if client is not None:
                self._asked[client] -= 1
                if not self._asked[client]:
                    del self._asked[client]
        while used and used[0][0] <= now.instant:
            self._used_quotes.remove(used.popleft()[1])
