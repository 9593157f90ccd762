"""The simulated network speaks as the real node that was recorded: field names, status words, codes, sentences.

Each situation that was recorded is brought about here and the two answers compared: the same keys with values of the
same JSON types, the same words where a value is a word, the same code, and the same message once ids and numbers are
taken out. What only a real node can say is listed in `ABSENT`.
"""

import re
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from relaymesh.lightning_sim.answers import RpcFailure
from relaymesh.lightning_sim.commands import encode_reply
from tests.adapters.replayed_node import recorded
from tests.lightning_sim.simulated import HandDriven, alice_and_bob

# What a simulated node leaves out: transactions, on-chain scripts and fees, onions, and peers it does not have.
ABSENT = {
    "listpeerchannels": {
        "scratch_txid", "last_tx_fee_msat", "feerate", "close_to_addr", "close_to", "alias", "funding",
        "min_to_us_msat", "max_to_us_msat",
    },
    "listpeerchannels htlc": {"local_trimmed"},
    "listsendpays": {"erroronion"},
    "invoice": {"warning_deadends"},
}  # fmt: skip

WORDS = {"status", "state", "type", "network", "layer", "current_status", "expected_status"}


def _invoice(network: HandDriven, **more: Any) -> dict[str, Any]:
    given = {"amount_msat": 100_000, "label": "rec-1", "description": "one job", "expiry": 3600, **more}
    return network.call("bob", "invoice", **given)


def _paid(network: HandDriven, method: str = "xpay", **more: Any) -> str:
    text: str = _invoice(network)["bolt11"]
    network.call("alice", method, **{"xpay": {"invstring": text}, "pay": {"bolt11": text}}[method], **more)
    return text


def _held(network: HandDriven) -> str:
    network.simulation.faults.hold_ms["bob"] = None
    text: str = _invoice(network)["bolt11"]
    network.ask("alice", "xpay", invstring=text)
    network.pass_time(1_000)
    return text


def _failed(network: HandDriven) -> str:
    text: str = _invoice(network)["bolt11"]
    network.call("bob", "delinvoice", label="rec-1", status="unpaid")
    network.fails("alice", "xpay", invstring=text)
    return text


def _expired(network: HandDriven) -> str:
    text: str = _invoice(network, expiry=1)["bolt11"]
    network.pass_time(3_000)
    return text


def _payee_down(network: HandDriven) -> str:
    text: str = _invoice(network)["bolt11"]
    network.simulation.take_down("bob")
    return text


def _first_peer_down(network: HandDriven) -> str:
    text: str = _invoice(network)["bolt11"]
    network.simulation.take_down("hub")
    return text


def _refused_by(network: HandDriven, failure: str) -> str:
    network.simulation.faults.refuse_next["bob"] = deque([failure])
    return str(_invoice(network)["bolt11"])


def _no_liquidity_beyond(network: HandDriven) -> str:
    network.call("hub", "xpay", invstring=_invoice(network, amount_msat=999_990_000, label="drain")["bolt11"])
    text: str = _invoice(network)["bolt11"]
    return text


def _remembered(network: HandDriven) -> str:
    text = _payee_down(network)
    network.fails("alice", "xpay", invstring=text)
    network.simulation.bring_up("bob", network.now_ms)
    return text


def _hash_of_paid(network: HandDriven) -> str:
    _paid(network)
    return str(network.call("bob", "listinvoices")["invoices"][0]["payment_hash"])


def _failed_then_paid(network: HandDriven) -> str:
    text = _refused_by(network, "temporary_node_failure")
    network.fails("alice", "xpay", invstring=text)
    network.call("alice", "xpay", invstring=text)
    return text


def _held_until_expired(network: HandDriven) -> str:
    network.simulation.faults.hold_ms["bob"] = 3_000
    return str(_invoice(network, expiry=1)["bolt11"])


Ask = Callable[[HandDriven], dict[str, Any]]

