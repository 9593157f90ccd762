"""Invoices: BOLT 11's own examples, what a real node issued, and any text a peer may send."""

import json
from dataclasses import replace
from typing import Any

import bolt11
import pytest
from bech32 import CHARSET, bech32_decode, bech32_encode
from bolt11.models.signature import Signature
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.adapters import invoices
from relaymesh.adapters.invoices import (
    MAXIMUM_INVOICE_BYTES,
    InvoiceDraft,
    decode_invoice,
    decode_invoice_on_loop,
    encode_invoice,
    find_node_id,
    read_invoice,
)
from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.units import AmountMsat, Timestamp
from tests.adapters.replayed_node import VECTORS, recorded

EXAMPLES = json.loads((VECTORS / "bolt11.json").read_text(encoding="utf-8"))
SECRET = bytes.fromhex(EXAMPLES["private_key"])
DRAFT = InvoiceDraft("bcrt", AmountMsat(100_000), "aa" * 32, "bb" * 32, Timestamp(1_800_000_000), 60, "one job")


def _titles(kind: str) -> list[Any]:
    return [pytest.param(example["invoice"], id=example["title"][:60]) for example in EXAMPLES[kind]]


def _agrees(text: str) -> None:
    """Our reading and the library's are the same where both have an opinion."""
    ours, library = read_invoice(text), bolt11.decode(text)
    assert ours.payment_hash == library.payment_hash
    assert int(ours.amount_msat or 0) == int(library.amount_msat or 0)
    assert ours.payee == library.payee
    assert (ours.created_at, ours.expiry_seconds) == (library.date, library.expiry)
    assert ours.network == library.currency
    assert (ours.description, ours.description_hash) == (library.description, library.description_hash)


@pytest.mark.parametrize("text", _titles("valid"))
def test_every_valid_example_is_read(text: str) -> None:
    _agrees(text)
    assert read_invoice(text).bolt11 == text.lower()


@pytest.mark.parametrize("text", _titles("invalid"))
def test_every_invalid_example_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_invoice(text)


def test_what_a_real_node_issued_is_read_as_that_node_reads_it() -> None:
    exchange = recorded()["decode"]
    theirs = exchange["response"]["result"]
    ours = read_invoice(exchange["request"]["params"]["string"])
    assert ours.amount_msat == theirs["amount_msat"]
    assert ours.payee == theirs["payee"]
    assert ours.payment_secret == theirs["payment_secret"]
    assert ours.features == int(theirs["features"], 16)
    assert ours.expiry_seconds == theirs["expiry"]
    assert ours.minimum_final_cltv_expiry == theirs["min_final_cltv_expiry"]
    assert decode_invoice(ours.bolt11).expires_at == theirs["created_at"] + theirs["expiry"]


def test_an_invoice_that_leaves_the_amount_open_is_read_and_refused_for_payment() -> None:
    text = recorded()["invoice_any_amount"]["response"]["result"]["bolt11"]
    assert read_invoice(text).amount_msat is None
    with pytest.raises(RemoteProtocolError, match="must name its amount"):
        decode_invoice(text)


@given(
    amount_msat=st.none() | st.integers(1, 2**53 - 1),
    network=st.sampled_from(["bc", "tb", "tbs", "bcrt"]),
    created_at=st.integers(0, 2**35 - 1),
    expiry=st.integers(1, 2**32),
    description=st.text(max_size=100),
    cltv=st.integers(1, 1000),
)
@settings(max_examples=40)
def test_what_is_written_is_read(
    amount_msat: int | None, network: str, created_at: int, expiry: int, description: str, cltv: int
) -> None:
    amount = None if amount_msat is None else AmountMsat(amount_msat)
    draft = InvoiceDraft(network, amount, "0a" * 32, "b0" * 32, Timestamp(created_at), expiry, description, None, cltv)
    text = encode_invoice(draft, SECRET)
    fields = read_invoice(text)
    read = InvoiceDraft(**{name: getattr(fields, name) for name in InvoiceDraft.__slots__})
    assert read == draft
    assert fields.payee == find_node_id(SECRET)
    _agrees(text)


def test_a_description_may_be_given_as_its_hash() -> None:
    fields = read_invoice(encode_invoice(replace(DRAFT, description=None, description_hash="cc" * 32), SECRET))
    assert (fields.description, fields.description_hash) == (None, "cc" * 32)


@pytest.mark.parametrize(
    "draft",
    [replace(DRAFT, amount_msat=AmountMsat(0)), replace(DRAFT, description="é" * 320)],
    ids=["amount", "length"],
)
def test_a_draft_that_cannot_be_an_invoice_is_a_bug_here(draft: InvoiceDraft) -> None:
    with pytest.raises(LocalProtocolError):
        encode_invoice(draft, SECRET)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("lnbcrt1m", 100_000_000), ("lnbcrt1u", 100_000), ("lnbcrt1n", 100), ("lnbcrt10p", 1), ("lnbcrt1", 10**11),
        ("lnbcrt11p", None), ("lnbcrt01u", None), ("lnbcrt0u", None), ("lnbcrt1x", None), ("lnbcrt99999999", None),
        ("lnbcrt1U", None), ("lnltc1u", None), ("lnbcrt1 u", None), ("lnbcrt٣u", None), ("lnbcrt-1u", None),
    ],
)  # fmt: skip
def test_only_whole_millisatoshis_in_the_spelling_of_bolt_11_are_amounts(prefix: str, expected: int | None) -> None:
    text = _resign(prefix)
    if expected is None:
        with pytest.raises(RemoteProtocolError):
            decode_invoice(text)
    else:
        assert decode_invoice(text).amount_msat == expected


