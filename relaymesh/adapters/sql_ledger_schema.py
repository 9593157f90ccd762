"""The ledger's tables, as plain SQL, in the order in which versions added to them.

A migration, once released, never changes; what is new comes after it. Each runs in one transaction together with the
row of `schema_version` that says so. What is written here is SQLite's; `in_postgresql` says where PostgreSQL differs.
"""

import re
from typing import Final

APPLICATION_ID: Final = 0x524D_4C47
"""`RMLG` in the database's header: tells a ledger from any other program's SQLite file."""

_FIRST: Final = """
-- `proof` is a constant sealed under the ledger's key: what does not open it is another key.
CREATE TABLE seal (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), salt BLOB NOT NULL, proof BLOB NOT NULL);

CREATE TABLE job (
    number INTEGER PRIMARY KEY,
    side TEXT NOT NULL,
    client TEXT NOT NULL,
    job_id TEXT NOT NULL,
    node TEXT NOT NULL,
    session_id TEXT NOT NULL,
    quote_id TEXT NOT NULL,
    model TEXT NOT NULL,
    job_type TEXT NOT NULL,
    client_nonce TEXT NOT NULL,
    maximum_msat INTEGER NOT NULL,
    state TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    charged_msat INTEGER NOT NULL,
    reason TEXT NOT NULL,
    output_units INTEGER NOT NULL,
    body BLOB,
    keys BLOB,
    UNIQUE (side, client, job_id)
);
CREATE INDEX job_by_id ON job (job_id);
CREATE INDEX job_by_age ON job (created_at_ms, number);
CREATE INDEX job_unresolved ON job (state) WHERE state IN ('open', 'unknown');

CREATE TABLE tranche (
    side TEXT NOT NULL,
    client TEXT NOT NULL,
    job_id TEXT NOT NULL,
    tranche INTEGER NOT NULL,
    state TEXT NOT NULL,
    settlement_order TEXT NOT NULL,
    units INTEGER NOT NULL,
    amount_msat INTEGER NOT NULL,
    invoice_label TEXT NOT NULL,
    bolt11 TEXT NOT NULL,
    payment_hash TEXT NOT NULL,
    fee_msat INTEGER NOT NULL,
    reason TEXT NOT NULL,
    preimage BLOB,
    PRIMARY KEY (side, client, job_id, tranche),
    FOREIGN KEY (side, client, job_id) REFERENCES job (side, client, job_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX tranche_by_payment ON tranche (payment_hash) WHERE side = 'client' AND payment_hash <> '';
CREATE INDEX tranche_unresolved ON tranche (side, client, job_id)
    WHERE state NOT IN ('released', 'failed', 'expired');

CREATE TABLE evidence (
    number INTEGER PRIMARY KEY,
    side TEXT NOT NULL,
    event_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    event BLOB NOT NULL,
    plaintext BLOB,
    UNIQUE (side, event_id)
);
CREATE INDEX evidence_by_job ON evidence (job_id, number);

CREATE TABLE sequence (scope TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

_SECOND: Final = """
-- What was bought before counts as opened when its job began.
ALTER TABLE tranche ADD COLUMN opened_at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE tranche SET opened_at_ms = (
    SELECT created_at_ms FROM job
    WHERE job.side = tranche.side AND job.client = tranche.client AND job.job_id = tranche.job_id
);
CREATE INDEX tranche_spent ON tranche (side, opened_at_ms, state, amount_msat, fee_msat)
    WHERE side = 'client' AND state IN ('paying', 'unknown', 'paid', 'released');

-- `leaves` are encrypted as they are delivered, each after its length in four bytes; erased, they are NULL.
CREATE TABLE sealed (
    number INTEGER PRIMARY KEY,
    side TEXT NOT NULL,
    client TEXT NOT NULL,
    job_id TEXT NOT NULL,
    tranche INTEGER NOT NULL,
    commitment BLOB NOT NULL,
    leaves BLOB,
    UNIQUE (side, client, job_id, tranche),
    FOREIGN KEY (side, client, job_id, tranche) REFERENCES tranche (side, client, job_id, tranche)
);

-- What the client's side paid beside jobs: routers' fees, and by hand.
CREATE TABLE payment (
    number INTEGER PRIMARY KEY,
    payment_hash TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    payee TEXT NOT NULL,
    description TEXT NOT NULL,
    bolt11 TEXT NOT NULL,
    amount_msat INTEGER NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    fee_msat INTEGER NOT NULL,
    reason TEXT NOT NULL,
    preimage BLOB
);
CREATE INDEX payment_by_age ON payment (opened_at_ms, state, amount_msat, fee_msat);
"""

MIGRATIONS: Final = (_FIRST, _SECOND)

_POSTGRESQL_WORDS: Final = {
    "number INTEGER PRIMARY KEY": "number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "INTEGER": "BIGINT",
    "TEXT": 'TEXT COLLATE "C"',  # compared code point by code point, as SQLite does
    "BLOB": "BYTEA",
    " WITHOUT ROWID": "",
    "+side": "side",
}
_DIFFERENCES: Final = re.compile("|".join(map(re.escape, _POSTGRESQL_WORDS)))


def in_postgresql(statement: str) -> str:
    """A statement of ours as PostgreSQL understands it: its words for types and keys, its numbered placeholders."""
    first, *others = _DIFFERENCES.sub(lambda found: _POSTGRESQL_WORDS[found.group()], statement).split("?")
    return first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))
