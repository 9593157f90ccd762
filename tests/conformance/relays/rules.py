"""What every `Relays` keeps to: plain async functions, to be run against one's own.

from tests.conformance.relays.rules import RULES, RelaysUnderTest

@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_my_relays(rule):
    async with my_two_relays() as subject:
        await rule(subject)
"""

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import anyio

from relaymesh.nostr.event import Event, EventId, Tags, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.relays import Carried, Delivered, Delivery, RelayGone, Relays, StoredEventsEnd
from relaymesh.units import Timestamp

DEADLINE_SECONDS = 20.0
REGULAR, REPLACEABLE, EPHEMERAL, ADDRESSABLE = 1, 10_002, 28_770, 38_770


class RelaysUnderTest(Protocol):
    """Two relays, and as many independent clients of both as a rule wants."""

    @property
    def urls(self) -> tuple[str, str]:
        """The two relays."""
        ...

    def connect(self) -> AbstractAsyncContextManager[Relays]:
        """A client of both."""
        ...

    async def fail(self, url: str) -> None:
        """Put a relay out of reach."""
        ...

    async def recover(self, url: str) -> None:
        """Bring it back, with all that it had stored."""
        ...


Rule = Callable[[RelaysUnderTest], Awaitable[None]]
_numbers = itertools.count()


@dataclass(frozen=True)
class Author:
    """A fresh key, so that rules do not see each other's events."""

    key: KeyPair

    @classmethod
    def new(cls) -> "Author":
        return cls(KeyPair.generate())

    def write(self, kind: int, tags: Tags = (), age_seconds: int = 0, content: str | None = None) -> VerifiedEvent:
        text = f"event {next(_numbers)}" if content is None else content
        created_at = Timestamp(int(time.time()) - age_seconds)
        return self.key.sign(UnsignedEvent(self.key.public_key, created_at, kind, tags, text))

    def follow(self, *kinds: int, limit: int | None = None) -> tuple[Filter, ...]:
        return (Filter(authors=(self.key.public_key,), kinds=kinds, limit=limit),)


@asynccontextmanager
async def _clients(subject: RelaysUnderTest, number: int) -> AsyncIterator[list[Relays]]:
    with anyio.fail_after(DEADLINE_SECONDS):
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(subject.connect()) for _ in range(number)]


async def _next_event(deliveries: AsyncIterator[Delivery]) -> VerifiedEvent:
    async for delivery in deliveries:
        if isinstance(delivery, Delivered):
            return delivery.event
    raise AssertionError("the subscription ended")


async def _stored(deliveries: AsyncIterator[Delivery], relays: int = 1) -> list[VerifiedEvent]:
    """What comes before so many relays have said that they sent all they had."""
    events: list[VerifiedEvent] = []
    ended: set[str] = set()
    async for delivery in deliveries:
        if isinstance(delivery, StoredEventsEnd):
            ended.add(delivery.relay_url)
            if len(ended) == relays:
                break
        elif isinstance(delivery, Delivered):
            events.append(delivery.event)
    return events


async def _publish(relays: Relays, event: Event, *urls: str) -> None:
    answers = await relays.publish(event, urls)
    assert all(answer.accepted and answer.event_id == event.id for answer in answers), answers


async def what_one_client_publishes_another_follows(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(author.follow(REGULAR)) as deliveries:
        assert await _stored(deliveries, 2) == []
        event = author.write(REGULAR)
        await _publish(mine, event)
        assert await _next_event(deliveries) == event


async def what_is_stored_comes_before_the_end_of_stored_events_and_what_is_new_after(
    subject: RelaysUnderTest,
) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours):
        old = [author.write(REGULAR, age_seconds=age) for age in (3, 2, 1)]
        for event in old:
            await _publish(mine, event, subject.urls[0])
        async with yours.subscribe(author.follow(REGULAR), subject.urls[:1]) as deliveries:
            assert {event.id for event in await _stored(deliveries)} == {event.id for event in old}
            event = author.write(REGULAR)
            await _publish(mine, event, subject.urls[0])
            assert await _next_event(deliveries) == event


async def an_event_that_both_relays_bring_is_delivered_once(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours):
        stored = author.write(REGULAR, age_seconds=1)
        await _publish(mine, stored)
        async with yours.subscribe(author.follow(REGULAR, EPHEMERAL)) as deliveries:
            assert await _stored(deliveries, 2) == [stored]
            live, last = author.write(EPHEMERAL), author.write(EPHEMERAL)
            await _publish(mine, live)
            await _publish(mine, stored)
            await _publish(mine, last)
            assert [await _next_event(deliveries), await _next_event(deliveries)] == [live, last]


