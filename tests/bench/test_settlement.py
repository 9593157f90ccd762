"""The settlement benchmark prints what was agreed on: every figure with its goal, whatever it measured."""

import json

import jsonschema
import pytest

from bench.contract import describe_machine, to_json
from bench.payments import find_stalls_ms
from bench.settlement import Scale, measure
from tests.bench.test_contract import SCHEMA

pytestmark = pytest.mark.anyio

TINY = Scale(jobs=2, slow_jobs=2, streams=1, stream_tranches=2, pace_ms=1, latencies_ms=(2, 500))
PROMISED = {
    "prepay_added_p50_ms": None,
    "prepay_added_p99_ms": None,
    "prepay_added_500_p50_ms": None,
    "sealed_added_p50_ms": None,
    "sealed_added_500_p99_ms": None,
    "postpay_added_p50_ms": None,
    "session_tranche_added_p50_ms": 2,
    "tranche_stall_p99_ms": 20,
    "payment_cpu_us": None,
    "tranches_payments_per_job": None,
    "prepay_fees_ppm": None,
}


async def test_it_prints_every_promised_figure_with_its_goal() -> None:
    printed = json.loads(to_json("settlement", describe_machine(), await measure(1, TINY)))
    jsonschema.validate(printed, SCHEMA)
    figures = {figure["name"]: figure for figure in printed["figures"]}
    assert {name: figures[name]["goal"] for name in PROMISED} == PROMISED
    assert len(figures) == len(printed["figures"]), "every name stands for one figure"
    assert figures["tranches_payments_per_job"]["value"] == 2
    assert figures["prepay_payments_per_job"]["value"] == figures["sealed_payments_per_job"]["value"] == 1


def test_a_stall_is_what_the_first_piece_of_a_tranche_is_late_beyond_its_own_making() -> None:
    pieces = ((0.00, 8), (0.02, 8), (0.10, 8), (0.14, 16))  # tranches of 16 bytes: the third piece begins one
    across, within = find_stalls_ms(pieces, 16, 20)
    assert [round(each) for each in across] == [60, 0]
    assert [round(each) for each in within] == [0]
