"""What a request's body says: read, refused by name, or taken out, whatever stands in it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.gateway.failures import RequestFailed
from relaymesh.gateway.requests import KEPT_HERE, Asked, read_request
from relaymesh.protocol.fields import JobType
from relaymesh.settings import Client as BuyingSettings
from tests.gateway.place import chat

SETTINGS = BuyingSettings(max_msat=5_000, output_tokens=64)
FIELDS = (
    *KEPT_HERE,
    *("messages", "prompt", "input", "max_tokens", "max_completion_tokens", "n", "tools", "response_format"),
    *("logprobs", "modalities", "temperature"),
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner),
    max_leaves=12,
)


def read(job_type: JobType = "chat", **fields: Any) -> Asked:
    return read_request(job_type, json.dumps(fields).encode(), SETTINGS)


@given(
    st.sampled_from(("chat", "completion", "embedding")),
    st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, ANY_JSON)),
    st.booleans(),
)
def test_whatever_stands_in_a_request_it_is_read_or_refused(
    job_type: JobType, fields: dict[str, Any], is_whole: bool
) -> None:
    fields = {**chat(), "prompt": "x", "input": "x", **fields} if is_whole else fields
    status = 200
    try:
        check(read(job_type, **fields), job_type)
    except RequestFailed as error:
        status = error.failure.status
    assert status in (200, 400, 413)


def check(asked: Asked, job_type: JobType) -> None:
    body = json.loads(asked.wanted.body)
    assert not set(body) & set(KEPT_HERE)
    assert asked.wanted.maximum_msat >= 1 and asked.models
    if job_type != "embedding":
        assert body["max_tokens"] == asked.wanted.output_tokens >= 1 and "max_completion_tokens" not in body


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_refused_without_being_quoted(data: bytes) -> None:
    with pytest.raises(RequestFailed) as failed:
        read_request("chat", b'{"canary":' + data, SETTINGS)
    assert "canary" not in str(failed.value) and failed.value.__cause__ is None


def test_what_is_not_ours_reaches_the_node_as_it_came() -> None:
    extra: Any = {"temperature": 0.5, "seed": 7, "stop": ["x"], "vendor_field": {"a": [1]}}
    body = json.loads(read(**chat("hello"), **extra, user="alice", store=True).wanted.body)
    assert body == {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 64, **extra}


def test_the_lower_of_two_output_limits_holds_and_the_settings_where_there_is_none() -> None:
    assert read(**chat(), max_tokens=9, max_completion_tokens=7).wanted.output_tokens == 7
    assert read(**chat()).wanted.output_tokens == 64


def test_what_a_node_must_offer_follows_from_the_request() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    asked = read(
        model="echo",
        messages=[{"role": "user", "content": [image]}],
        stream=True,
        tools=[{}],
        response_format={"type": "json_object"},
    )
    assert asked.wanted.capabilities == ("stream", "tools", "json", "images")
    assert read(**chat(), response_format={"type": "text"}).wanted.capabilities == ()


def test_relaymesh_and_provider_decide_how_it_is_bought() -> None:
    terms = {"max_msat": 77, "settlement": "sealed", "policy": "fastest", "explain": True}
    asked = read(**chat(), relaymesh=terms, provider={"sort": "price", "quantizations": ["q8_0"]}, models=["b", "echo"])
    wanted = asked.wanted
    assert (wanted.maximum_msat, wanted.settlement, wanted.policy.name) == (77, "sealed", "fastest")
    assert wanted.counting.name == "price" and wanted.preferences.quantizations == ("q8_0",)
    assert asked.explains and asked.models == ("echo", "b")
    assert read(**chat(model="auto")).models == (None,)
