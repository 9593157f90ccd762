"""Every invoice that must not be paid, from a node that does all else right: refused in a sentence, and not paid."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from bech32 import bech32_decode, bech32_encode
from bolt11.models.signature import Signature

from relaymesh.adapters import invoices
from relaymesh.adapters.invoices import InvoiceDraft, encode_invoice, find_node_id
from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.records import JobState, PaymentRecord, TrancheRecord, TrancheState
from relaymesh.ports.ledger import JobQuery
from relaymesh.ports.lightning import Invoice, InvoiceRequest
from relaymesh.ports.memory_lightning import MemoryWallet
from relaymesh.protocol.payment import DecodedInvoice, find_network_flaw
from relaymesh.protocol.refusal import RefusalCode
from relaymesh.roles.spending import recall_payment_hashes
from relaymesh.units import AmountMsat, Timestamp
from tests.conformance.ledger.records import make_job, make_payment, make_tranche
from tests.roles.market import Market, loop_clock, purchase

pytestmark = pytest.mark.anyio

SECRET, ELSEWHERE = b"\x01" * 32, b"\x02" * 32
HASH = "aa" * 32
UNKNOWN_EVEN_FEATURE = 100


def read_regtest_invoice(text: str) -> DecodedInvoice:
    """As `relaymesh.adapters.invoices.invoice_reader` does it for a wallet on regtest."""
    invoice = invoices.decode_invoice(text)
    if (flaw := find_network_flaw(invoice, "regtest")) is not None:
        raise RemoteProtocolError(flaw)
    return invoice


def sign_anew(text: str, *, prefix: str | None = None, feature: int | None = None) -> str:
    """The same invoice with another human-readable part or one more required feature, signed by the same node."""
    found, symbols = bech32_decode(text)
    assert found is not None and symbols is not None
    prefix, fields = prefix or found, symbols[:-104]
    if feature is not None:
        length = feature // 5 + 1
        bits = [1 << feature % 5, *[0] * (length - 1)]
        fields = [*fields[:7], 5, length // 32, length % 32, *bits, *fields[7:]]  # before the others: the first counts
    stream = "".join(f"{symbol:05b}" for symbol in fields)
    signed = int(stream + "0" * (-len(stream) % 8), 2).to_bytes((len(stream) + 7) // 8)
    signature = f"{int.from_bytes(Signature.from_private_key(prefix, SECRET.hex(), signed).signature_data):0520b}"
    return str(bech32_encode(prefix, fields + [int(signature[at : at + 5], 2) for at in range(0, 520, 5)]))


def valid(draft: InvoiceDraft) -> str:
    return encode_invoice(draft, SECRET)


def break_checksum(text: str) -> str:
    return text[:-1] + ("p" if text.endswith("q") else "q")


FORGERIES: dict[str, tuple[Callable[[InvoiceDraft], str], str]] = {
    "no invoice": (lambda _: "lnbcrt1u1nonsense", "its encoding or its signature is broken"),
    "a broken checksum": (lambda draft: break_checksum(valid(draft)), "its encoding or its signature is broken"),
    "expired": (
        lambda draft: valid(replace(draft, created_at=Timestamp(draft.created_at - 61))),
        "the invoice has expired or is about to",
    ),
    "about to expire": (lambda draft: valid(replace(draft, expiry_seconds=2)), "the invoice has expired or is about"),
    "no amount": (lambda draft: valid(replace(draft, amount_msat=None)), "an invoice must name its amount"),
    "an amount of zero": (
        lambda draft: sign_anew(valid(draft), prefix="lnbcrt0u"),
        "a known network and a whole positive amount",
    ),
    "a fraction of a millisatoshi": (
        lambda draft: sign_anew(valid(draft), prefix="lnbcrt10001p"),
        "an invoice's amount must be whole millisatoshis",
    ),
    "a higher amount": (
        lambda draft: valid(replace(draft, amount_msat=AmountMsat((draft.amount_msat or 0) + 1))),
        "was announced",
    ),
    "another network": (
        lambda draft: valid(replace(draft, network="bc")),
        "the invoice is for another network: the wallet pays lnbcrt… and this one is lnbc…",
    ),
    "no network": (lambda draft: sign_anew(valid(draft), prefix="lnltc10u"), "must begin with a known network"),
    "another payee": (
        lambda draft: encode_invoice(draft, ELSEWHERE),
        "the invoice pays another Lightning node than the offer names",
    ),
    "a feature nobody knows": (
        lambda draft: sign_anew(valid(draft), feature=UNKNOWN_EVEN_FEATURE),
        "the invoice requires feature 100, which nobody here understands",
    ),
    "a hash that was paid before": (valid, "the invoice repeats the payment hash of another tranche"),
}


class ForgingWallet(MemoryWallet):
    """Issues what it is told to instead of what it is asked for; made of an honest wallet."""

    def __init__(self, honest: MemoryWallet, forge: Callable[[InvoiceDraft], str]) -> None:
        self.__dict__ = honest.__dict__
        self._forge = forge

    async def create_invoice(self, request: InvoiceRequest) -> Invoice:
        issued = await super().create_invoice(request)
        now = loop_clock().timestamp
        draft = InvoiceDraft("bcrt", request.amount_msat, HASH, "bb" * 32, now, request.expiry_seconds, "a job")
        return replace(issued, bolt11=self._forge(draft), payment_hash=HASH)


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_it_is_refused_in_a_sentence_and_no_payment_leaves(forgery: str) -> None:
    forge, sentence = FORGERIES[forgery]
    async with Market().open() as market:
        node = await market.add_node(lightning_node_id=find_node_id(SECRET))
        node.tools.wallet = ForgingWallet(node.wallet, forge)
        async with market.client(read_invoice=read_regtest_invoice) as client:
            if forgery == "a hash that was paid before":
                client.tools.known_payment_hashes.add(HASH)
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.state is JobState.FAILED and outcome.refusal is not None
        assert outcome.refusal.code is RefusalCode.PAYMENT_MISMATCH
        assert sentence in outcome.refusal.reason
        assert await market.buyer.transactions(10) == () and market.buyer.balance_msat == 1_000_000
        (job,) = await market.client_ledger.find_jobs(JobQuery(side="client"))
        assert job.tranches == () and job.job.charged_msat == 0


@pytest.mark.parametrize("record", [make_payment(payment_hash=HASH), make_tranche(payment_hash=HASH)])
async def test_an_invoice_that_was_paid_before_a_restart_is_known_by_the_ledger(
    record: PaymentRecord | TrancheRecord,
) -> None:
    async with Market().open() as market:
        node = await market.add_node(lightning_node_id=find_node_id(SECRET))
        node.tools.wallet = ForgingWallet(node.wallet, valid)
        await market.client_ledger.write((make_job(), record))
        async with market.client(read_invoice=read_regtest_invoice) as client:
            client.tools.known_payment_hashes |= await recall_payment_hashes(market.client_ledger)
            bought = await purchase(client)
        outcome = bought.bought.outcome
        assert outcome is not None and outcome.refusal is not None
        assert "repeats the payment hash of another tranche" in outcome.refusal.reason
        assert await market.buyer.transactions(10) == ()


async def test_one_that_is_too_long_does_not_even_fit_a_message() -> None:
    async with Market().open() as market:
        node = await market.add_node(lightning_node_id=find_node_id(SECRET))
        node.tools.wallet = ForgingWallet(node.wallet, lambda draft: valid(draft) + "q" * 2_048)
        async with market.client(read_invoice=read_regtest_invoice) as client:
            bought = await purchase(client)
        assert bought.text == "" and bought.bought.reason
        assert await market.buyer.transactions(10) == ()
    with pytest.raises(RemoteProtocolError, match="at most 2048 bytes"):
        read_regtest_invoice("lnbcrt1" + "q" * 2_048)


async def test_the_forger_is_paid_what_is_right_so_that_nothing_else_is_why_the_others_are_refused() -> None:
    async with Market().open() as market:
        node = await market.add_node(lightning_node_id=find_node_id(SECRET))
        node.tools.wallet = ForgingWallet(node.wallet, valid)
        async with market.client(read_invoice=read_regtest_invoice) as client:
            await purchase(client)
        (job,) = await market.client_ledger.find_jobs(JobQuery(side="client"))
        # It went to the wallet, which knows no such invoice: this network is not that one.
        assert [each.state for each in job.tranches] == [TrancheState.FAILED]
