"""The one writer: durable, undisturbed by what fails beside it or on the disk, and thorough where it erases."""

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relaymesh.adapters.ledger_changes import NextSequence
from relaymesh.adapters.sql_ledger_file import LedgerFile, open_for_writing
from relaymesh.adapters.sql_ledger_reader import LedgerReader
from relaymesh.adapters.sql_ledger_writer import LedgerWriter
from relaymesh.errors import LedgerError
from relaymesh.machines.records import JobState, LedgerRecord
from relaymesh.ports.ledger import JobQuery
from relaymesh.units import Timestamp
from tests.conformance.ledger.records import BODY, PLAINTEXT, PREIMAGE, make_evidence, make_job, make_tranche

NEVER = 3_600.0
NOW = Timestamp(1_790_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LedgerFile]:
    opened = open_for_writing(tmp_path / "ledger.sqlite", b"\x07" * 32)
    yield opened
    opened.close()


@pytest.fixture
def writer(file: LedgerFile) -> Iterator[LedgerWriter]:
    writer = LedgerWriter(file, erase_after_seconds=NEVER)
    yield writer
    writer.close()


def connection_of(file: LedgerFile) -> sqlite3.Connection:
    assert file.writer is not None
    return file.writer


def count_jobs(file: LedgerFile) -> int:
    return len(LedgerReader(file).read_jobs(JobQuery(), 1_000).jobs)


def on_disk(file: LedgerFile) -> bytes:
    """Every byte of every file of the ledger's."""
    return b"".join(part.read_bytes() for part in sorted(file.path.parent.glob(file.path.name + "*")))


def stored(file: LedgerFile, column: str, table: str) -> bytes:
    value = file.reader.execute(f"SELECT {column} FROM {table}").fetchone()[0]
    assert isinstance(value, bytes)
    return value


def timers() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def fire(timer: threading.Timer) -> None:
    """Do now what the timer would do when its time has come."""
    timer.cancel()
    timer.join(timeout=10)
    timer.function()


def test_a_commit_waits_for_the_disk(file: LedgerFile) -> None:
    settings = {
        name: connection_of(file).execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "fullfsync")
    }
    assert settings == {"synchronous": 2, "fullfsync": 1}
    assert connection_of(file).execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_each_change_has_its_own_outcome(file: LedgerFile, writer: LedgerWriter) -> None:
    orphan = make_tranche(9)
    outcomes = writer.commit(
        [(make_job(1),), NextSequence("offer", NOW), (make_job(2), orphan), NextSequence("offer", NOW), (make_job(3),)]
    )
    assert outcomes[:2] == [0, NOW]
    assert isinstance(outcomes[2], LedgerError)
    assert outcomes[3:] == [NOW + 1, 0]
    assert count_jobs(file) == 2


# ── the disk ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_fails_all_and_the_ledger_goes_on_once_there_is_room(
    file: LedgerFile, writer: LedgerWriter
) -> None:
    connection = connection_of(file)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    outcomes = writer.commit([(make_job(1),), (make_job(2, body="x" * 100_000),)])
    assert [str(outcome) for outcome in outcomes] == [
        f"the ledger {file.path} cannot be written: the disk is full; free some space"
    ] * 2
    assert outcomes[0] is not outcomes[1]
    assert count_jobs(file) == 0
    connection.execute("PRAGMA max_page_count = 1000000")
    assert writer.commit([(make_job(1),), (make_job(2, body="x" * 100_000),)]) == [0, 0]
    assert count_jobs(file) == 2


def test_a_disk_that_turned_read_only_is_told(file: LedgerFile, writer: LedgerWriter) -> None:
    connection_of(file).execute("PRAGMA query_only = ON")
    (outcome,) = writer.commit([(make_job(),)])
    assert "read-only; make both writable" in str(outcome)
    connection_of(file).execute("PRAGMA query_only = OFF")
    assert writer.commit([(make_job(),)]) == [0]


def test_a_file_that_another_program_locks_is_told_and_may_be_tried_again(
    file: LedgerFile, writer: LedgerWriter
) -> None:
    connection_of(file).execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    (outcome,) = writer.commit([(make_job(),)])
    assert isinstance(outcome, LedgerError)
    assert outcome.retryable
    assert "locked by another program" in str(outcome)
    other.close()
    assert writer.commit([(make_job(),)]) == [0]


