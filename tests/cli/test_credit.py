"""Credit as a person sets it and sees it: which file, which keys, how much, and what is owed."""

import json
from pathlib import Path
from typing import Final

import pytest

from relaymesh.adapters.key_files import create_key
from relaymesh.cli.credit import load_credit_key, show_debts, unpaid_work
from relaymesh.cli.ledgers import open_ledger
from relaymesh.errors import UsageError
from relaymesh.machines.records import EvidenceRecord, TrancheState
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.guarantee import Guarantee, build_guarantee
from relaymesh.settings import Client, Files, Node, Settings
from relaymesh.units import AmountMsat, Timestamp
from tests.conformance.ledger.records import CLIENT, NODE, job_id, make_job, make_tranche

pytestmark = pytest.mark.anyio
BUYER: Final = KeyPair(b"\x21" * 32)
NPUB: Final = encode_public_key(BUYER.public_key)
NOW: Final = Timestamp(1_790_000_000)


def settings_in(path: Path, **node: object) -> Settings:
    return Settings(files=Files(str(path)), node=Node(credit_keys=(NPUB,), credit_msat=50_000, **node))  # type: ignore[arg-type]  # field names are the caller's


async def two_unpaid_jobs(settings: Settings) -> None:
    """Two jobs of one session on credit, both left unpaid; the guarantee is kept with the first."""
    guarantee = Guarantee(client=CLIENT, valid_until=Timestamp(NOW + 60))
    built = build_guarantee(guarantee, author=BUYER.public_key, node=NODE.public_key, created_at=NOW)
    async with open_ledger(settings, "node") as ledger:
        await ledger.write((make_job(1, side="node"), EvidenceRecord("node", job_id(1), BUYER.sign(built))))
        for number in (1, 2):
            lapsed = make_tranche(number, side="node", order="postpay", state=TrancheState.EXPIRED)
            await ledger.write((make_job(number, side="node"), lapsed))


async def test_debts_are_shown_by_who_vouched_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await two_unpaid_jobs(settings_in(tmp_path))
    await show_debts(settings_in(tmp_path), as_json=True)
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["key"], shown["line_msat"], shown["owed_msat"]) == (NPUB, 50_000, 2_000)
    assert [debt["job_id"] for debt in shown["debts"]] == [job_id(1), job_id(2)]
    await show_debts(settings_in(tmp_path), as_json=False)
    assert f"{NPUB}  owes 2,000 of a line of 50,000 msat" in capsys.readouterr().out


async def test_what_is_forgiven_is_owed_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await two_unpaid_jobs(settings_in(tmp_path))
    await show_debts(settings_in(tmp_path, forgiven_jobs=(job_id(1),)), as_json=True)
    (shown,) = json.loads(capsys.readouterr().out)
    assert [debt["job_id"] for debt in shown["debts"]] == [job_id(2)] and shown["owed_msat"] == 1_000


async def test_a_node_without_a_ledger_is_owed_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await show_debts(Settings(files=Files(str(tmp_path))), as_json=False)
    captured = capsys.readouterr()
    assert captured.out == "" and "Nothing is owed." in captured.err


def test_the_credit_key_is_read_from_its_file_or_the_mistake_is_said(tmp_path: Path) -> None:
    assert load_credit_key(Settings()) is None
    path = tmp_path / "credit.key"
    with pytest.raises(UsageError, match="no key file"):
        load_credit_key(Settings(client=Client(credit_key_file=str(path))))
    create_key(path, BUYER)
    found = load_credit_key(Settings(client=Client(credit_key_file=str(path))))
    assert found is not None and found.public_key == BUYER.public_key


def test_lines_are_made_of_npubs_and_amounts_that_make_sense() -> None:
    work = unpaid_work(Node(credit_keys=(NPUB, NODE.public_key), credit_msat=7, max_unpaid_unknown_msat=9))
    assert work.lines == {BUYER.public_key: AmountMsat(7), NODE.public_key: AmountMsat(7)}
    assert work.trust(CLIENT).unknown_msat == 9
    for wrong in (Node(credit_msat=-1), Node(max_unpaid_unknown_msat=-1), Node(credit_keys=("npub1wrong",))):
        with pytest.raises(UsageError):
            unpaid_work(wrong)
