"""Preferences in the shape that OpenRouter made known: every one that is accepted is enforced, every other refused."""

from typing import Any

import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.policy import BALANCED
from relaymesh.market.preferences import NO_PREFERENCES, Preferences, read_preferences
from relaymesh.market.request import PriceCeiling
from relaymesh.market.selection import select
from relaymesh.market.standing import Standing
from relaymesh.nostr.identifiers import encode_public_key
from tests.market.builders import NOW, buyer_request, candidate, node

MARKET = (
    candidate(1, minimum_msat=1_000, identity={"quantization": "q4_k_m"}),
    candidate(2, minimum_msat=2_000, data_collection="deny"),
    candidate(3, minimum_msat=3_000, capabilities=("stream", "temperature")),
)
STANDINGS = {
    node(1): Standing(first_output_ms=900, slow_first_output_ms=5_000, output_units_per_1000s=20_000),
    node(2): Standing(first_output_ms=300, slow_first_output_ms=9_000, output_units_per_1000s=10_000),
    node(3): Standing(first_output_ms=600, slow_first_output_ms=700, output_units_per_1000s=90_000),
}


def chosen(among: tuple[Candidate, ...] = MARKET, parameters: tuple[str, ...] = (), **said: Any) -> list[int]:
    """The nodes that are asked, by number, when this is preferred and price counts otherwise."""
    preferences = read_preferences(said)
    policy = preferences.policy(read_preferences({"sort": "price"}).policy(BALANCED))
    request = preferences.narrow(buyer_request(), parameters)
    count = preferences.count(3)
    selection = select(among, request, seed=b"s", count=count, now=NOW, policy=policy, standings=STANDINGS)
    return [int(choice.candidate.offer.node, 16) for choice in selection.chosen]


def test_without_preferences_nothing_changes() -> None:
    assert chosen() == [1, 2, 3]
    assert NO_PREFERENCES.narrow(buyer_request()) == buyer_request()
    assert NO_PREFERENCES.policy(BALANCED) is BALANCED


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"order": [node(3), node(2)]}, [3, 2, 1]),
        ({"order": [encode_public_key(node(3))], "allow_fallbacks": False}, [3]),
        ({"order": [node(3), node(2)], "allow_fallbacks": False, "ignore": [node(3)]}, [2]),
        ({"allow_fallbacks": False}, [1]),
        ({"only": [node(2), node(3)]}, [2, 3]),
        ({"only": []}, []),
        ({"ignore": [node(1)]}, [2, 3]),
        ({"sort": "price"}, [1, 2, 3]),
        ({"sort": "latency"}, [3, 1, 2]),  # waiting for a place is part of it
        ({"sort": "throughput"}, [3, 1, 2]),
        ({"max_price": {"request": 2_000}}, [1, 2]),
        ({"max_price": {"completion": 119_999}}, []),
        ({"max_price": {"prompt": 40_000, "completion": 120_000}}, [1, 2, 3]),
        ({"quantizations": ["q4_k_m"]}, [1]),
        ({"quantizations": ["unknown"]}, [2, 3]),
        ({"data_collection": "deny"}, [2]),
        ({"data_collection": "allow"}, [1, 2, 3]),
        ({"preferred_max_latency": 600}, [2, 3, 1]),
        ({"preferred_max_latency": {"p90": 5_000}}, [1, 3, 2]),
        ({"preferred_min_throughput": {"p50": 20_000}}, [1, 3, 2]),
    ],
)
def test_every_preference_is_enforced(said: dict[str, Any], expected: list[int]) -> None:
    assert chosen(**said) == expected


def test_parameters_are_required_only_where_that_is_said() -> None:
    assert chosen(parameters=("temperature",)) == [1, 2, 3]
    assert chosen(parameters=("temperature",), require_parameters=True) == [3]


def test_preferences_narrow_what_a_request_allows_already_and_never_widen_it() -> None:
    request = buyer_request(allow=frozenset({node(1), node(2)}), ignore=frozenset({node(4)}), data_collection="deny")
    narrowed = Preferences(only=frozenset({node(2), node(3)}), ignore=frozenset({node(5)})).narrow(request)
    assert narrowed.allow == frozenset({node(2)}) and narrowed.ignore == {node(4), node(5)}
    assert narrowed.data_collection == "deny"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"zdr": True}, "got zdr"),
        ({"sort": "beauty"}, "sort must be one of price, latency, throughput"),
        ({"sort": []}, "sort must be one of"),
        ({"order": "node"}, "order must be a list"),
        ({"order": [1]}, "order must be a list"),
        ({"order": ["OpenAI"]}, "npub"),
        ({"allow_fallbacks": 1}, "allow_fallbacks must be true or false"),
        ({"max_price": {"prompt": 0.5}}, "max_price.prompt must be a whole number"),
        ({"max_price": {"image": 1}}, "max_price must be an object of"),
        ({"max_price": {"prompt": -1}}, "whole number"),
        ({"max_price": {"prompt": 10**12 + 1}}, "whole number"),
        ({"data_collection": "maybe"}, "data_collection must be one of"),
        ({"preferred_max_latency": {"p99": 1}}, "p50 and p90 only, not for p99"),
        ({"preferred_max_latency": True}, "whole number"),
        ({"quantizations": ["q4"] * 101}, "at most 100"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RemoteProtocolError, match=sentence):
        read_preferences(said)


def test_ceilings_are_read_by_the_names_of_openrouter() -> None:
    read = read_preferences({"max_price": {"prompt": 1, "completion": 2, "request": 3}})
    assert read.max_price == PriceCeiling(input_msat=1, output_msat=2, job_msat=3)
