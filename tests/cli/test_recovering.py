"""`receipts recover` and `fraud prove`: what was bought sealed comes out of the ledger, or a proof of why not."""

import hashlib
import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import structlog
from typer.testing import CliRunner

from relaymesh.adapters.key_files import load_or_create_ledger_key
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.cli.application import application
from relaymesh.machines.records import EvidenceRecord, JobState, LedgerRecord, SealedRecord, TrancheRecord, TrancheState
from relaymesh.protocol.sealed_commitment import read_sealed_commitment
from relaymesh.units import AmountMsat
from tests.cli.processes import Home
from tests.machines.pair import CLIENT, NODE
from tests.machines.sealed import CONTRACT, JOB_ID, commit
from tests.roles.sealed_trade import TEXTS, trade

TEXT = "".join(piece for pieces in TEXTS for piece in pieces)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder without a wallet and without relays."""
    monkeypatch.setenv("RELAYMESH_FILES_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    structlog.reset_defaults()  # a command logs to where standard error was while it ran


def fill(home: Path, records: list[LedgerRecord]) -> None:
    """Write records into the client's ledger."""

    async def write() -> None:
        key = load_or_create_ledger_key(home / "ledger.key")
        async with SqlLedger.open(home / "client.sqlite3", key=key) as ledger:
            await ledger.write(tuple(records))

    anyio.run(write)


def paid_records(*, is_bad: bool = False) -> list[LedgerRecord]:
    """What a crash left of a job whose payments the ledger knows; the second tranche's leaf may be nonsense."""
    traded = trade()
    secrets = {sealed.tranche: sealed.secret for sealed in traded.sealed}
    nonsense = (b"\x00" * 50,)
    records: list[LedgerRecord] = []
    for record in traded.records:
        match record:
            case TrancheRecord():
                record = replace(record, state=TrancheState.RELEASED, preimage=secrets[record.tranche])
            case SealedRecord(tranche=1) if is_bad:
                said = read_sealed_commitment(record.commitment).commitment
                other = commit(said.model_copy(update={"leaf_sha256": (sha256(nonsense[0]),)}))
                record = replace(record, leaves=nonsense, commitment=other)
            case _:
                pass
        records.append(record)
    return [replace(traded.job, state=JobState.FAILED, body="", charged_msat=AmountMsat(20)), *records[1:]]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def run(*arguments: str) -> tuple[int, str, str]:
    ran = CliRunner().invoke(application, list(arguments))
    assert "Traceback" not in ran.output, ran.output
    return ran.exit_code, ran.stdout, ran.stderr


def test_what_was_paid_is_printed_once_without_wallet_node_or_relay(home: Path) -> None:
    fill(home, paid_records())
    code, shown, said = run("receipts", "recover", JOB_ID[:8])
    assert (code, shown, said) == (0, TEXT + "\n", "")
    code, shown, said = run("receipts", "recover")
    assert (code, shown) == (1, "") and "nothing to recover" in said


def test_it_goes_into_a_file_that_only_its_owner_reads_and_that_is_never_overwritten(home: Path) -> None:
    fill(home, paid_records())
    out = home / "answer.txt"
    out.write_text("mine")
    code, shown, said = run("receipts", "recover", "--out", str(out))
    assert (code, shown) == (1, "") and "exists already" in said and out.read_text() == "mine"
    out.unlink()
    assert run("receipts", "recover", "--out", str(out)) == (0, "", "")
    assert out.read_text(encoding="utf-8") == TEXT + "\n" and stat.S_IMODE(out.stat().st_mode) == 0o600
    assert run("receipts", "recover")[0] == 1


def test_output_that_could_not_be_written_is_kept(home: Path) -> None:
    fill(home, paid_records())
    code, _, said = run("receipts", "recover", "--out", str(home / "no" / "such" / "folder"))
    assert code == 1 and "cannot be written" in said
    assert run("receipts", "recover") == (0, TEXT + "\n", "")


