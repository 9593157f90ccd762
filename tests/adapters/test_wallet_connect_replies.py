"""A wallet's answers, read: nothing is paid without its preimage, and what is misshapen is said to be."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.adapters.wallet_connect_replies import (
    read_invoice_state,
    read_network,
    read_payment,
    read_payment_hash,
    read_preimage,
    read_public_key,
    read_text,
)
from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    InvoiceState,
    InvoiceStatus,
    PaymentAbsent,
    PaymentFailed,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.units import AmountMsat, Timestamp

NOW = Timestamp(1_750_000_000)
PREIMAGE = b"\x07" * 32
HASH = hashlib.sha256(PREIMAGE).hexdigest()
OPEN, EXPIRED = (InvoiceState(status, AmountMsat(0)) for status in (InvoiceStatus.OPEN, InvoiceStatus.EXPIRED))
PAID = InvoiceState(InvoiceStatus.PAID, AmountMsat(5))
ANYTHING = st.none() | st.integers() | st.text(max_size=70) | st.booleans()


@pytest.mark.parametrize(
    ("transaction", "state"),
    [
        ({"state": "pending"}, OPEN),
        ({"state": "pending", "expires_at": NOW + 1}, OPEN),
        ({"state": "pending", "expires_at": NOW}, EXPIRED),
        ({"state": "accepted", "expires_at": NOW}, OPEN),
        ({"state": "settled", "amount": 5}, PAID),
        ({"settled_at": NOW, "amount": 5}, PAID),
        ({"state": "expired"}, EXPIRED),
        ({"state": "failed"}, EXPIRED),
        ({"expires_at": NOW}, EXPIRED),
        ({"expires_at": None, "settled_at": None}, OPEN),
        ({"expires_at": 0}, OPEN),
    ],
)
def test_an_invoice_stands_where_state_and_times_say(transaction: dict[str, Any], state: InvoiceState) -> None:
    assert read_invoice_state(transaction, NOW) == state


def test_a_settled_invoice_without_an_amount_is_an_error() -> None:
    with pytest.raises(LightningError, match="amount"):
        read_invoice_state({"state": "settled"}, NOW)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["incoming", "outgoing"]) | ANYTHING,
            "state": st.sampled_from(["pending", "settled", "failed"]) | ANYTHING,
            "preimage": st.sampled_from([PREIMAGE.hex(), PREIMAGE.hex().upper(), "ab" * 32]) | ANYTHING,
            "amount": st.just(5) | ANYTHING,
            "fees_paid": st.just(1) | ANYTHING,
            "settled_at": ANYTHING,
        },
    )
)
def test_only_the_right_preimage_makes_a_payment_and_only_the_word_failed_unmakes_it(given: dict[str, Any]) -> None:
    try:
        found = read_payment(given, HASH)
    except LightningError:
        assert given.get("amount") != 5 or given.get("fees_paid") not in (None, 1)
        return
    has_preimage = str(given.get("preimage")).lower() == PREIMAGE.hex()
    if given.get("type") == "incoming":
        assert found == PaymentAbsent()
    elif has_preimage:
        assert found == PaymentSucceeded(PREIMAGE, AmountMsat(given["amount"]), AmountMsat(given.get("fees_paid") or 0))
    elif given.get("state") == "failed":
        assert isinstance(found, PaymentFailed)
    else:
        assert isinstance(found, PaymentUnknown)


@pytest.mark.parametrize("value", [None, 1, "", "ab", "zz" * 32, "ab" * 32])
def test_what_does_not_hash_to_the_payment_hash_is_no_preimage(value: object) -> None:
    assert read_preimage({"preimage": value}, HASH) is None


def test_what_is_missing_is_named() -> None:
    with pytest.raises(LightningError, match="'invoice'"):
        read_text({"invoice": ""}, "invoice")
    with pytest.raises(LightningError, match="payment hash"):
        read_payment_hash({"payment_hash": "ab"})
    with pytest.raises(LightningError, match="which Lightning node"):
        read_public_key({"pubkey": ""})


def test_networks_are_called_as_core_lightning_calls_them() -> None:
    assert [read_network({"network": name}) for name in ("mainnet", "regtest")] == ["bitcoin", "regtest"]
    assert read_public_key({"pubkey": "02" + "AB" * 32}) == "02" + "ab" * 32
    assert read_payment_hash({"payment_hash": HASH.upper()}) == HASH
