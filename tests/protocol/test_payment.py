"""What speaks against an invoice that reads well, in the order in which a person wants to know."""

from dataclasses import replace

import pytest

from relaymesh.protocol.payment import DecodedInvoice, find_flaw
from relaymesh.units import AmountMsat, Timestamp

NOW = Timestamp(1_750_000_000)
PAYEE = "02" + "ab" * 32
GOOD = DecodedInvoice("", "00" * 32, AmountMsat(1), PAYEE, "bc", NOW, Timestamp(NOW + 1), "")


def test_an_invoice_without_a_flaw_may_be_paid_until_its_last_second() -> None:
    assert find_flaw(GOOD, network="bitcoin", now=NOW) is None
    assert find_flaw(GOOD, network="bitcoin", now=NOW, payee=PAYEE.upper()) is None


@pytest.mark.parametrize(
    ("invoice", "network", "payee", "word"),
    [
        (replace(GOOD, amount_msat=AmountMsat(0)), "bitcoin", None, "asks for nothing"),
        (GOOD, "regtest", None, "the wallet pays lnbcrt… and this one is lnbc…"),
        (replace(GOOD, network="tb"), "signet", None, "another network"),
        (replace(GOOD, expires_at=NOW), "bitcoin", None, "expired 0 seconds ago"),
        (GOOD, "bitcoin", "03" + "ab" * 32, f"pays {PAYEE}, not 03"),
    ],
)
def test_each_flaw_is_said(invoice: DecodedInvoice, network: str, payee: str | None, word: str) -> None:
    assert word in (find_flaw(invoice, network=network, now=NOW, payee=payee) or "")