async def an_event_sent_again_is_delivered_again_where_repeats_are_wanted(subject: RelaysUnderTest) -> None:
    author = Author.new()
    first, second = subject.urls
    requests = author.follow(EPHEMERAL)
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(requests, with_repeats=True) as deliveries:
        await _stored(deliveries, 2)
        event = author.write(EPHEMERAL)
        for url in (first, first, second):
            await _publish(mine, event, url)
            assert await _next_event(deliveries) == event


async def who_asks_is_told_who_else_carries_an_event_and_who_is_gone(subject: RelaysUnderTest) -> None:
    author = Author.new()
    first, second = subject.urls
    state = author.follow(ADDRESSABLE)
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(state, with_carriers=True) as deliveries:
        await _stored(deliveries, 2)
        event = author.write(ADDRESSABLE, (("d", "main"),))
        await _publish(mine, event, first)
        assert await anext(deliveries) == Delivered(first, event)
        await _publish(mine, event, second)
        assert await anext(deliveries) == Carried(second, event.id, event.created_at)
        await subject.fail(second)
        assert await anext(deliveries) == RelayGone(second)
        await subject.recover(second)
        assert await anext(deliveries) == Carried(second, event.id, event.created_at)
        end = await anext(deliveries)
        assert isinstance(end, StoredEventsEnd) and end.relay_url == second


async def each_relay_answers_for_itself_in_the_order_asked(subject: RelaysUnderTest) -> None:
    author = Author.new()
    first, second = subject.urls
    async with _clients(subject, 1) as (mine,):
        assert mine.urls == subject.urls
        for urls in ((first, second), (second, first), (second,)):
            answers = await mine.publish(author.write(REGULAR), urls)
            assert tuple(answer.relay_url for answer in answers) == urls
            assert all(answer.accepted for answer in answers)


async def an_event_published_to_one_relay_is_not_on_the_other(subject: RelaysUnderTest) -> None:
    author = Author.new()
    first, second = subject.urls
    async with _clients(subject, 2) as (mine, yours):
        event = author.write(REGULAR)
        await _publish(mine, event, first)
        async with yours.subscribe(author.follow(REGULAR), (second,)) as deliveries:
            assert await _stored(deliveries) == []
        async with yours.subscribe(author.follow(REGULAR), (first,)) as deliveries:
            assert await _stored(deliveries) == [event]


async def publishing_the_same_event_again_is_accepted(subject: RelaysUnderTest) -> None:
    event = Author.new().write(REGULAR)
    async with _clients(subject, 1) as (mine,):
        await _publish(mine, event)
        await _publish(mine, event)


async def an_event_that_was_tampered_with_is_refused_with_a_reason(subject: RelaysUnderTest) -> None:
    true = Author.new().write(REGULAR)
    forged: tuple[Event, ...] = (
        Event(true.public_key, true.created_at, true.kind, true.tags, "forged", true.id, true.signature),
        Event(true.public_key, true.created_at, true.kind, true.tags, true.content, true.id, "0" * 127 + "1"),
        Event(
            true.public_key,
            true.created_at,
            true.kind,
            true.tags,
            true.content,
            EventId(secrets.token_hex(32)),
            true.signature,
        ),
    )
    async with _clients(subject, 1) as (mine,):
        for event in forged:
            for answer in await mine.publish(event):
                assert not answer.accepted
                assert answer.message


async def an_ephemeral_event_is_passed_on_and_not_kept(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours):
        async with yours.subscribe(author.follow(EPHEMERAL)) as deliveries:
            await _stored(deliveries, 2)
            event = author.write(EPHEMERAL)
            await _publish(mine, event)
            assert await _next_event(deliveries) == event
        async with yours.subscribe(author.follow(EPHEMERAL)) as deliveries:
            assert await _stored(deliveries, 2) == []


async def of_replaceable_and_addressable_events_only_the_newest_is_kept(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours):
        kept: list[VerifiedEvent] = []
        for kind, tags in ((REPLACEABLE, ()), (ADDRESSABLE, (("d", "main"),)), (ADDRESSABLE, (("d", "other"),))):
            written = [author.write(kind, tags, age_seconds=age) for age in (30, 10, 20)]
            for event in written:
                await mine.publish(event)
            kept.append(written[1])
        async with yours.subscribe(author.follow(REPLACEABLE, ADDRESSABLE)) as deliveries:
            assert {event.id for event in await _stored(deliveries, 2)} == {event.id for event in kept}