def test_a_row_that_somebody_altered_fails_the_write_that_meets_it_alone(
    file: LedgerFile, writer: LedgerWriter
) -> None:
    writer.commit([(make_job(), make_tranche(preimage=PREIMAGE))])
    connection_of(file).execute("UPDATE tranche SET preimage = 'money'")
    met, beside = writer.commit([(make_tranche(),), (make_job(2),)])
    assert "altered" in str(met)
    assert beside == 0


def test_a_bug_in_the_middle_of_a_transaction_leaves_none_open(file: LedgerFile, writer: LedgerWriter) -> None:
    with pytest.raises(AttributeError):
        writer.commit([(make_job(1),), (make_job(2, state="open"),)])
    assert not connection_of(file).in_transaction
    assert writer.commit([(make_job(3),)]) == [0]
    assert count_jobs(file) == 1


# ── what is sensitive ─────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_sensitive_is_readable_on_the_disk(file: LedgerFile, writer: LedgerWriter) -> None:
    records = (make_job(), make_tranche(preimage=PREIMAGE), make_evidence(plaintext=PLAINTEXT))
    assert writer.commit([records]) == [0]
    content = on_disk(file)
    assert make_job().model.encode() in content
    for secret in (b"garden", BODY.encode(), PREIMAGE, PREIMAGE.hex().encode(), b"salt of a quote", b"\x07" * 32):
        assert secret not in content


@pytest.mark.parametrize("size", [100, 100_000])
def test_what_a_record_erases_is_gone_from_the_disk_even_encrypted(
    file: LedgerFile, writer: LedgerWriter, size: int
) -> None:
    job, tranche, evidence = (
        make_job(body="x" * size),
        make_tranche(preimage=PREIMAGE),
        make_evidence(plaintext=PLAINTEXT),
    )
    writer.commit([(job, tranche, evidence)])
    places = (("body", "job"), ("preimage", "tranche"), ("plaintext", "evidence"))
    sealed = [stored(file, *place)[-60:] for place in places]
    assert all(value in on_disk(file) for value in sealed)
    done = replace(job, body="", state=JobState.DONE)
    writer.commit([(done, replace(tranche, preimage=None), replace(evidence, plaintext=""))])
    writer.close()
    assert not any(value in on_disk(file) for value in sealed)
    assert count_jobs(file) == 1


@pytest.mark.parametrize("erased", ["job", "tranche", "evidence"])
def test_what_is_erased_leaves_the_log_soon_without_anybody_writing(file: LedgerFile, erased: str) -> None:
    log = file.path.with_name(file.path.name + "-wal")
    job, tranche, evidence = make_job(), make_tranche(preimage=PREIMAGE), make_evidence(plaintext=PLAINTEXT)
    writer = LedgerWriter(file, erase_after_seconds=0.0)
    writer.commit([(job, tranche, evidence)])
    assert log.stat().st_size > 0
    without: dict[str, LedgerRecord] = {"job": replace(job, body=""), "tranche": replace(tranche, preimage=None)}
    writer.commit([(without.get(erased, replace(evidence, plaintext="")),)])
    for timer in timers():
        timer.join(timeout=10)
    assert log.stat().st_size == 0
    writer.close()


def test_a_write_that_erases_nothing_leaves_the_log_alone(file: LedgerFile, writer: LedgerWriter) -> None:
    writer.commit([(make_job(), make_tranche(), make_evidence())])
    writer.commit([(make_job(2, body=""), make_tranche(state=make_tranche().state), make_evidence())])
    assert not timers()


def test_a_reader_only_delays_what_is_to_be_erased(file: LedgerFile, writer: LedgerWriter) -> None:
    writer.commit([(make_job(),)])
    sealed = stored(file, "body", "job")
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM job").fetchone()
    writer.commit([(make_job(body=""),)])
    (timer,) = timers()
    fire(timer)
    assert sealed in on_disk(file)
    other.close()
    (again,) = timers()
    fire(again)
    assert sealed not in on_disk(file)
    assert writer.commit([(make_job(2),)]) == [0]


def test_closing_leaves_no_thread_behind(file: LedgerFile, writer: LedgerWriter) -> None:
    writer.commit([(make_job(),)])
    writer.commit([(make_job(body=""),)])
    assert timers()
    writer.close()
    assert not timers()