RESULTS: dict[str, Ask] = {
    "getinfo_alice": lambda n: n.call("alice", "getinfo"),
    "invoice": lambda n: _invoice(n, preimage="22" * 32),
    "invoice_any_amount": lambda n: _invoice(n, amount_msat="any"),
    "invoice_description_hash_only": lambda n: _invoice(n, description="x" * 700, deschashonly=True),
    "invoice_too_much_inbound": lambda n: _invoice(n, amount_msat=90_000_000_000),
    "listinvoices_unpaid": lambda n: (_invoice(n), n.call("bob", "listinvoices", label="rec-1"))[1],
    "listinvoices_paid": lambda n: (_paid(n), n.call("bob", "listinvoices", label="rec-1"))[1],
    "listinvoices_expired": lambda n: (_expired(n), n.call("bob", "listinvoices", label="rec-1"))[1],
    "listinvoices_none": lambda n: n.call("bob", "listinvoices", label="nobody"),
    "waitinvoice_already_paid": lambda n: (_paid(n), n.call("bob", "waitinvoice", label="rec-1"))[1],
    "waitanyinvoice": lambda n: (_paid(n), n.call("bob", "waitanyinvoice", lastpay_index=0))[1],
    "decode": lambda n: n.call("alice", "decode", string=_invoice(n)["bolt11"]),
    "xpay": lambda n: n.call("alice", "xpay", invstring=_invoice(n)["bolt11"]),
    "xpay_two_hops": lambda n: n.call("alice", "xpay", invstring=_invoice(n)["bolt11"]),
    "xpay_own_invoice": lambda n: n.call("bob", "xpay", invstring=_invoice(n)["bolt11"]),
    "pay": lambda n: n.call("alice", "pay", bolt11=_invoice(n)["bolt11"]),
    "pay_two_hops": lambda n: n.call("alice", "pay", bolt11=_invoice(n)["bolt11"]),
    "pay_again": lambda n: n.call("alice", "pay", bolt11=_paid(n)),
    "listpays_unknown": lambda n: n.call("alice", "listpays", bolt11=_invoice(n)["bolt11"]),
    "listpays_pending": lambda n: n.call("alice", "listpays", bolt11=_held(n)),
    "listpays_payer_restarted": lambda n: n.call("alice", "listpays", bolt11=_held(n)),
    "listpays_after_failed_then_paid": lambda n: n.call("alice", "listpays", bolt11=_failed_then_paid(n)),
    "listsendpays_after_failed_then_paid": lambda n: n.call("alice", "listsendpays", bolt11=_failed_then_paid(n)),
    "listpays_two_hops": lambda n: n.call("alice", "listpays", bolt11=_paid(n)),
    "listpays_complete_by_hash": lambda n: n.call("alice", "listpays", payment_hash=_hash_of_paid(n)),
    "listsendpays_complete": lambda n: n.call("alice", "listsendpays", payment_hash=_hash_of_paid(n)),
    "listpays_complete": lambda n: n.call("alice", "listpays", bolt11=_paid(n)),
    "listpays_with_label": lambda n: n.call("alice", "listpays", bolt11=_paid(n, "pay", label="job-7")),
    "listpays_failed_unknown_xpay": lambda n: n.call("alice", "listpays", bolt11=_failed(n)),
    "listpays_after_deadline": lambda n: _later(n, "alice", "listpays", bolt11=_failed(n)),
    "listsendpays_xpay": lambda n: n.call("alice", "listsendpays", bolt11=_paid(n)),
    "listsendpays_pending": lambda n: n.call("alice", "listsendpays", bolt11=_held(n)),
    "listsendpays_failed_xpay": lambda n: n.call("alice", "listsendpays", bolt11=_failed(n)),
    "listsendpays_after_insufficient": lambda n: n.call("alice", "listsendpays", bolt11=_invoice(n)["bolt11"]),
    "waitsendpay_after_payer_restart": lambda n: (
        _paid(n),
        n.call("alice", "waitsendpay", payment_hash=n.call("bob", "listinvoices")["invoices"][0]["payment_hash"]),
    )[1],
    "listfunds": lambda n: n.call("alice", "listfunds"),
    "listpeerchannels_with_htlc": lambda n: (_held(n), n.call("alice", "listpeerchannels"))[1],
    "listpeerchannels_payee_down": lambda n: (_held(n), _channels_while_the_peer_is_down(n))[1],
    "askrene_age": lambda n: n.call("alice", "askrene-age", layer="xpay", cutoff=n.now_ms),
}

