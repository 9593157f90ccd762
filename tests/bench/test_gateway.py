"""What the gateway's benchmark prints is what was promised, whatever it measured."""

import json

import pytest

from bench.contract import describe_machine, to_json
from bench.gateway import Scale, measure

PROMISED = {
    "added_first_output_p50_ms": 3,
    "added_first_output_p99_ms": 40,
    "token_cpu_us_100_streams": 300,
    "lost_tokens": 0,
}


@pytest.mark.anyio
async def test_the_gateway_benchmark_prints_every_promised_figure_with_its_goal() -> None:
    figures = await measure(1, Scale(requests=3, active=2, streams=3, paced_tokens=5))
    printed = json.loads(to_json("gateway", describe_machine(), figures))
    named = {figure["name"]: figure for figure in printed["figures"]}
    assert {name: named[name]["goal"] for name in PROMISED} == PROMISED
    assert named["lost_tokens"]["value"] == 0
