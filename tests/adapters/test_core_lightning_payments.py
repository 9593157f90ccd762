"""Paying through the Core Lightning adapter, against what a real node answered in every situation that was recorded."""

import contextlib
import hashlib
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaymesh.adapters.core_lightning import CoreLightningWallet
from relaymesh.adapters.invoices import decode_invoice
from relaymesh.errors import RemoteProtocolError
from relaymesh.ports.lightning import (
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentOutcome,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.units import AmountMsat
from tests.adapters.replayed_node import CLOSE, HANG, UNKNOWN_METHOD, recorded, replay, response_of

pytestmark = pytest.mark.anyio

NOTHING: dict[str, Any] = {"result": {"pays": []}}


def _order(name: str, deadline_ms: int = 20_000) -> PaymentRequest:
    """To pay the invoice of this recorded exchange."""
    given = recorded()[name]["request"]["params"]
    text = given.get("invstring") or given["bolt11"]
    return PaymentRequest(text, decode_invoice(text).payment_hash, AmountMsat(5_000), deadline_ms)


def _row(order: PaymentRequest, status: str, **more: object) -> dict[str, Any]:
    """A row of `listpays` about this payment."""
    return {"payment_hash": order.payment_hash, "status": status, "amount_sent_msat": 0, **more}


def _list(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"result": {"pays": list(rows)}}


async def _pay(directory: Path, order: PaymentRequest, **scripts: list[dict[str, Any]]) -> PaymentOutcome:
    async with replay(directory, **scripts) as node:
        with anyio.fail_after(order.deadline_ms / 1000 + 5):
            return await CoreLightningWallet(node.rpc_path).pay(order)


SUCCESSES = {"xpay": 0, "xpay_two_hops": 2, "xpay_held_beyond_retry_for": 0}


@pytest.mark.parametrize(("name", "fee_msat"), SUCCESSES.items())
async def test_a_paid_invoice_gives_preimage_amount_and_fee(tmp_path: Path, name: str, fee_msat: int) -> None:
    order = _order(name)
    async with replay(tmp_path, xpay=[response_of(name)]) as node:
        outcome = await CoreLightningWallet(node.rpc_path).pay(order)
    assert isinstance(outcome, PaymentSucceeded)
    assert (outcome.amount_msat, outcome.fee_msat) == (100_000, fee_msat)
    assert hashlib.sha256(outcome.preimage).hexdigest() == order.payment_hash
    assert node.calls("xpay") == [{"invstring": order.bolt11, "maxfee": 5_000, "retry_for": 20}]


FAILURES = [
    ("xpay_error_above_capacity", 205, []),
    ("xpay_error_insufficient", 205, ["failed"]),
    ("xpay_error_payee_down", 205, []),
    ("xpay_error_maxfee", 206, []),
    ("xpay_error_expired", 207, []),
    ("xpay_error_unknown_at_payee", 203, ["pending", "failed"]),
    ("xpay_held_then_failed", 209, ["pending", "pending", "failed"]),
]


@pytest.mark.parametrize(("name", "code", "statuses"), FAILURES, ids=[name for name, _, _ in FAILURES])
async def test_a_failure_counts_once_the_node_lists_nothing_on_its_way(
    tmp_path: Path, name: str, code: int, statuses: list[str]
) -> None:
    order = _order(name)
    listed = [_list(_row(order, status)) for status in statuses] or [NOTHING]
    async with replay(tmp_path, xpay=[response_of(name)], listpays=listed) as node:
        outcome = await CoreLightningWallet(node.rpc_path).pay(order)
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == code
    assert outcome.reason == response_of(name)["error"]["message"]
    assert len(node.calls("listpays")) == len(listed) + 1, "two looks have to agree"
    assert len(node.calls("xpay")) == 1


async def test_the_first_look_after_an_error_may_be_wrong(tmp_path: Path) -> None:
    order = _order("xpay_error_payee_down")
    complete = response_of("xpay")["result"]["payment_preimage"]
    order = replace(
        order, payment_hash=hashlib.sha256(bytes.fromhex(complete)).hexdigest(), bolt11=_order("xpay").bolt11
    )
    listed = [_list(_row(order, "failed")), _list(_row(order, "failed"), _row(order, "complete", preimage=complete))]
    outcome = await _pay(tmp_path, order, xpay=[response_of("xpay_error_payee_down")], listpays=listed)
    assert isinstance(outcome, PaymentSucceeded)


async def test_a_second_payment_finds_the_first(tmp_path: Path) -> None:
    order = _order("xpay_again")
    outcome = await _pay(
        tmp_path, order, xpay=[response_of("xpay_again")], listpays=[response_of("listpays_complete_by_hash")]
    )
    assert isinstance(outcome, PaymentSucceeded)
    assert hashlib.sha256(outcome.preimage).hexdigest() == order.payment_hash


async def test_already_paid_without_a_preimage_stays_unknown(tmp_path: Path) -> None:
    order = _order("xpay_again", deadline_ms=50)
    rows = _list(_row(order, "failed"))
    assert isinstance(await _pay(tmp_path, order, xpay=[response_of("xpay_again")], listpays=[rows]), PaymentUnknown)


async def test_a_payment_in_progress_is_followed_to_its_end(tmp_path: Path) -> None:
    order = _order("xpay_error_in_progress")
    pending = response_of("listpays_pending")
    preimage = response_of("pay_held_then_settled")["result"]["payment_preimage"]
    complete = _list(_row(order, "complete", preimage=preimage, amount_msat=100_000) | {"amount_sent_msat": 100_000})
    outcome = await _pay(
        tmp_path, order, xpay=[response_of("xpay_error_in_progress")], listpays=[NOTHING, pending, pending, complete]
    )
    assert outcome == PaymentSucceeded(bytes.fromhex(preimage), AmountMsat(100_000), AmountMsat(0))


@pytest.mark.parametrize("listed", ["listpays_pending", "listpays_unknown"])
async def test_a_payment_in_progress_that_does_not_end_is_unknown(tmp_path: Path, listed: str) -> None:
    order = _order("xpay_error_in_progress", deadline_ms=300)
    outcome = await _pay(tmp_path, order, xpay=[response_of("xpay_error_in_progress")], listpays=[response_of(listed)])
    assert isinstance(outcome, PaymentUnknown)


async def test_a_payment_in_progress_may_fail(tmp_path: Path) -> None:
    order = _order("xpay_error_in_progress")
    listed = [response_of("listpays_pending"), _list(_row(order, "failed"))]
    outcome = await _pay(tmp_path, order, xpay=[response_of("xpay_error_in_progress")], listpays=listed)
    assert isinstance(outcome, PaymentFailed)


async def test_a_remembered_failure_is_forgotten_once_and_the_payment_tried_again(tmp_path: Path) -> None:
    order = _order("xpay")
    scripts = {
        "xpay": [response_of("pay_error_remembered_constraint"), response_of("xpay")],
        "listpays": [NOTHING],
        "askrene_age": [response_of("askrene_age")],
    }
    async with replay(tmp_path, **scripts) as node:
        assert isinstance(await CoreLightningWallet(node.rpc_path).pay(order), PaymentSucceeded)
    (age,) = node.calls("askrene-age")
    assert age["layer"] == "xpay"
    assert age["cutoff"] > recorded()["askrene_age"]["request"]["params"]["cutoff"]


async def test_a_failure_that_comes_back_after_forgetting_is_a_failure(tmp_path: Path) -> None:
    order = _order("xpay_error_no_remote_liquidity")
    scripts = {
        "xpay": [response_of("xpay_error_no_remote_liquidity"), response_of("pay_error_no_remote_liquidity")],
        "listpays": [NOTHING],
        "askrene_age": [response_of("askrene_age")],
    }
    async with replay(tmp_path, **scripts) as node:
        outcome = await CoreLightningWallet(node.rpc_path).pay(order)
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == 209
    assert len(node.calls("xpay")) == 2


async def test_a_node_that_cannot_forget_has_the_last_word(tmp_path: Path) -> None:
    order = _order("xpay_error_no_remote_liquidity")
    refused = [response_of("xpay_error_no_remote_liquidity")]
    outcome = await _pay(tmp_path, order, xpay=refused, listpays=[NOTHING])
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == 205


LEGACY = {
    "legacy_pay_error_insufficient": 210,
    "legacy_pay_error_maxfee": 210,
    "legacy_pay_error_far_payee_down": 210,
    "legacy_pay_error_payee_down": 0,
    "legacy_pay_error_expired": 207,
    "legacy_pay_error_unknown_at_payee": 203,
    "legacy_pay_held_then_failed": 203,
}


@pytest.mark.parametrize(("name", "code"), LEGACY.items())
async def test_a_node_without_xpay_is_asked_to_pay(tmp_path: Path, name: str, code: int) -> None:
    order = _order(name)
    async with replay(tmp_path, xpay=[UNKNOWN_METHOD], pay=[response_of(name)], listpays=[NOTHING]) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        for _ in range(2):
            outcome = await wallet.pay(order)
            assert isinstance(outcome, PaymentFailed)
            assert outcome.code == code
    assert node.calls("pay") == 2 * [{"bolt11": order.bolt11, "maxfee": 5_000, "retry_for": 20}]
    assert len(node.calls("xpay")) == 1, "what is unknown once is not asked again"


@pytest.mark.parametrize(
    "name", ["legacy_pay", "legacy_pay_two_hops", "legacy_pay_held_beyond_retry_for", "pay_two_hops"]
)
async def test_a_node_without_xpay_pays(tmp_path: Path, name: str) -> None:
    order, result = _order(name), response_of(name)["result"]
    outcome = await _pay(tmp_path, order, xpay=[UNKNOWN_METHOD], pay=[response_of(name)])
    assert outcome == PaymentSucceeded(
        bytes.fromhex(result["payment_preimage"]),
        result["amount_msat"],
        AmountMsat(result["amount_sent_msat"] - result["amount_msat"]),
    )


async def test_a_node_killed_in_mid_payment_leaves_it_unknown_until_it_says(tmp_path: Path) -> None:
    order = _order("pay_payer_killed_while_held")
    listed = [CLOSE, response_of("listpays_payer_restarted"), response_of("listpays_payer_restarted_settled")]
    async with replay(tmp_path, xpay=[CLOSE], listpays=listed) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        assert isinstance(await wallet.pay(order), PaymentUnknown)
        assert isinstance(await wallet.lookup_payment(order.payment_hash), PaymentUnknown)
        assert isinstance(await wallet.lookup_payment(order.payment_hash), PaymentSucceeded)


async def test_what_was_never_answered_is_not_absent_at_once(tmp_path: Path) -> None:
    order = _order("xpay")
    async with replay(tmp_path, xpay=[CLOSE], listpays=[NOTHING]) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        assert isinstance(await wallet.pay(order), PaymentUnknown)
        assert isinstance(await wallet.lookup_payment(order.payment_hash), PaymentUnknown)
        assert await CoreLightningWallet(node.rpc_path).lookup_payment(order.payment_hash) == PaymentAbsent()


async def test_the_deadline_is_ours_and_hangs_up(tmp_path: Path) -> None:
    order = _order("xpay", deadline_ms=300)
    async with replay(tmp_path, xpay=[HANG], listpays=[_list(_row(order, "pending"))]) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        with anyio.fail_after(3):
            assert isinstance(await wallet.pay(order), PaymentUnknown)
            await node.hung_up.wait()


async def test_the_last_look_at_the_deadline_may_still_find_it_paid(tmp_path: Path) -> None:
    order = _order("xpay", deadline_ms=300)
    assert isinstance(
        await _pay(tmp_path, order, xpay=[HANG], listpays=[response_of("listpays_xpay")]), PaymentSucceeded
    )


async def test_a_preimage_that_does_not_fit_is_no_payment(tmp_path: Path) -> None:
    order = _order("xpay")
    assert isinstance(await _pay(tmp_path, order, xpay=[response_of("xpay_two_hops")]), PaymentUnknown)
    listed = _list(_row(order, "complete", preimage="00" * 32))
    async with replay(tmp_path, listpays=[listed]) as node:
        assert isinstance(await CoreLightningWallet(node.rpc_path).lookup_payment(order.payment_hash), PaymentUnknown)


async def test_a_wallet_out_of_reach_fails_before_anything_was_sent(tmp_path: Path) -> None:
    order = _order("xpay")
    outcome = await CoreLightningWallet(tmp_path / "nothing").pay(order)
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == -1


async def test_a_node_that_takes_no_more_connections_never_got_the_payment(tmp_path: Path) -> None:
    path = tmp_path / "lightning-rpc"
    with contextlib.ExitStack() as sockets:
        stuck = sockets.enter_context(socket.socket(socket.AF_UNIX))
        stuck.bind(str(path))
        stuck.listen(0)
        for _ in range(2):
            waiting = sockets.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(path))
        with anyio.fail_after(3):
            outcome = await CoreLightningWallet(path).pay(_order("xpay", deadline_ms=200))
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == -1