FAILURES: dict[str, Callable[[HandDriven], RpcFailure]] = {
    "error_unknown_method": lambda n: n.fails("bob", "nosuchmethod"),
    "decodepay": lambda n: n.fails("alice", "decodepay", bolt11="x"),
    "decode_garbage": lambda n: n.fails("alice", "decode", string="lnbcrt1rubbish"),
    "error_invalid_json_params": lambda n: n.fails("alice", "getinfo", x=1),
    "invoice_error_bad_preimage": lambda n: _refused_invoice(n, preimage="abcd"),
    "invoice_error_label_exists": lambda n: (_invoice(n), _refused_invoice(n))[1],
    "invoice_error_preimage_exists": lambda n: (
        _invoice(n, preimage="22" * 32),
        _refused_invoice(n, label="rec-1b", preimage="22" * 32),
    )[1],
    "invoice_error_missing_parameter": lambda n: n.fails("bob", "invoice", amount_msat=1, description="x"),
    "invoice_error_unknown_parameter": lambda n: _refused_invoice(n, nonsense=1),
    "invoice_error_zero_amount": lambda n: _refused_invoice(n, amount_msat=0),
    "invoice_description_long": lambda n: _refused_invoice(n, description="x" * 700),
    "waitinvoice_error_expired": lambda n: (_expired(n), n.fails("bob", "waitinvoice", label="rec-1"))[1],
    "waitinvoice_error_expires_meanwhile": lambda n: (
        _invoice(n, expiry=2),
        n.fails("bob", "waitinvoice", label="rec-1"),
    )[1],
    "waitinvoice_error_unknown": lambda n: n.fails("bob", "waitinvoice", label="nobody"),
    "waitanyinvoice_timeout": lambda n: n.fails("bob", "waitanyinvoice", lastpay_index=10, timeout=1),
    "delinvoice_error_status": lambda n: (_paid(n), n.fails("bob", "delinvoice", label="rec-1", status="unpaid"))[1],
    "xpay_again": lambda n: n.fails("alice", "xpay", invstring=_paid(n)),
    "xpay_error_in_progress": lambda n: n.fails("alice", "xpay", invstring=_held(n)),
    "xpay_error_above_capacity": lambda n: _refused_payment(n, _invoice(n, amount_msat=20_000_000_000)["bolt11"]),
    "xpay_error_insufficient": lambda n: _refused_payment(n, _invoice(n, amount_msat=900_000_000)["bolt11"]),
    "xpay_error_no_remote_liquidity": lambda n: _refused_payment(n, _remembered(n)),
    "pay_error_remembered_constraint": lambda n: _refused_payment(n, _remembered(n)),
    "pay_error_no_remote_liquidity": lambda n: _refused_payment(n, _no_liquidity_beyond(n)),
    "pay_error_far_payee_down": lambda n: _refused_payment(n, _payee_down(n)),
    "xpay_error_payee_down": lambda n: _refused_payment(n, _first_peer_down(n)),
    "xpay_error_maxfee": lambda n: n.fails("alice", "xpay", invstring=_invoice(n)["bolt11"], maxfee=0),
    "xpay_error_expired": lambda n: _refused_payment(n, _expired(n)),
    "xpay_error_unknown_at_payee": lambda n: _refused_payment(
        n, _refused_by(n, "incorrect_or_unknown_payment_details")
    ),
    "xpay_held_then_failed": lambda n: _refused_payment(n, _refused_by(n, "temporary_node_failure")),
    "xpay_error_rubbish": lambda n: _refused_payment(n, "rubbish"),
    "xpay_error_bad_checksum": lambda n: _refused_payment(n, _invoice(n)["bolt11"] + "q"),
    "xpay_error_wrong_network": lambda n: _refused_payment(
        n, recorded()["xpay_error_wrong_network"]["request"]["params"]["invstring"]
    ),
    "xpay_error_any_amount_missing": lambda n: _refused_payment(n, _invoice(n, amount_msat="any")["bolt11"]),
    "xpay_error_amount_given_twice": lambda n: n.fails("alice", "xpay", invstring=_invoice(n)["bolt11"], amount_msat=5),
}


