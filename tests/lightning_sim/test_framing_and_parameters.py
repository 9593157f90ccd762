"""Requests are cut out of any stream of bytes; parameters are refused in Core Lightning's words and no other way."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.lightning_sim.answers import RpcFailure, Waiting
from relaymesh.lightning_sim.commands import COMMANDS, answer, encode_reply
from relaymesh.lightning_sim.framing import MAXIMUM_REQUEST_BYTES, RequestReader
from relaymesh.lightning_sim.parameters import as_msat, as_positive_msat
from tests.lightning_sim.simulated import HandDriven, alice_and_bob

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4), st.lists(st.integers(1, 40), min_size=1))
def test_requests_are_cut_wherever_the_bytes_are_split(requests: list[dict[str, Any]], sizes: list[int]) -> None:
    stream = b"".join(json.dumps(request).encode() + b" \n" * (index % 2) for index, request in enumerate(requests))
    reader, found, position = RequestReader(), [], 0
    while position < len(stream):
        size = sizes[position % len(sizes)]
        found += reader.feed(stream[position : position + size])
        position += size
    assert json.dumps(found) == json.dumps(requests)


@pytest.mark.parametrize("junk", [b"x", b"[]", b"1 ", b'"a"', b"\xff", b"[" * 100_000])
def test_what_can_never_be_a_request_ends_the_connection(junk: bytes) -> None:
    with pytest.raises(RpcFailure):
        RequestReader().feed(junk)


def test_a_request_without_end_is_refused_at_its_limit() -> None:
    reader = RequestReader()
    assert reader.feed(b'{"a": "' + b"x" * (MAXIMUM_REQUEST_BYTES - 100)) == []
    with pytest.raises(RpcFailure):
        reader.feed(b"x" * 200)


@pytest.fixture(scope="module")
def network() -> HandDriven:
    return alice_and_bob()


def _answer(network: HandDriven, method: object, parameters: object) -> object:
    """What comes of it: a result, or a failure that can be sent."""
    try:
        return answer(network.simulation, "alice", method, parameters, network.now_ms)
    except RpcFailure as failure:
        return encode_reply(None, failure)


@settings(max_examples=60)
@given(method=st.sampled_from(sorted(COMMANDS)) | st.text() | JSON, parameters=JSON)
def test_whatever_is_asked_is_answered_or_refused(network: HandDriven, method: object, parameters: object) -> None:
    assert isinstance(_answer(network, method, parameters), dict | bytes | Waiting)


@settings(max_examples=60)
@given(method=st.sampled_from(sorted(COMMANDS)), data=st.data())
def test_whatever_a_parameter_holds_is_answered_or_refused(
    network: HandDriven, method: str, data: st.DataObject
) -> None:
    names = [parameter.name for parameter in COMMANDS[method].parameters]
    plausible = st.sampled_from(["one", "ab" * 32, 1, 0, 600, "any", "10msat", "paid", "xpay", True])
    given_values = {name: data.draw(plausible | JSON) for name in names if data.draw(st.booleans())}
    assert isinstance(_answer(network, method, given_values), dict | bytes | Waiting)


def test_parameters_may_come_in_order(network: HandDriven) -> None:
    issued = answer(network.simulation, "bob", "invoice", [5_000, "by position", "d", 60], network.now_ms)
    assert isinstance(issued, dict)
    assert network.call("bob", "listinvoices", label="by position")["invoices"][0]["bolt11"] == issued["bolt11"]
    with pytest.raises(RpcFailure, match="too many parameters"):
        answer(network.simulation, "bob", "getinfo", [1], network.now_ms)


@pytest.mark.parametrize(("value", "expected"), [(5, 5), ("5", 5), ("5msat", 5), ("5sat", 5_000), (0, 0)])
def test_amounts_are_read_in_every_spelling(value: object, expected: int) -> None:
    assert as_msat(value) == expected


@pytest.mark.parametrize("value", [-1, 1.5, "1.5sat", "btc", "", None, True, [], 2**53, "٣"])
def test_what_is_no_amount_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="should be a millisatoshi amount"):
        as_msat(value)
    with pytest.raises(ValueError, match="should be positive msat or 'any'"):
        as_positive_msat(value)
