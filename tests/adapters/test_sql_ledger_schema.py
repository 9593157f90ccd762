"""One text says what the tables are; PostgreSQL's differs in words only, and SQLite's never changes once released."""

import hashlib

from relaymesh.adapters.sql_ledger_schema import MIGRATIONS, in_postgresql

# Each migration as it was released: a change to any of them would leave existing ledgers behind.
RELEASED = (
    "4962086ae780e5854b4563214f7f5ada183b310fbfee1151cb7d3c452afc045f",
    "9c7242206ab1941bbdd261b10f655756332697c99ae7cb6c601e3123507649cd",
)


def test_a_released_migration_never_changes() -> None:
    assert tuple(hashlib.sha256(each.encode()).hexdigest() for each in MIGRATIONS[: len(RELEASED)]) == RELEASED


def test_types_keys_and_placeholders_are_postgresqls() -> None:
    table = "CREATE TABLE a (number INTEGER PRIMARY KEY, b TEXT NOT NULL, c BLOB, d INTEGER) WITHOUT ROWID;"
    assert in_postgresql(table) == (
        'CREATE TABLE a (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b TEXT COLLATE "C" NOT NULL,'
        " c BYTEA, d BIGINT);"
    )
    assert in_postgresql("SELECT a WHERE +side = ? AND b BETWEEN ? AND ?") == (
        "SELECT a WHERE side = $1 AND b BETWEEN $2 AND $3"
    )


def test_no_word_of_sqlite_is_left_in_any_migration() -> None:
    for migration in MIGRATIONS:
        for word in ("ROWID", "BLOB", "INTEGER", "?"):
            assert word not in in_postgresql(migration)