async def test_a_wallet_out_of_reach_does_not_fail_what_was_sent_before(tmp_path: Path) -> None:
    order = _order("xpay")
    async with replay(tmp_path, xpay=[CLOSE], listpays=[NOTHING]) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        assert isinstance(await wallet.pay(order), PaymentUnknown)
    assert isinstance(await wallet.pay(order), PaymentUnknown)


@pytest.mark.parametrize("name", ["xpay_error_rubbish", "xpay_error_bad_checksum"])
async def test_a_broken_invoice_never_reaches_the_node(tmp_path: Path, name: str) -> None:
    text = recorded()[name]["request"]["params"]["invstring"]
    with pytest.raises(RemoteProtocolError):
        decode_invoice(text)
    async with replay(tmp_path) as node:
        outcome = await CoreLightningWallet(node.rpc_path).pay(replace(_order("xpay"), bolt11=text))
    assert isinstance(outcome, PaymentFailed)
    assert not node.requests


async def test_another_networks_invoice_is_refused_by_the_node(tmp_path: Path) -> None:
    order = _order("xpay_error_wrong_network")
    outcome = await _pay(tmp_path, order, xpay=[response_of("xpay_error_wrong_network")], listpays=[NOTHING])
    assert isinstance(outcome, PaymentFailed)
    assert outcome.code == -32602