PAY_FAILURES: dict[str, Callable[[HandDriven], str]] = {
    "pay_error_above_capacity": lambda n: str(_invoice(n, amount_msat=20_000_000_000)["bolt11"]),
    "pay_error_insufficient": lambda n: str(_invoice(n, amount_msat=900_000_000)["bolt11"]),
    "pay_error_no_remote_liquidity": _no_liquidity_beyond,
    "pay_error_remembered_constraint": _remembered,
    "pay_error_far_payee_down": _payee_down,
    "pay_error_payee_down": _first_peer_down,
    "pay_error_channel_closing": _first_peer_down,
    "pay_error_expired": _expired,
    "pay_error_in_progress": _held,
    "pay_error_in_progress_after_restart": _held,
    "pay_error_unknown_at_payee": lambda n: _refused_by(n, "incorrect_or_unknown_payment_details"),
    "pay_held_then_refused": lambda n: _refused_by(n, "incorrect_or_unknown_payment_details"),
    "pay_held_then_failed": lambda n: _refused_by(n, "temporary_node_failure"),
    "pay_held_until_expired": _held_until_expired,
    "pay_error_any_amount_missing": lambda n: str(_invoice(n, amount_msat="any")["bolt11"]),
    "pay_error_rubbish": lambda n: "rubbish",
    "pay_error_bad_checksum": lambda n: _invoice(n)["bolt11"] + "q",
    "pay_error_wrong_network": lambda n: str(recorded()["pay_error_wrong_network"]["request"]["params"]["bolt11"]),
}
"""What `pay` was asked to pay; in this version it is answered by the xpay plugin."""


def _later(network: HandDriven, node: str, method: str, **parameters: Any) -> dict[str, Any]:
    network.pass_time(1_000)
    return network.call(node, method, **parameters)


def _channels_while_the_peer_is_down(network: HandDriven) -> dict[str, Any]:
    network.simulation.take_down("hub")
    return network.call("alice", "listpeerchannels")


def _refused_invoice(network: HandDriven, **more: Any) -> RpcFailure:
    given = {"amount_msat": 100_000, "label": "rec-1", "description": "x", **more}
    return network.fails("bob", "invoice", **given)


def _refused_payment(network: HandDriven, text: str) -> RpcFailure:
    return network.fails("alice", "xpay", invstring=text)


def _shape(message: str) -> str:
    """A message without what differs from network to network."""
    message = re.sub(r"\d+x\d+x\d+", "CHANNEL", message)
    message = re.sub(r"the invoice's route hint \((CHANNEL/\d)\)", r"\1", message)
    message = re.sub(r"\bCHANNEL/[01]", "CHANNEL/DIRECTION", message)
    message = re.sub(r"CHANNEL(->CHANNEL)*,", "PATH,", message)
    return re.sub(r"\d+", "NUMBER", message)


def _compare(name: str, real: Any, ours: Any) -> None:
    """The same keys, the same JSON types, the same words, all the way down."""
    if isinstance(real, dict):
        absent = ABSENT.get(name, set())
        assert set(ours) == set(real) - absent, name
        for key in ours:
            if key in WORDS:
                assert ours[key] == real[key] or isinstance(real[key], list), f"{name}: {key}"
            _compare("listpeerchannels htlc" if key == "htlcs" else name, real[key], ours[key])
    elif isinstance(real, list) and real and ours:
        for real_row, our_row in zip(real, ours, strict=False):
            _compare(name, real_row, our_row)
    elif isinstance(real, list):
        assert isinstance(ours, list)
    else:
        assert type(ours) is type(real), f"{name}: {ours!r} where a real node says {real!r}"


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_has_the_fields_and_words_of_a_real_node(name: str) -> None:
    exchange = recorded()[name]
    _compare(exchange["request"]["method"], exchange["response"]["result"], RESULTS[name](alice_and_bob()))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_the_code_and_sentence_of_a_real_node(name: str) -> None:
    real = recorded()[name]["response"]["error"]
    ours = FAILURES[name](alice_and_bob()).to_json()
    assert ours["code"] == real["code"]
    assert _shape(ours["message"]) == _shape(real["message"])
    _compare(name, real.get("data", {}), ours.get("data", {}))


@pytest.mark.parametrize("name", PAY_FAILURES)
def test_the_older_pay_fails_as_on_a_real_node(name: str) -> None:
    network, real = alice_and_bob(), recorded()[name]["response"]["error"]
    ours = network.fails("alice", "pay", bolt11=PAY_FAILURES[name](network)).to_json()
    assert ours["code"] == real["code"]
    assert _shape(ours["message"]) == _shape(real["message"])


def test_a_reply_is_framed_as_a_real_nodes() -> None:
    assert (
        encode_reply("rec:getinfo#4", {"x": 1}) == b'{"jsonrpc": "2.0", "id": "rec:getinfo#4", "result": {"x": 1}}\n\n'
    )
    assert (
        encode_reply(7, RpcFailure(-1, "no"))
        == b'{"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": "no"}}\n\n'
    )