def test_programs_get_one_object(home: Path) -> None:
    fill(home, paid_records())
    code, shown, _ = run("receipts", "recover", "--json")
    (job,) = json.loads(shown)["jobs"]
    assert code == 0 and job["text"] == TEXT and job["job_id"] == JOB_ID and job["charged_msat"] == 20
    assert [tranche["outcome"] for tranche in job["tranches"]] == ["opened", "opened"]
    assert json.loads(run("receipts", "recover", "--json")[1]) == {"jobs": []}


def test_without_a_ledger_or_the_job_one_sentence_says_so(home: Path) -> None:
    code, _, said = run("receipts", "recover")
    assert code == 1 and said.startswith("relaymesh: nothing to recover")
    fill(home, paid_records())
    code, _, said = run("receipts", "recover", "ffff")
    assert code == 1 and "`ffff`" in said and "receipts list" in said


def test_a_payment_in_doubt_needs_the_wallet_and_says_so(home: Path) -> None:
    fill(home, list(trade().records))
    code, shown, said = run("receipts", "recover")
    assert (code, shown) == (1, "") and "no wallet is connected" in said


def test_a_leaf_that_does_not_open_is_told_and_proven(home: Path) -> None:
    fill(home, paid_records(is_bad=True))
    code, shown, said = run("receipts", "recover")
    assert (code, shown) == (1, "".join(TEXTS[0]) + "\n") and "relaymesh fraud prove" in said
    code, shown, said = run("fraud", "prove", JOB_ID[:16])
    assert code == 0 and said.startswith("bad-ciphertext by ")
    proof = home / "proof.json"
    proof.write_text(shown)
    code, shown, _ = run("fraud", "verify", str(proof))
    assert code == 0 and "PROVEN" in shown


def test_proofs_go_into_a_folder_one_file_each(home: Path) -> None:
    (sealed,) = trade(texts=TEXTS[:1]).sealed
    said = read_sealed_commitment(sealed.commitment).commitment
    other = commit(said.model_copy(update={"msat": 1}))
    commitments = [EvidenceRecord("client", JOB_ID, event) for event in (sealed.commitment, other)]
    quote = EvidenceRecord("client", JOB_ID, CONTRACT.quote_event, CONTRACT.quote_plaintext)
    fill(home, [*paid_records(is_bad=True), *commitments, quote])
    code, shown, _ = run("fraud", "prove", JOB_ID, "--out", str(home / "proofs"))
    files = sorted((home / "proofs").iterdir())
    assert (code, shown) == (0, "")
    assert [file.name.rpartition("-")[0] for file in files] == ["bad-ciphertext", "equivocation"]
    for file in files:
        assert run("fraud", "verify", str(file))[0] == 0
    code, shown, _ = run("fraud", "prove", JOB_ID, "--json")
    assert {proof["claim"] for proof in json.loads(shown)["proofs"]} == {"bad-ciphertext", "equivocation"}


def test_evidence_that_proves_nothing_is_no_proof(home: Path) -> None:
    fill(home, paid_records())
    code, shown, said = run("fraud", "prove", JOB_ID)
    assert (code, shown) == (1, "") and "proves no fraud" in said
    assert "found 0" in run("fraud", "prove", "ffff")[2]


def test_a_proof_is_published_under_a_key_that_nobody_knows(home: Path, short_path: Path) -> None:
    fill(home, paid_records(is_bad=True))
    database = str(short_path / "relay.sqlite3")
    with Home(short_path).serve("relay", "serve", "--port", "0", "--database", database, "--json") as relay:
        url = relay.facts["relay_url"]
        proofs = [json.loads(run("fraud", "prove", JOB_ID, "--publish", "--relay", url)[1]) for _ in range(2)]
        authors = {proof["pubkey"] for proof in proofs}
        assert len(authors) == 2 and NODE.public_key not in authors and CLIENT.public_key not in authors
    code, _, said = run("fraud", "prove", JOB_ID, "--publish", "--relay", url)
    assert code == 1 and "no relay took the event" in said
