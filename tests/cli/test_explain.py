"""What was chosen and why, for a person and for a program; and a stored choice that comes out again, or does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from relaymesh.cli.application import application
from relaymesh.cli.buying import read_preference_options
from relaymesh.errors import UsageError
from relaymesh.market.preferences import Percentiles
from relaymesh.market.request import PriceCeiling
from tests.market.builders import node
from tests.nips.test_files import load


def stored(folder: Path, **changes: Any) -> Path:
    """A file that holds a choice from the specification's vectors, with changes."""
    [case] = [each for each in load("vectors/scheduler.json")["cases"] if each["name"] == "the policy balanced"]
    file = folder / "choice.json"
    file.write_text(json.dumps({**case, **changes}), encoding="utf-8")
    return file


def replay(file: Path, *options: str) -> Result:
    return CliRunner().invoke(application, ["explain", "--replay", str(file), *options], env={"COLUMNS": "250"})


def test_a_stored_choice_is_shown_as_it_was(tmp_path: Path) -> None:
    ran = replay(stored(tmp_path))
    assert ran.exit_code == 0 and "→" in ran.stdout and "no free capacity: 7 jobs wait" in ran.stdout
    assert "is the best of 6 eligible offers (balanced: " in ran.stdout
    told = json.loads(replay(stored(tmp_path), "--json").stdout)
    assert told == load("vectors/scheduler.json")["cases"][2]["explanation"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "00"}, "does not come out again: the explanation, seed"),
        ({"count": 1}, "does not come out again"),
        ({"version": 3}, "version 3"),
        ({"events": [1]}, "does not hold"),
    ],
)
def test_a_choice_that_does_not_come_out_again_is_one_sentence_and_exit_code_1(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    ran = replay(stored(tmp_path, **changes))
    assert ran.exit_code == 1 and said in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1 and not ran.stdout


def test_a_signature_that_nobody_made_is_found(tmp_path: Path) -> None:
    events = json.loads(stored(tmp_path).read_text(encoding="utf-8"))["events"]
    events[0]["sig"] = "00" * 64
    ran = replay(stored(tmp_path, events=events))
    assert ran.exit_code == 1 and "signature" in ran.stderr


@pytest.mark.parametrize("text", ["", "nonsense", "[" * 5_000, "null", '{"version": 1}'])
def test_what_is_no_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "choice.json"
    file.write_text(text, encoding="utf-8")
    ran = replay(file)
    assert ran.exit_code == 1 and len(ran.stderr.strip().splitlines()) == 1


def test_preferences_are_read_from_names_and_values() -> None:
    read = read_preference_options(
        [
            f"order={node(1)},{node(2)}",
            "allow_fallbacks=false",
            "max_price.prompt=40000",
            "preferred_max_latency=900",
            "preferred_min_throughput.p90=5000",
            "quantizations=fp16, unknown",
            "sort=price",
        ]
    )
    assert read.order == (node(1), node(2)) and read.allow_fallbacks is False and read.sort == "price"
    assert read.max_price == PriceCeiling(input_msat=40_000) and read.quantizations == ("fp16", "unknown")
    assert read.preferred_max_latency_ms == Percentiles(p50=900)
    assert read.preferred_min_throughput_per_1000s == Percentiles(p90=5_000)


@pytest.mark.parametrize("given", [["order"], ["zdr=true"], ["max_price=1", "max_price.prompt=1"], ["only=OpenAI"]])
def test_a_preference_that_is_not_understood_is_refused(given: list[str]) -> None:
    with pytest.raises(UsageError):
        read_preference_options(given)
