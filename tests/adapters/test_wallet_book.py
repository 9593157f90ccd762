"""What must not be forgotten of a wallet survives a restart, and its preimages open under its own key alone."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from relaymesh.adapters.wallet_book import KEPT_SECONDS, BookedInvoice, WalletBook
from relaymesh.errors import LedgerError, LightningError
from relaymesh.units import AmountMsat, Timestamp

pytestmark = pytest.mark.anyio

NOW = Timestamp(1_750_000_000)
SECRET, WALLET = b"\x06" * 32, b"\x05" * 32
PLAIN = BookedInvoice("one", "11" * 32, AmountMsat(5), "words", "lnbc1", NOW)
HELD = BookedInvoice("two", "22" * 32, AmountMsat(6), "", "lnbc2", Timestamp(NOW + 9), b"\x07" * 32)


async def test_invoices_come_back_as_they_were_written(tmp_path: Path) -> None:
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        for invoice in (PLAIN, HELD):
            await book.put(invoice)
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        assert [await book.find(label) for label in ("one", "two", "three")] == [PLAIN, HELD, None]
        assert await book.held() == (HELD,)
        over = replace(HELD, is_over=True)
        await book.put(over)
        assert (await book.held(), await book.find("two")) == ((), over)


async def test_a_payment_hash_serves_one_label(tmp_path: Path) -> None:
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        await book.put(HELD)
        with pytest.raises(LightningError):
            await book.put(replace(HELD, label="other"))
        assert await book.find("two") == HELD


async def test_a_payment_is_in_doubt_from_the_request_to_the_answer_or_until_nobody_takes_it(tmp_path: Path) -> None:
    one, two, later = "aa" * 32, "bb" * 32, Timestamp(NOW + 60)
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        assert not await book.may_still_be_sent(one, NOW)
        await book.ask_payment(one, later)
        await book.ask_payment(two, later)
        await book.answer_payment(two)
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        assert await book.may_still_be_sent(one, later)
        assert not await book.may_still_be_sent(one, Timestamp(later + 1))
        assert not await book.may_still_be_sent(two, NOW)
        await book.ask_payment(two, NOW)  # again, and an earlier end does not shorten the first
        assert await book.may_still_be_sent(two, later)


async def test_what_is_long_over_is_forgotten(tmp_path: Path) -> None:
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        await book.put(PLAIN)
        await book.ask_payment(PLAIN.payment_hash, NOW)
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, Timestamp(NOW + KEPT_SECONDS + 1)) as book:
        assert await book.find("one") is None


async def test_another_connections_key_opens_no_preimage(tmp_path: Path) -> None:
    async with WalletBook.open(tmp_path / "book", SECRET, WALLET, NOW) as book:
        await book.put(HELD)
    async with WalletBook.open(tmp_path / "book", b"\x08" * 32, WALLET, NOW) as book:
        with pytest.raises(LedgerError):
            await book.find("two")


async def test_a_file_of_another_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "newer") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    (tmp_path / "text").write_text("no database" * 100)
    for name in ("newer", "text", "absent/book"):
        with pytest.raises(LedgerError):
            async with WalletBook.open(tmp_path / name, SECRET, WALLET, NOW):
                pytest.fail("opened")