def _resign(prefix: str) -> str:
    """An invoice with this human-readable part and a signature that fits it."""
    _, data = bech32_decode(encode_invoice(DRAFT, SECRET))
    assert data is not None
    bits = "".join(f"{symbol:05b}" for symbol in data[:-104])
    signed = int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8)
    signature = Signature.from_private_key("".join(c if ord(c) < 256 else "?" for c in prefix), SECRET.hex(), signed)
    tail = f"{int.from_bytes(signature.signature_data):0520b}"
    symbols = data[:-104] + [int(tail[start : start + 5], 2) for start in range(0, 520, 5)]
    return str(bech32_encode(prefix, symbols))


def test_a_text_that_is_too_long_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoices, "take_apart", lambda _text: pytest.fail("it was read"))
    with pytest.raises(RemoteProtocolError, match="at most 2048 bytes"):
        decode_invoice("lnbc1" + "q" * MAXIMUM_INVOICE_BYTES)


def test_an_invoice_is_read_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = encode_invoice(replace(DRAFT, description="kept"), SECRET)
    first = decode_invoice(text)
    monkeypatch.setattr(invoices, "take_apart", lambda _text: pytest.fail("it was read again"))
    assert decode_invoice(text) == first
    assert decode_invoice(text.upper()) == first


@pytest.mark.anyio
async def test_an_invoice_can_be_read_by_whoever_awaits_it() -> None:
    text = encode_invoice(replace(DRAFT, description="elsewhere"), SECRET)
    assert await decode_invoice_on_loop(text) == decode_invoice(text)
    for broken in ("rubbish", "x" * 5_000):
        with pytest.raises(RemoteProtocolError):
            await decode_invoice_on_loop(broken)


@settings(max_examples=60)
@given(st.data())
def test_a_changed_symbol_never_goes_unnoticed(data: st.DataObject) -> None:
    text = encode_invoice(DRAFT, SECRET)
    position = data.draw(st.integers(0, len(text) - 1))
    symbol = data.draw(st.sampled_from(CHARSET + "1bio").filter(lambda symbol: symbol != text[position]))
    with pytest.raises(RemoteProtocolError):
        read_invoice(text[:position] + symbol + text[position + 1 :])


@settings(max_examples=150)
@given(
    st.text(max_size=60)
    | st.builds(
        lambda prefix, symbols: str(bech32_encode(prefix, symbols)),
        st.sampled_from(["lnbc", "lnbcrt1u", "lnbc10p", "lntb", "lnbcrt"]),
        st.lists(st.integers(0, 31), max_size=260),
    )
)
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        fields = read_invoice(text)
    except RemoteProtocolError:
        return
    _agrees(text)
    assert fields.bolt11 == text.lower()


@pytest.mark.parametrize("text", ["lnbcrt1\ud800" + "q" * 200, "\ud8001" + "q" * 200, "lnbcrt1é" + "q" * 200, "1", ""])
def test_text_that_is_no_ascii_is_refused_as_any_other(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_invoice(text)


@pytest.mark.anyio
async def test_a_reader_reads_what_its_wallet_can_pay_and_names_the_network_of_what_it_cannot() -> None:
    read = invoices.invoice_reader("regtest")
    text = encode_invoice(DRAFT, SECRET)
    assert await read(text) == decode_invoice(text)
    for network in ("bc", "tb", "tbs"):
        with pytest.raises(RemoteProtocolError, match=f"lnbcrt… and this one is ln{network}…"):
            await read(encode_invoice(replace(DRAFT, network=network), SECRET))


def test_a_signature_must_be_of_the_payee_that_the_invoice_names() -> None:
    stated = [int(f"{int(find_node_id(SECRET), 16):0264b}0"[at : at + 5], 2) for at in range(0, 265, 5)]
    own, other = (_sign_with_payee(secret, stated) for secret in (SECRET, b"\x02" * 32))
    _agrees(own)
    assert read_invoice(own).payee == find_node_id(SECRET)
    with pytest.raises(RemoteProtocolError):
        read_invoice(other)


def _sign_with_payee(secret: bytes, stated: list[int]) -> str:
    """An invoice that names a payee, signed by whoever has this secret."""
    _, data = bech32_decode(encode_invoice(DRAFT, SECRET))
    assert data is not None
    symbols = [*data[:7], CHARSET.find("n"), 1, 21, *stated, *data[7:-104]]
    bits = "".join(f"{symbol:05b}" for symbol in symbols)
    signed = int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8)
    signature = Signature.from_private_key("lnbcrt1u", secret.hex(), signed)
    tail = f"{int.from_bytes(signature.signature_data):0520b}"
    return str(bech32_encode("lnbcrt1u", symbols + [int(tail[at : at + 5], 2) for at in range(0, 520, 5)]))
