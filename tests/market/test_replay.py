"""A stored choice comes out again, and whatever is changed in it is found."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.policy import BALANCED
from relaymesh.market.replay import first_difference, read_record, record
from relaymesh.market.request import BuyerRequest, PriceCeiling
from relaymesh.market.selection import select
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import Event, VerifiedEvent
from tests.market.builders import MODEL, NOW, buyer_request, buyer_requests, candidate, candidates, node


def trust(event: Event) -> VerifiedEvent:
    """Stands for the check of a signature; ids are checked as everywhere."""
    if event.compute_id() != event.id:
        raise RemoteProtocolError("the id is not that of the event")
    return VerifiedEvent(
        event.public_key, event.created_at, event.kind, event.tags, event.content, event.id, event.signature
    )


def stored(*among: Candidate, request: BuyerRequest | None = None) -> Any:
    standings = {node(1): Standing(successes_milli=5_000, trust_milli=300, reasons=("own jobs",))}
    selection = select(
        among or (candidate(1), candidate(2, minimum_msat=9_000), candidate(3, free=0)),
        request or buyer_request(order=(node(2),), maximum_price=PriceCeiling(output_msat=10**6)),
        seed=b"seed",
        count=1,
        now=NOW,
        policy=BALANCED,
        standings=standings,
    )
    return json.loads(json.dumps(record(selection)))


def test_a_stored_choice_comes_out_again() -> None:
    recorded = read_record(stored(), trust)
    assert first_difference(recorded) is None
    assert len(recorded.candidates) == 3 and recorded.standings[node(1)].trust_milli == 300


def test_a_model_that_nobody_offers_is_told_again() -> None:
    assert first_difference(read_record(stored(request=buyer_request(model="absent")), trust)) is None


@given(
    st.lists(candidates(), max_size=5, unique_by=lambda one: one.offer.node),
    buyer_requests(),
)
def test_any_choice_comes_out_again(among: list[Candidate], request: BuyerRequest) -> None:
    fitting = [one for one in among if one.row.model == MODEL or request.model is None]
    assert first_difference(read_record(stored(*fitting, request=request) if fitting else stored(), trust)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it.update(seed="00"), "the explanation, seed: stored '73656564', computed '00'"),
        (lambda it: it["explanation"]["rows"][0].update(score_msat=1), "rows 1, score_msat: stored 1,"),
        (lambda it: it["explanation"]["rows"].pop(), "the explanation, rows: 2 stored, 3 computed"),
        (lambda it: it["explanation"]["rows"][0].pop("draw"), "rows 1 lacks draw"),
        (lambda it: it["explanation"]["rows"][0].update(chosen=1), "rows 1, chosen: stored 1, computed True"),
        (lambda it: it["explanation"].update(more=1), "has, and should not, more"),
        (lambda it: it["policy"].update(run_msat_per_second=99), "the explanation, sentence"),
        (lambda it: it["standings"].clear(), "rows 2,"),
        (lambda it: it.update(now=NOW + 1_000), "the explanation, now"),
    ],
)
def test_the_first_difference_is_told(change: Callable[[Any], None], said: str) -> None:
    changed = copy.deepcopy(stored())
    change(changed)
    difference = first_difference(read_record(changed, trust))
    assert difference is not None and said in difference


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(version=1),
        lambda it: it.pop("events"),
        lambda it: it["events"][0].update(content="{}"),
        lambda it: it["events"][0].update(kind=1),
        lambda it: it["events"].append(1),
        lambda it: it["policy"].update(cost_milli=-1),
        lambda it: it["policy"].update(more=1),
        lambda it: it["request"].update(shape=None),
        lambda it: it["request"].pop("model"),
        lambda it: it.update(now="now"),
        lambda it: it.update(seed="xyz"),
        lambda it: it["standings"].update({node(2): {}}),
    ],
)
def test_what_is_no_record_is_refused(change: Callable[[Any], None]) -> None:
    changed = copy.deepcopy(stored())
    change(changed)
    with pytest.raises(RemoteProtocolError):
        read_record(changed, trust)


@pytest.mark.parametrize("said", [None, 1, [], {}, "record", {"version": 1}])
def test_nonsense_is_refused(said: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        read_record(said, trust)


@pytest.mark.parametrize(("name", "value"), [("budget_msat", "x"), ("count", 0), ("maximum_pow_bits", None)])
def test_a_field_of_the_wrong_type_is_told_and_no_traceback(name: str, value: Any) -> None:
    changed = copy.deepcopy(stored())
    (changed if name == "count" else changed["request"])[name] = value
    with pytest.raises(RemoteProtocolError):
        first_difference(read_record(changed, trust))
