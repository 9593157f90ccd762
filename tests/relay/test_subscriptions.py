"""The index of live filters finds what comparing every filter would find."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.nostr.filters import Filter
from relaymesh.units import Instant, Moment, Timestamp
from relaymesh_relay.connection import Connection
from relaymesh_relay.settings import Settings
from relaymesh_relay.subscriptions import Subscription, SubscriptionIndex

AUTHORS = [PublicKey(letter * 64) for letter in "ab"]
IDS = [EventId(letter * 64) for letter in "01"]
VALUES = ["x", "y"]
CONNECTION = Connection(Settings(), address="", relay_urls=(), challenge="", is_exempt=True, now=Moment(Instant(0), 0))

tags = st.lists(st.sampled_from([("t", "x"), ("t", "y"), ("p", "x"), ("t",), ("word", "x")]), max_size=3).map(tuple)
events = st.builds(
    Event,
    st.sampled_from(AUTHORS),
    st.integers(0, 5).map(Timestamp),
    st.integers(0, 2),
    tags,
    st.just(""),
    st.sampled_from(IDS),
    st.just("0" * 128),
)
ids = st.lists(st.sampled_from(IDS), max_size=2).map(tuple)
authors = st.lists(st.sampled_from(AUTHORS), max_size=2).map(tuple)
kinds = st.lists(st.integers(0, 2), max_size=2).map(tuple)
conditions = st.dictionaries(st.sampled_from("tp"), st.lists(st.sampled_from(VALUES), max_size=2).map(tuple)).map(
    lambda values: tuple(values.items())
)
filters = st.one_of(
    st.builds(Filter, ids=ids),
    st.builds(Filter, authors=authors),
    st.builds(Filter, kinds=kinds),
    st.builds(Filter, tags=conditions),
    st.builds(Filter, since=st.integers(0, 5).map(Timestamp)),
    st.builds(Filter, ids=st.none() | ids, authors=st.none() | authors, kinds=st.none() | kinds, tags=conditions),
)
subscriptions = st.lists(st.lists(filters, min_size=1, max_size=3), max_size=8)


@settings(max_examples=60)
@given(subscriptions, st.lists(st.booleans(), min_size=8, max_size=8), st.lists(events, min_size=1, max_size=8))
def test_it_finds_what_comparing_every_filter_would_find(
    asked: list[list[Filter]], closed: list[bool], live: list[Event]
) -> None:
    index = SubscriptionIndex()
    opened = [Subscription(CONNECTION, str(number), tuple(wanted)) for number, wanted in enumerate(asked)]
    for subscription in opened:
        index.add(subscription)
    for subscription, is_closed in zip(opened, closed, strict=False):
        if is_closed:
            index.remove(subscription)
    remaining = [each for each, is_closed in zip(opened, closed, strict=False) if not is_closed]
    for event in live:
        assert set(index.matching(event)) == {each for each in remaining if each.asks_for(event)}


@settings(max_examples=60)
@given(subscriptions)
def test_it_is_empty_when_all_subscriptions_are_closed(asked: list[list[Filter]]) -> None:
    index = SubscriptionIndex()
    opened = [Subscription(CONNECTION, str(number), tuple(wanted)) for number, wanted in enumerate(asked)]
    for subscription in opened:
        index.add(subscription)
    for subscription in opened:
        index.remove(subscription)
    assert index._entries == {}