async def a_limit_holds_for_stored_events_newest_first(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours):
        written = [author.write(REGULAR, age_seconds=age) for age in (50, 40, 30, 20)]
        for event in written:
            await _publish(mine, event)
        async with yours.subscribe(author.follow(REGULAR, limit=2), subject.urls[:1]) as deliveries:
            assert await _stored(deliveries) == [written[3], written[2]]


async def only_what_matches_is_delivered(subject: RelaysUnderTest) -> None:
    author, other = Author.new(), Author.new()
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(author.follow(EPHEMERAL)) as deliveries:
        await _stored(deliveries, 2)
        await mine.publish(other.write(EPHEMERAL))
        await mine.publish(author.write(EPHEMERAL + 1))
        wanted = author.write(EPHEMERAL)
        await _publish(mine, wanted)
        assert await _next_event(deliveries) == wanted


async def a_relay_out_of_reach_holds_nobody_up(subject: RelaysUnderTest) -> None:
    author = Author.new()
    alive, dead = subject.urls
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(author.follow(REGULAR)) as deliveries:
        await _stored(deliveries, 2)
        await subject.fail(dead)
        event = author.write(REGULAR)
        answers = {answer.relay_url: answer for answer in await mine.publish(event)}
        assert answers[alive].accepted
        assert not answers[dead].accepted and answers[dead].message
        assert await _next_event(deliveries) == event
        await subject.recover(dead)


async def a_subscription_outlives_the_failure_of_its_only_relay(subject: RelaysUnderTest) -> None:
    author = Author.new()
    only, _ = subject.urls
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(author.follow(REGULAR), (only,)) as deliveries:
        assert await _stored(deliveries) == []
        before = author.write(REGULAR)
        await _publish(mine, before, only)
        assert await _next_event(deliveries) == before
        await subject.fail(only)
        await subject.recover(only)
        after = author.write(REGULAR)
        while not (await mine.publish(after, (only,)))[0].accepted:
            await anyio.lowlevel.checkpoint()
        assert await _next_event(deliveries) == after


async def a_relay_nobody_knows_answers_with_a_refusal(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 1) as (mine,):
        for url in ("ws://127.0.0.1:9", "nonsense"):
            [answer] = await mine.publish(author.write(REGULAR), (url,))
            assert (answer.relay_url, answer.accepted) == (url, False)
            assert answer.message


async def leaving_a_subscription_and_cancelling_a_wait_take_no_time(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 1) as (mine,):
        with anyio.fail_after(2), anyio.move_on_after(0.05) as scope:
            async with mine.subscribe(author.follow(EPHEMERAL)) as deliveries:
                await _next_event(deliveries)
        assert scope.cancelled_caught
        await _publish(mine, author.write(REGULAR))


async def a_changed_event_never_reaches_a_follower(subject: RelaysUnderTest) -> None:
    author = Author.new()
    async with _clients(subject, 2) as (mine, yours), yours.subscribe(author.follow(EPHEMERAL)) as deliveries:
        await _stored(deliveries, 2)
        true, last = author.write(EPHEMERAL), author.write(EPHEMERAL)
        forged = replace(true, content="forged")
        await mine.publish(Event(*(getattr(forged, name) for name in Event.__match_args__)))
        await _publish(mine, last)
        assert await _next_event(deliveries) == last


RULES: tuple[Rule, ...] = (
    what_one_client_publishes_another_follows,
    what_is_stored_comes_before_the_end_of_stored_events_and_what_is_new_after,
    an_event_that_both_relays_bring_is_delivered_once,
    an_event_sent_again_is_delivered_again_where_repeats_are_wanted,
    who_asks_is_told_who_else_carries_an_event_and_who_is_gone,
    each_relay_answers_for_itself_in_the_order_asked,
    an_event_published_to_one_relay_is_not_on_the_other,
    publishing_the_same_event_again_is_accepted,
    an_event_that_was_tampered_with_is_refused_with_a_reason,
    an_ephemeral_event_is_passed_on_and_not_kept,
    of_replaceable_and_addressable_events_only_the_newest_is_kept,
    a_limit_holds_for_stored_events_newest_first,
    only_what_matches_is_delivered,
    a_relay_out_of_reach_holds_nobody_up,
    a_subscription_outlives_the_failure_of_its_only_relay,
    a_relay_nobody_knows_answers_with_a_refusal,
    leaving_a_subscription_and_cancelling_a_wait_take_no_time,
    a_changed_event_never_reaches_a_follower,
)
