"""`relaymesh ledger`: figures of a sound ledger, the rows of one that was broken by hand, and what accountants get."""

import csv
import hashlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from relaymesh.adapters.key_files import load_or_create_ledger_key
from relaymesh.adapters.sql_ledger import SqlLedger
from relaymesh.machines.records import JobState, LedgerRecord, Side, TrancheState
from relaymesh.units import AmountMsat
from tests.cli.processes import Home
from tests.conformance.ledger.records import BODY, PREIMAGE, job_id, make_evidence, make_job, make_sealed, make_tranche

HASH = hashlib.sha256(PREIMAGE).hexdigest()
OTHER_PREIMAGE = PREIMAGE[::-1]


def trade(side: Side, model: str = "llama") -> tuple[LedgerRecord, ...]:
    """A job in two tranches that is over, its quote, and one that nobody paid."""
    first = make_tranche(side=side, state=TrancheState.RELEASED, fee_msat=AmountMsat(7))
    second = replace(make_tranche(tranche=1, side=side), state=TrancheState.RELEASED, amount_msat=AmountMsat(500))
    if side == "client":
        first = replace(first, preimage=PREIMAGE, payment_hash=HASH)
        second = replace(
            second, preimage=HASH.encode()[:32], payment_hash=hashlib.sha256(HASH.encode()[:32]).hexdigest()
        )
    done = make_job(side=side, state=JobState.DONE, charged_msat=AmountMsat(1_500), body="", model=model)
    failed = make_job(2, side=side, state=JobState.FAILED, body="")
    return done, first, second, failed, make_sealed(side=side), make_evidence(side=side, plaintext="{}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose client bought what its node sold."""
    home = Home(tmp_path, {"RELAYMESH_FILES_DIRECTORY": str(tmp_path)})
    fill(home, "client")
    fill(home, "node")
    return home


def fill(home: Home, side: Side, *records: LedgerRecord) -> None:
    """Write records into a ledger, of a trade where none are given."""

    async def write() -> None:
        key = load_or_create_ledger_key(home.directory / "ledger.key")
        async with SqlLedger.open(home.directory / f"{side}.sqlite3", key=key) as ledger:
            await ledger.write(records or trade(side))

    anyio.run(write)


def alter(home: Home, statement: str) -> None:
    """Change the client's ledger behind everybody's back."""
    connection = sqlite3.connect(home.directory / "client.sqlite3", isolation_level=None)
    connection.execute(statement)
    connection.close()


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sound_ledger_is_proved_with_its_figures(home: Home) -> None:
    ran = home.run("ledger", "check")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "The client's ledger: 2 jobs, 1 signed pieces of evidence" in ran.stdout
    assert "The node's ledger: 2 jobs" in ran.stdout
    assert "what was charged: jobs 2, paid_msat 1,500, charged_msat 1,500" in ran.stdout
    assert "without its preimage: payments 2, amount_msat 1,500, fee_msat 7" in ran.stdout
    assert "FAILS" not in ran.stdout
    (report,) = json.loads(home.run("ledger", "check", "--side", "client", "--json").stdout)
    assert report["side"] == "client" and all(rule["holds"] for rule in report["rules"])


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE tranche SET amount_msat = 900 WHERE tranche = 0", "what was paid is what was charged"),
        ("UPDATE job SET charged_msat = 1499 WHERE state = 'done'", "what was paid is what was charged"),
        ("UPDATE job SET maximum_msat = 1000", "no job costs more than its limit"),
        ("UPDATE tranche SET state = 'expired' WHERE tranche = 1", "no preimage without its payment"),
        (f"UPDATE tranche SET payment_hash = '{'0d' * 32}' WHERE tranche = 1", "no preimage without its payment"),
        ("UPDATE tranche SET preimage = NULL WHERE tranche = 1", "no payment of the client's side without its"),
        ("UPDATE tranche SET state = 'unknown' WHERE tranche = 1", "no row is open"),
        ("UPDATE job SET state = 'open' WHERE state = 'failed'", "no row is open"),
    ],
)
def test_a_ledger_that_was_broken_by_hand_is_found_out(home: Home, statement: str, rule: str) -> None:
    alter(home, statement)
    ran = home.run("ledger", "check", "--json")
    assert ran.returncode == 1
    client, node = json.loads(ran.stdout)
    assert all(each["holds"] for each in node["rules"])
    (broken, *_) = [each for each in client["rules"] if not each["holds"] and rule in each["name"]]
    assert "the client's job 0000000" in broken["broken"][0]


