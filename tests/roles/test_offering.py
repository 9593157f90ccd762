"""What a node offers, made from the runner's models and the operator's settings."""

import pytest

from relaymesh.errors import UsageError
from relaymesh.ports.runners import RunnerModel
from relaymesh.roles.offering import price_rows, settlement_terms
from relaymesh.settings import Node

CHAT = RunnerModel("llama", ("chat", "completion"), context_limit=8_192, quantization="q4_k_m", engine="llama.cpp")
BOTH = RunnerModel("tiny", ("chat", "embedding"), weights_sha256="ab" * 32)


def test_each_model_has_a_row_for_text_and_one_for_vectors() -> None:
    rows = price_rows((CHAT, BOTH), Node(output_msat=500))
    assert [(row.model, row.job_types, row.output_msat) for row in rows] == [
        ("llama", ("chat", "completion"), 500),
        ("tiny", ("chat",), 500),
        ("tiny", ("embedding",), 0),
    ]
    assert rows[0].context_limit == 8_192 and rows[0].identity.quantization == "q4_k_m"
    assert rows[1].identity.weights_sha256 == "ab" * 32
    assert rows[2].output_limit == 0 and "stream" not in rows[2].capabilities


def test_only_the_models_that_were_named_are_sold() -> None:
    rows = price_rows((CHAT, BOTH), Node(models=("llama",)))
    assert {row.model for row in rows} == {"llama"}


@pytest.mark.parametrize("models", [("absent",), ("llama", "absent")])
def test_a_named_model_that_is_not_there_is_said(models: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="absent"):
        price_rows((CHAT,), Node(models=models))


def test_a_runner_without_models_is_said() -> None:
    with pytest.raises(UsageError, match="none"):
        price_rows((), Node())


def test_more_than_a_label_holds_asks_for_a_choice() -> None:
    many = tuple(RunnerModel(f"model-{number}", ("chat",)) for number in range(9))
    with pytest.raises(UsageError, match=r"node\.models"):
        price_rows(many, Node())


def test_the_whole_job_is_one_tranche_where_the_operator_wants_that() -> None:
    assert settlement_terms(Node(tranche_units=0))[0].tranche_units is None
    assert settlement_terms(Node(tranche_units=64))[0].tranche_units == 64
