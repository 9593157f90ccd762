"""`relaymesh fraud verify`: a verdict for a person and for a program, and one sentence for whatever is no proof."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relaymesh.cli.application import application
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.protocol.fraud_proof import build_fraud_proof
from tests.house import tree
from tests.market import fraud_builders
from tests.market.evidence_builders import STRANGER
from tests.market.fraud_builders import NOW

EXAMPLE = json.loads((tree.ROOT / "nips/examples/fraud-proof.json").read_text(encoding="utf-8"))["event"]

UNREADABLE = {
    "no JSON": ("{", "JSON"),
    "another kind": (json.dumps({**EXAMPLE, "kind": 1}), "id is not the hash"),
    "a forged signature": (json.dumps({**EXAMPLE, "sig": "00" * 64}), "signature"),
    "no event": ("[1]", "event"),
    "two events": (json.dumps([EXAMPLE, EXAMPLE]), "one event"),
    "a metering record": ("METERING", "8772"),
    "a book": ("x" * 40_000, "16384"),
}


def event_of(what: str) -> VerifiedEvent:
    case = next(each for each in fraud_builders.cases() if each.what == what)
    return STRANGER.sign(build_fraud_proof(case.proof, STRANGER.public_key, NOW))


def run(file: Path | str, *options: str, text: str | None = None) -> tuple[int, str, str]:
    ran = CliRunner().invoke(application, ["fraud", "verify", str(file), *options], input=text)
    assert "Traceback" not in ran.output
    return ran.exit_code, ran.stdout, ran.stderr


def test_a_proof_that_holds_is_told_with_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(EXAMPLE, indent=1))
    code, shown, _ = run(file)
    assert code == 0 and "PROVEN" in shown and "341" in shown and "340" in shown
    code, shown, _ = run(file, "--json")
    said = json.loads(shown)
    assert code == 0 and said["is_proven"] and said["claim"] == "price-over-quote" and said["slash_key"]
    assert said["figures"]["charged_msat"] == 341 and said["proof_id"] == EXAMPLE["id"]


def test_a_proof_that_does_not_hold_is_told_why() -> None:
    event = event_of("a republication").to_json()
    code, shown, _ = run("-", text=json.dumps(event))
    assert code == 1 and "not proven" in shown and "republication" in shown
    code, shown, _ = run("-", "--json", text=json.dumps(event))
    assert code == 1 and json.loads(shown)["is_proven"] is False and json.loads(shown)["slash_key"] is None


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_proof_is_one_sentence_and_exit_code_2(case: str) -> None:
    text, word = UNREADABLE[case]
    if text == "METERING":
        text = json.dumps(fraud_builders.record(fraud_builders.quote(fraud_builders.offer())).to_json())
    code, shown, said = run("-", text=text)
    assert (code, shown) == (2, "") and word in said
    assert len(said.strip().splitlines()) == 1


def test_a_file_that_is_not_there_is_named() -> None:
    code, shown, said = run("absent.json")
    assert (code, shown) == (2, "") and "absent.json" in said and "No such file" in said
