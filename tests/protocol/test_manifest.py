"""The capability manifest on the wire."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.tags import read_expiration
from relaymesh.protocol.manifest import (
    MAXIMUM_BAND,
    Manifest,
    build_manifest,
    read_manifest,
    to_band,
)
from relaymesh.units import Timestamp
from tests.market.builders import NODE, NOW, sign

FIELDS: dict[str, Any] = {
    "v": 1,
    "seq": 5,
    "valid_until": NOW + 3_600,
    "role": "node",
    "bands": {"cpu": 4, "memory": 6, "disk": 9, "gpu": None, "network": 10},
    "benchmarks": [
        {
            "model": "tiny",
            "quantization": "q8_0",
            "prefill_tokens_per_1000s": 900_000,
            "decode_tokens_per_1000s": 42_000,
            "first_output_ms": 180,
            "measured_at": NOW,
        }
    ],
    "relays": [{"url": "wss://relay.example", "round_trip_ms": 35}],
}


def changed(path: str, value: Any) -> str:
    fields = json.loads(json.dumps(FIELDS))
    *parents, last = path.split(".")
    place = fields
    for name in parents:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = value
    return json.dumps(fields)


def test_what_is_built_is_read() -> None:
    manifest = Manifest.from_text(json.dumps(FIELDS))
    signed = read_manifest(sign(build_manifest(manifest, "main", NODE, Timestamp(NOW))))
    assert (signed.manifest, signed.label, signed.author) == (manifest, "main", NODE)
    assert read_expiration(signed.event) == manifest.valid_until
    benchmark = manifest.find_benchmark("tiny")
    assert benchmark is not None and benchmark.decode_tokens_per_1000s == 42_000
    assert manifest.find_benchmark("other") is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bands.cpu", MAXIMUM_BAND + 1),
        ("bands.cpu", -1),
        ("bands.cpu", 1.5),
        ("bands.memory", None),
        ("role", "client"),
        ("benchmarks", [FIELDS["benchmarks"][0]] * 2),
        ("benchmarks", [{**FIELDS["benchmarks"][0], "model": f"m{number}"} for number in range(17)]),
        ("benchmarks.0.decode_tokens_per_1000s", 10**9 + 1),
        ("benchmarks.0.model", ""),
        ("relays", [FIELDS["relays"][0]] * 2),
        ("relays.0.url", "https://relay.example"),
        ("relays.0.round_trip_ms", -1),
        ("valid_until", "tomorrow"),
        ("v", 2),
    ],
)
def test_what_is_out_of_range_is_refused_with_a_reason(path: str, value: Any) -> None:
    with pytest.raises(RemoteProtocolError, match=r"Manifest: |plain integers"):
        Manifest.from_text(changed(path, value))


def test_a_label_is_an_offers_label() -> None:
    event = build_manifest(Manifest.from_text(json.dumps(FIELDS)), "main", NODE, Timestamp(NOW))
    tags = tuple(("d", "Not A Label") if tag[0] == "d" else tag for tag in event.tags)
    with pytest.raises(RemoteProtocolError, match="label"):
        read_manifest(sign(replace(event, tags=tags)))


@given(st.integers(0, 2**40))
def test_a_band_holds_from_its_power_of_two_up_to_the_next(size: int) -> None:
    band = to_band(size)
    assert 0 <= band <= MAXIMUM_BAND
    assert size < 2 if band == 0 else 2**band <= size
    assert band == MAXIMUM_BAND or size < 2 ** (band + 1)
