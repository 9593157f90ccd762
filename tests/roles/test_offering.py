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


def test_what_the_operator_says_that_the_server_can_do_stands_where_text_is_made() -> None:
    rows = price_rows((BOTH,), Node(capabilities=("tools", "json", "tools")))
    assert [row.capabilities for row in rows] == [("stream", "tools", "json"), ()]


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


def test_each_form_of_settlement_that_the_operator_names_is_a_term_in_that_order() -> None:
    offered = Node(
        settlement=("session", "sealed", "postpay", "prepay", "sealed"),
        tranche_units=64,
        sealed_tranche_units=128,
        session_tranche_msat=9_000,
    )
    assert [(term.form, term.tranche_units) for term in settlement_terms(offered)] == [
        ("session", 9_000),
        ("sealed", 128),
        ("postpay", 64),
        ("prepay", 64),
    ]


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (Node(settlement=()), "at least"),
        (Node(settlement=("session",), session_tranche_msat=0), "session_tranche_msat must be at least 1"),
        (Node(tranche_units=10**9 + 1), "tranche_units must be at most 1000000000"),
    ],
)
def test_terms_that_cannot_be_are_refused_with_the_setting_they_come_from(offered: Node, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settlement_terms(offered)
