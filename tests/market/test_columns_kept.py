"""The columns of a directory choose what the reference chooses, whatever came before."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from relaymesh.market.directory import Directory
from relaymesh.market.selection import select
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.protocol.fields import JobType
from relaymesh.units import Timestamp
from tests.market.builders import MODEL, NOW, buyer_request, node, row, signed_offer, signed_status

RELAY = "ws://one.example"
numbers, seconds = st.integers(1, 2), st.integers(-5, 60)
models: st.SearchStrategy[str] = st.sampled_from([MODEL, "other"])
job_types: st.SearchStrategy[tuple[JobType, ...]] = st.sampled_from([("chat",), ("embedding", "chat"), ("embedding",)])
price_rows = st.builds(row, model=models, job_types=job_types, minimum_msat=st.integers(0, 3))
offers = st.tuples(
    st.just("offer"),
    numbers,
    st.sampled_from(["main", "main/2"]),
    seconds,
    st.lists(price_rows, min_size=1, max_size=3),
)
statuses = st.tuples(
    st.just("status"), numbers, st.sampled_from(["up", "busy", "draining"]), seconds, st.integers(0, 2)
)
standings = st.tuples(st.just("standing"), numbers, st.sampled_from([UNKNOWN, Standing(trust_milli=900)]))
waits = st.tuples(st.just("wait"), st.integers(1, 30))
choices = st.tuples(st.just("choose"), st.sampled_from([MODEL, "other", "absent", None]), st.sampled_from(["chat"]))


def take(directory: Directory, step: tuple[Any, ...], now: int) -> None:
    """Let one thing happen to the directory."""
    match step:
        case "offer", number, label, ends, rows:
            offer = signed_offer(node(number), label, seq=now, valid_until=now + ends, rows=tuple(rows), created_at=now)
            directory.apply(offer.event, RELAY, Timestamp(now))
        case "status", number, state, ends, free:
            labels = {"main": (free, 0), "main/2": (1, 1)}
            status = signed_status(
                node(number), state=state, labels=labels, seq=now, created_at=now, expires_at=now + ends
            )
            directory.apply(status.event, RELAY, Timestamp(now))
        case "standing", number, standing:
            directory.set_standing(node(number), standing)


@example([("offer", 1, "main", 60, [row()]), ("status", 1, "up", 10, 1), ("wait", 5)])
@given(st.lists(offers | statuses | standings | waits | choices, max_size=30))
def test_after_any_sequence_of_events_the_fast_choice_is_the_reference_s(steps: list[tuple[Any, ...]]) -> None:
    directory, now = Directory(), int(NOW)
    for step in [("choose", MODEL, "chat"), *steps, ("wait", 20), ("choose", MODEL, "chat"), ("choose", None, "chat")]:
        now += step[1] if step[0] == "wait" else 1
        take(directory, step, now)
        if step[0] != "choose":
            continue
        request = buyer_request(model=step[1], job_type=step[2])
        among = directory.candidates(step[1], step[2], Timestamp(now)) or directory.candidates(
            None, step[2], Timestamp(now)
        )
        expected = select(
            among,
            request,
            seed=b"seed",
            count=2,
            now=Timestamp(now),
            standings={node(number): directory.standing(node(number)) for number in range(1, 3)},
        )
        assert directory.select(request, seed=b"seed", count=2, now=Timestamp(now)) == expected


def test_standings_set_anew_replace_all_that_was_known() -> None:
    directory = Directory()
    directory.set_standings({node(1): Standing(trust_milli=1), node(2): Standing(trust_milli=2)})
    directory.set_standings({node(2): Standing(trust_milli=3), node(3): UNKNOWN})
    assert directory.standings == {node(2): Standing(trust_milli=3)}
    assert directory.standing(node(1)) == UNKNOWN