async def test_our_own_invoice_is_never_paid(tmp_path: Path) -> None:
    async with replay(tmp_path, xpay=[response_of("xpay_own_invoice")]) as node:
        outcome = await CoreLightningWallet(node.rpc_path).pay(_order("xpay_own_invoice"))
    assert isinstance(outcome, PaymentFailed)
    assert not node.calls("xpay")


LOOKUPS: dict[str, type[PaymentLookup]] = {
    "listpays_unknown": PaymentAbsent,
    "listpays_after_insufficient": PaymentAbsent,
    "listpays_expired": PaymentAbsent,
    "listpays_pending": PaymentUnknown,
    "listpays_failed_unknown": PaymentUnknown,
    "listpays_payer_restarted": PaymentUnknown,
    "listpays_xpay_beyond_retry_for_pending": PaymentUnknown,
    "listpays_far_payee_down": PaymentFailed,
    "listpays_after_deadline": PaymentFailed,
    "listpays_complete": PaymentSucceeded,
    "listpays_split": PaymentSucceeded,
    "listpays_after_failed_then_paid": PaymentSucceeded,
}


@pytest.mark.parametrize(("name", "expected"), LOOKUPS.items())
async def test_the_rows_of_one_hash_add_up(tmp_path: Path, name: str, expected: type[PaymentLookup]) -> None:
    order = _order(name)
    async with replay(tmp_path, listpays=[response_of(name)]) as node:
        found = await CoreLightningWallet(node.rpc_path).lookup_payment(order.payment_hash)
    assert isinstance(found, expected)
    assert node.calls("listpays")[0] == {"payment_hash": order.payment_hash}, "never without a filter"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["failed", "pending"], PaymentUnknown),
        (["pending", "failed"], PaymentUnknown),
        (["failed", "failed"], PaymentFailed),
        (["failed", "something new"], PaymentUnknown),
    ],
)
async def test_any_doubt_in_the_rows_is_unknown(
    tmp_path: Path, statuses: list[str], expected: type[PaymentLookup]
) -> None:
    order = _order("xpay")
    async with replay(tmp_path, listpays=[_list(*(_row(order, status) for status in statuses))]) as node:
        assert isinstance(await CoreLightningWallet(node.rpc_path).lookup_payment(order.payment_hash), expected)


