"""Values as PostgreSQL can hold them, and jobs with their tranches, many in one question.

PostgreSQL's text knows no zero character, and its numbers end at 64 bits.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any, Final

from relaymesh.adapters.sql_ledger_rows import GET_ALL_TRANCHES, RecordRows, Row
from relaymesh.machines.records import TrancheRecord
from relaymesh.ports.ledger_tables import JobKey

OF_JOBS: Final = "WHERE (side, client, job_id) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))"
_TRANCHES: Final = GET_ALL_TRANCHES + OF_JOBS + " ORDER BY tranche"
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def as_text(text: str) -> str:
    """Text as PostgreSQL can hold it; what begins with a text here begins with it there.

    Raises:
        UnicodeEncodeError: It is no Unicode.
    """
    text.encode()
    return text.replace("\\", "\\\\").replace("\x00", "\\0") if "\\" in text or "\x00" in text else text


def as_values(row: Iterable[object]) -> Row:
    """A row's values as PostgreSQL can hold them.

    Raises:
        UnicodeEncodeError: Some text is no Unicode.
        OverflowError: Some number does not fit 64 bits.
    """
    return tuple(map(_as_value, row))


def as_row(values: Iterable[object]) -> Row:
    """What `as_values` was given."""
    return tuple(_ESCAPED.sub(_unescape, each) if isinstance(each, str) else each for each in values)


def key_columns(keys: Collection[JobKey]) -> tuple[list[str], list[str], list[str]]:
    """The arrays that `OF_JOBS` takes."""
    sides, clients, job_ids = zip(*keys, strict=True) if keys else ((), (), ())
    return list(sides), [as_text(client) for client in clients], [as_text(job_id) for job_id in job_ids]


async def read_tranches(
    connection: Any, rows: RecordRows, keys: Collection[JobKey]
) -> dict[JobKey, tuple[TrancheRecord, ...]]:
    """The tranches of these jobs, in order; a job without any is left out.

    Raises:
        LedgerError: Some row was altered.
    """
    found: dict[JobKey, tuple[TrancheRecord, ...]] = {}
    for row in await connection.fetch(_TRANCHES, *key_columns(keys)):
        tranche = rows.read_tranche(as_row(row))
        key = (tranche.side, tranche.client, tranche.job_id)
        found[key] = (*found.get(key, ()), tranche)
    return found


def _as_value(value: object) -> object:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, int):
        value.to_bytes(8, "big", signed=True)
    return value


def _unescape(found: re.Match[str]) -> str:
    return "\x00" if found.group(1) == "0" else found.group(1)