def test_what_is_broken_is_shown_and_nothing_sensitive_with_it(home: Home) -> None:
    alter(home, "UPDATE tranche SET state = 'failed'")
    ran = home.run("ledger", "check", "--side", "client")
    assert ran.returncode == 1
    assert f"the client's job {job_id(1)[:16]} has a preimage for tranche 0, which is failed" in ran.stdout
    assert PREIMAGE.hex() not in ran.stdout


def test_a_field_that_was_altered_ends_the_check_in_one_sentence(home: Home) -> None:
    alter(home, "UPDATE evidence SET event = replace(event, '1790000000', '1790000001')")
    ran = home.run("ledger", "check")
    assert ran.returncode == 1
    assert "does not verify: its file was altered" in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_jobs_may_be_open_for_as_long_as_is_said(home: Home) -> None:
    fill(home, "client", make_job(3))
    assert home.run("ledger", "check", "--open-hours", "1000000").returncode == 0
    assert home.run("ledger", "check").returncode == 1


# ── export ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_accountants_get_a_line_for_each_tranche_whose_columns_can_be_summed(home: Home) -> None:
    ran = home.run("ledger", "export", "--csv", "--side", "client")
    assert ran.returncode == 0
    lines = list(csv.DictReader(ran.stdout.splitlines()))
    assert [(line["job_id"], line["tranche"], line["job_charged_msat"]) for line in lines] == [
        (job_id(1), "0", "1500"),
        (job_id(1), "1", ""),
        (job_id(2), "", "0"),
    ]
    assert sum(int(line["amount_msat"] or 0) for line in lines) == 1_500
    assert sum(int(line["fee_msat"] or 0) for line in lines) == 7
    assert lines[0]["created_at"] == "2026-09-21T14:13:21.000+00:00"
    assert (lines[0]["side"], lines[0]["model"], lines[0]["tranche_state"]) == ("client", "llama", "released")


def test_an_export_holds_both_sides_and_nothing_sensitive(home: Home) -> None:
    fill(home, "client", make_job(3))
    jobs = json.loads((ran := home.run("ledger", "export", "--json")).stdout)
    assert sorted((job["side"], job["job_id"]) for job in jobs) == [
        *(("client", job_id(number)) for number in (1, 2, 3)),
        *(("node", job_id(number)) for number in (1, 2)),
    ]
    labels = {tranche["invoice_label"] for job in jobs if job["side"] == "node" for tranche in job["tranches"]}
    assert labels == {"relaymesh/1/0", "relaymesh/1/1"}
    for secret in (PREIMAGE.hex(), "garden", json.dumps(BODY)):
        assert secret not in ran.stdout + home.run("ledger", "export").stdout


def test_one_form_at_a_time_and_only_sides_that_there_are(home: Home) -> None:
    assert "not both" in home.run("ledger", "export", "--csv", "--json").stderr
    for command in ("check", "export", "migrate"):
        ran = home.run("ledger", command, "--side", "bank")
        assert ran.returncode == 1 and "client, node or router, not bank" in ran.stderr


# ── migrate ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_versions_are_shown_and_a_copy_goes_nowhere_but_to_postgresql(home: Home) -> None:
    (client, node) = json.loads(home.run("ledger", "migrate", "--json").stdout)
    assert client == {"side": "client", "version": 2, "place": str(home.directory / "client.sqlite3")}
    assert node["side"] == "node"
    ran = home.run("ledger", "migrate", "--to", "mysql://me:secret@host/mesh")
    assert ran.returncode == 1 and "postgresql://" in ran.stderr and "secret" not in ran.stderr
    ran = home.run("ledger", "migrate", "--to", "postgresql://me:secret@127.0.0.1:9/mesh")
    assert ran.returncode == 1 and "does not answer" in ran.stderr and "secret" not in ran.stderr


def test_where_no_ledgers_are_nothing_is_made(tmp_path: Path) -> None:
    home = Home(tmp_path, {"RELAYMESH_FILES_DIRECTORY": str(tmp_path / "data")})
    for command in ("check", "migrate"):
        ran = home.run("ledger", command)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "There are no ledgers yet.\n")
    assert not list(tmp_path.glob("**/*.sqlite3"))
