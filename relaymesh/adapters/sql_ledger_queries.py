"""The questions a ledger is asked, as plain SQL: written for SQLite, read by `in_postgresql` for PostgreSQL."""

from typing import Final

from relaymesh.adapters.sql_ledger_rows import GET_EVIDENCE, GET_JOBS, GET_PAYMENTS, GET_SEALED
from relaymesh.machines.records import Side
from relaymesh.nostr.event import PublicKey
from relaymesh.ports.ledger import JobQuery

_PAID_BY_MINUTE: Final = """
SELECT minute, sum(msat) FROM (
    SELECT opened_at_ms / 60000 AS minute, amount_msat + fee_msat AS msat FROM tranche
    WHERE side = 'client' AND state IN ('paying', 'unknown', 'paid', 'released') AND opened_at_ms >= ?
    UNION ALL
    SELECT opened_at_ms / 60000 AS minute, amount_msat + fee_msat AS msat FROM payment
    WHERE state IN ('paying', 'unknown', 'paid', 'released') AND opened_at_ms >= ?
) AS paid GROUP BY minute ORDER BY minute
"""
_PAYMENTS: Final = GET_PAYMENTS + " WHERE number > ? ORDER BY number LIMIT ?"
ALL_SEQUENCES: Final = "SELECT scope, value FROM sequence ORDER BY scope"
LARGEST: Final = 2**63 - 1
_LAST_CHARACTER: Final = "\U0010ffff"
# Sub-queries, so that SQLite looks the few rows up in their own index instead of walking the one that is in order.
_HAS_ID: Final = "number IN (SELECT number FROM job WHERE job_id BETWEEN ? AND ?)"
_IS_OF_CLIENT: Final = "number IN (SELECT number FROM job WHERE side IN ('client', 'node') AND client = ?)"
_IS_UNPAID: Final = """number IN (
    SELECT job.number FROM tranche JOIN job USING (side, client, job_id)
    WHERE tranche.settlement_order = ? AND tranche.state IN ('expired', 'failed')
)"""
_IS_UNRESOLVED: Final = """number IN (
    SELECT number FROM job WHERE state IN ('open', 'unknown')
    UNION
    SELECT job.number FROM tranche JOIN job USING (side, client, job_id)
    WHERE tranche.state NOT IN ('released', 'failed', 'expired')
)"""
_ALL_EVIDENCE: Final = GET_EVIDENCE + " WHERE number > ? ORDER BY number LIMIT ?"
_IS_OF_JOB: Final = """number IN (
    SELECT number FROM evidence WHERE job_id = ?
    UNION
    SELECT evidence.number FROM job JOIN evidence ON evidence.side = job.side AND evidence.event_id = job.quote_id
    WHERE job.job_id = ?
)"""
_EVIDENCE_OF_JOB: Final = GET_EVIDENCE + " WHERE " + _IS_OF_JOB + " AND number > ? ORDER BY number LIMIT ?"


Question = tuple[str, tuple[str | int, ...]]
"""A statement and the values of its placeholders."""


def ask_for_jobs(query: JobQuery, rows: int, after: tuple[int, int] | None) -> Question:
    """At most so many jobs that match, newest first, beginning after (`created_at_ms`, row number) `after`."""
    conditions = ["(created_at_ms, number) < (?, ?)"]
    values: list[str | int] = [*(after or (LARGEST, LARGEST))]
    if query.side is not None:
        conditions.append("+side = ?")  # the plus: of no use to an index, or SQLite would sort half the table
        values.append(query.side)
    if query.job_id:
        conditions.append(_HAS_ID)
        values += [query.job_id, query.job_id + _LAST_CHARACTER]
    if query.client is not None:
        conditions.append(_IS_OF_CLIENT)
        values.append(query.client)
    if query.unpaid_order is not None:
        conditions.append(_IS_UNPAID)
        values.append(query.unpaid_order)
    if query.only_unresolved:
        conditions.append(_IS_UNRESOLVED)
    order = "ORDER BY created_at_ms DESC, number DESC LIMIT ?"
    return " ".join((GET_JOBS, "WHERE", " AND ".join(conditions), order)), (*values, rows)


def ask_for_evidence(job_id: str | None, rows: int, after: int) -> Question:
    """At most so many pieces of evidence of one job (or of all), in the order they were first written."""
    if job_id is None:
        return _ALL_EVIDENCE, (after, rows)
    return _EVIDENCE_OF_JOB, (job_id, job_id, after, rows)


def ask_for_sealed(side: Side | None, client: PublicKey | None, job_id: str | None, rows: int, after: int) -> Question:
    """At most so many sealed tranches of this side, client and job (or any), in the order they were first written."""
    narrowed: dict[str, str | None] = {"side": side, "client": client, "job_id": job_id}
    wanted = {column: value for column, value in narrowed.items() if value is not None}
    conditions = " AND ".join(("number > ?", *(f"{column} = ?" for column in wanted)))
    return f"{GET_SEALED} WHERE {conditions} ORDER BY number LIMIT ?", (after, *wanted.values(), rows)


def ask_for_payments(rows: int, after: int) -> Question:
    """At most so many payments beside jobs, in the order they were first written."""
    return _PAYMENTS, (after, rows)


def ask_for_paid_minutes(since_ms: int) -> Question:
    """The minutes in which something was paid, and how much."""
    return _PAID_BY_MINUTE, (since_ms, since_ms)
