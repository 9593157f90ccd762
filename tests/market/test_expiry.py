"""The expiry index."""

from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market.expiry import ExpiryIndex
from relaymesh.units import Timestamp

times = st.integers(0, 40).map(Timestamp)
moves = st.lists(st.tuples(st.sampled_from(["schedule", "cancel", "pop"]), st.integers(0, 5), times), max_size=60)


@given(moves)
def test_it_ends_exactly_what_a_scan_would_end(steps: list[tuple[str, int, Timestamp]]) -> None:
    index: ExpiryIndex[int] = ExpiryIndex()
    expected: dict[int, int] = {}
    for verb, key, at in steps:
        if verb == "schedule":
            index.schedule(key, at)
            expected[key] = at
        elif verb == "cancel":
            index.cancel(key)
            expected.pop(key, None)
        else:
            ended = index.pop_ended(at)
            assert set(ended) == {key for key, end in expected.items() if end <= at}
            assert [expected[key] for key in ended] == sorted(expected[key] for key in ended)
            assert len(ended) == len(set(ended))
            expected = {key: end for key, end in expected.items() if end > at}
        assert len(index) == len(expected)


def test_a_key_that_moves_for_ever_does_not_make_the_index_grow() -> None:
    index: ExpiryIndex[str] = ExpiryIndex()
    for step in range(10_000):
        index.schedule("restless", Timestamp(10**9 - step))
    assert index.heap_size <= 100
    for step in range(10_000):
        index.schedule(f"{step}", Timestamp(5))
        index.cancel(f"{step}")
    assert index.heap_size <= 100
    assert index.pop_ended(Timestamp(10**9)) == ["restless"]


def test_keys_still_end_in_order_after_many_have_moved() -> None:
    index: ExpiryIndex[int] = ExpiryIndex()
    ends = {}
    for step in range(1_000):
        key, at = step % 50, Timestamp(step * 7_919 % 1_009)
        index.schedule(key, at)
        ends[key] = at
    ended = [key for now in range(1_009) for key in index.pop_ended(Timestamp(now))]
    assert [ends[key] for key in ended] == sorted(ends.values())


def test_keys_that_end_together_need_not_be_comparable() -> None:
    index: ExpiryIndex[object] = ExpiryIndex()
    keys = {object() for _ in range(5)}
    for key in keys:
        index.schedule(key, Timestamp(1))
    assert set(index.pop_ended(Timestamp(1))) == keys