NONSENSE = [
    {"result": {"pays": {}}},
    {"result": {"pays": [None]}},
    _list({"payment_hash": "", "status": []}),
    _list({"payment_hash": "", "status": None}),
    _list({"payment_hash": "", "status": "complete", "preimage": 7}),
    {"text": '{"result": {"pays": [\n\n'},
    {"text": "[1]\n\n"},
]


@pytest.mark.parametrize("reply", NONSENSE, ids=str)
async def test_a_list_that_makes_no_sense_is_unknown_and_raises_nothing(tmp_path: Path, reply: dict[str, Any]) -> None:
    order = _order("xpay_error_payee_down", deadline_ms=50)
    for row in reply["result"]["pays"] if "result" in reply else ():
        if row is not None:
            row["payment_hash"] = order.payment_hash
    async with replay(tmp_path, xpay=[response_of("xpay_error_payee_down")], listpays=[reply]) as node:
        wallet = CoreLightningWallet(node.rpc_path)
        assert isinstance(await wallet.lookup_payment(order.payment_hash), PaymentUnknown)
        assert isinstance(await wallet.pay(order), PaymentUnknown)


@pytest.mark.parametrize("amount", [None, "some", -1, 100_000.5, float("inf"), float("nan"), 2**53])
async def test_an_answer_whose_amounts_make_no_sense_is_unknown_and_raises_nothing(
    tmp_path: Path, amount: object
) -> None:
    order = _order("xpay", deadline_ms=50)
    reply = {"result": {**response_of("xpay")["result"], "amount_sent_msat": amount}}
    assert isinstance(await _pay(tmp_path, order, xpay=[reply], listpays=[NOTHING]), PaymentUnknown)


async def test_two_looks_that_differ_are_unknown(tmp_path: Path) -> None:
    order = _order("xpay")
    async with replay(tmp_path, listpays=[NOTHING, _list(_row(order, "failed"))]) as node:
        assert isinstance(await CoreLightningWallet(node.rpc_path).lookup_payment(order.payment_hash), PaymentUnknown)
