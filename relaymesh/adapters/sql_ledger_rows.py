"""Records as rows of the ledger's tables and back; here sensitive fields are sealed and opened."""

from typing import Any, Final

import orjson

from relaymesh.adapters.ledger_encryption import LedgerCipher
from relaymesh.errors import LedgerError, RemoteProtocolError
from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    JobState,
    PaymentRecord,
    SealedRecord,
    Side,
    TrancheRecord,
    TrancheState,
)
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent, parse_event
from relaymesh.nostr.keys import verify
from relaymesh.ports.ledger import PaidMinute
from relaymesh.units import MILLISECONDS_PER_MINUTE, AmountMsat

Row = tuple[Any, ...]

_LENGTH_BYTES: Final = 4
_SIDES: Final[dict[str, Side]] = {"client": "client", "node": "node"}

GET_JOBS: Final = """
SELECT number, side, client, job_id, node, session_id, quote_id, model, job_type, client_nonce,
       maximum_msat, state, created_at_ms, charged_msat, reason, output_units, body, keys
FROM job
"""
PUT_JOB: Final = """
INSERT INTO job (side, client, job_id, node, session_id, quote_id, model, job_type, client_nonce,
                 maximum_msat, state, created_at_ms, charged_msat, reason, output_units, body, keys)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (side, client, job_id) DO UPDATE SET
    node = excluded.node, session_id = excluded.session_id, quote_id = excluded.quote_id, model = excluded.model,
    job_type = excluded.job_type, client_nonce = excluded.client_nonce, maximum_msat = excluded.maximum_msat,
    state = excluded.state, created_at_ms = excluded.created_at_ms, charged_msat = excluded.charged_msat,
    reason = excluded.reason, output_units = excluded.output_units, body = excluded.body, keys = excluded.keys
"""

GET_ALL_TRANCHES: Final = """
SELECT side, client, job_id, tranche, state, settlement_order, units, amount_msat, invoice_label, bolt11, payment_hash,
       fee_msat, reason, preimage, opened_at_ms
FROM tranche
"""
GET_TRANCHES: Final = (
    GET_ALL_TRANCHES + "WHERE side = ? AND client = ? AND job_id = ? AND tranche BETWEEN ? AND ? ORDER BY tranche"
)
PUT_TRANCHE: Final = """
INSERT INTO tranche (side, client, job_id, tranche, state, settlement_order, units, amount_msat, invoice_label, bolt11,
                     payment_hash, fee_msat, reason, preimage, opened_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (side, client, job_id, tranche) DO UPDATE SET
    state = excluded.state, settlement_order = excluded.settlement_order, units = excluded.units,
    amount_msat = excluded.amount_msat, invoice_label = excluded.invoice_label, bolt11 = excluded.bolt11,
    payment_hash = excluded.payment_hash, fee_msat = excluded.fee_msat, reason = excluded.reason,
    preimage = excluded.preimage, opened_at_ms = excluded.opened_at_ms
"""

GET_SEALED: Final = "SELECT number, side, client, job_id, tranche, commitment, leaves FROM sealed"
PUT_SEALED: Final = """
INSERT INTO sealed (side, client, job_id, tranche, commitment, leaves) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (side, client, job_id, tranche) DO UPDATE SET leaves = excluded.leaves
"""

GET_PAYMENTS: Final = """
SELECT number, payment_hash, state, payee, description, bolt11, amount_msat, opened_at_ms, fee_msat, reason, preimage
FROM payment
"""
PUT_PAYMENT: Final = """
INSERT INTO payment (payment_hash, state, payee, description, bolt11, amount_msat, opened_at_ms, fee_msat, reason,
                     preimage)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (payment_hash) DO UPDATE SET
    state = excluded.state, payee = excluded.payee, description = excluded.description, bolt11 = excluded.bolt11,
    amount_msat = excluded.amount_msat, opened_at_ms = excluded.opened_at_ms, fee_msat = excluded.fee_msat,
    reason = excluded.reason, preimage = excluded.preimage
"""

GET_EVIDENCE: Final = "SELECT number, side, job_id, event, plaintext FROM evidence"
PUT_EVIDENCE: Final = """
INSERT INTO evidence (side, event_id, job_id, event, plaintext) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (side, event_id) DO UPDATE SET plaintext = excluded.plaintext
"""


class RecordRows:
    """Turns records into the values of their rows, and rows into records.

    Args:
        cipher: Seals what is sensitive.
    """

    def __init__(self, cipher: LedgerCipher) -> None:
        self._cipher = cipher

    def of_job(self, job: JobRecord) -> Row:
        """The values of a job's row, as `PUT_JOB` takes them."""
        place = (job.side, job.client, job.job_id)
        return (
            job.side,
            job.client,
            job.job_id,
            job.node,
            job.session_id,
            job.quote_id,
            job.model,
            job.job_type,
            job.client_nonce,
            job.maximum_msat,
            job.state.value,
            job.created_at_ms,
            job.charged_msat,
            job.reason,
            job.output_units,
            self._seal(job.body.encode(), "job", "body", *place),
            self._seal(job.keys, "job", "keys", *place),
        )

    def read_job(self, row: Row) -> JobRecord:
        """The job in a row that `GET_JOBS` found, its number left out; LedgerError if it is none."""
        side, client, job_id, node, session_id, quote_id, model, job_type, client_nonce, maximum_msat, *rest = row
        state, created_at_ms, charged_msat, reason, output_units, body, keys = rest
        return JobRecord(
            side=_read_side(side),
            client=PublicKey(client),
            job_id=job_id,
            node=PublicKey(node),
            session_id=session_id,
            quote_id=EventId(quote_id),
            model=model,
            job_type=job_type,
            client_nonce=client_nonce,
            maximum_msat=AmountMsat(maximum_msat),
            state=_read_job_state(state),
            created_at_ms=created_at_ms,
            charged_msat=AmountMsat(charged_msat),
            reason=reason,
            output_units=output_units,
            body=self._open(body, "job", "body", side, client, job_id).decode(),
            keys=self._open(keys, "job", "keys", side, client, job_id),
        )

    def of_tranche(self, tranche: TrancheRecord) -> Row:
        """The values of a tranche's row, as `PUT_TRANCHE` takes them."""
        key = (tranche.side, tranche.client, tranche.job_id, tranche.tranche)
        sealed = self._seal(tranche.preimage or b"", "tranche", "preimage", *key)
        return (
            *key,
            tranche.state.value,
            tranche.order,
            tranche.units,
            tranche.amount_msat,
            tranche.invoice_label,
            tranche.bolt11,
            tranche.payment_hash,
            tranche.fee_msat,
            tranche.reason,
            sealed,
            tranche.opened_at_ms,
        )

    def read_tranche(self, row: Row) -> TrancheRecord:
        """The tranche in a row that `GET_TRANCHES` found; LedgerError if it is none."""
        side, client, job_id, number, state, order, units, amount_msat, label, bolt11, payment_hash, *rest = row
        fee_msat, reason, sealed, opened_at_ms = rest
        preimage = self._open(sealed, "tranche", "preimage", side, client, job_id, number)
        return TrancheRecord(
            side=_read_side(side),
            client=PublicKey(client),
            job_id=job_id,
            tranche=number,
            state=_read_tranche_state(state),
            order=order,
            units=units,
            amount_msat=AmountMsat(amount_msat),
            invoice_label=label,
            bolt11=bolt11,
            payment_hash=payment_hash,
            fee_msat=AmountMsat(fee_msat),
            reason=reason,
            preimage=preimage or None,
            opened_at_ms=opened_at_ms,
        )

    def of_sealed(self, sealed: SealedRecord) -> Row:
        """The values of a sealed tranche's row, as `PUT_SEALED` takes them; its leaves are ciphertext already."""
        leaves = b"".join(len(leaf).to_bytes(_LENGTH_BYTES, "big") + leaf for leaf in sealed.leaves)
        key = (sealed.side, sealed.client, sealed.job_id, sealed.tranche)
        return *key, orjson.dumps(sealed.commitment.to_json()), leaves or None

    def read_sealed(self, row: Row) -> SealedRecord:
        """The sealed tranche in a row that `GET_SEALED` found, its number left out; the signature is checked anew.

        Raises:
            LedgerError: It is none.
        """
        side, client, job_id, tranche, document, leaves = row
        commitment = _read_event(document, "a sealed commitment")
        return SealedRecord(_read_side(side), PublicKey(client), job_id, tranche, commitment, _read_leaves(leaves))

    def of_payment(self, payment: PaymentRecord) -> Row:
        """The values of a payment's row, as `PUT_PAYMENT` takes them."""
        return (
            payment.payment_hash,
            payment.state.value,
            payment.payee,
            payment.description,
            payment.bolt11,
            payment.amount_msat,
            payment.opened_at_ms,
            payment.fee_msat,
            payment.reason,
            self._seal(payment.preimage or b"", "payment", "preimage", payment.payment_hash),
        )

    def read_payment(self, row: Row) -> PaymentRecord:
        """The payment in a row that `GET_PAYMENTS` found, its number left out; LedgerError if it is none."""
        payment_hash, state, payee, description, bolt11, amount_msat, opened_at_ms, fee_msat, reason, sealed = row
        preimage = self._open(sealed, "payment", "preimage", payment_hash)
        return PaymentRecord(
            payment_hash=payment_hash,
            state=_read_tranche_state(state),
            payee=payee,
            description=description,
            bolt11=bolt11,
            amount_msat=AmountMsat(amount_msat),
            opened_at_ms=opened_at_ms,
            fee_msat=AmountMsat(fee_msat),
            reason=reason,
            preimage=preimage or None,
        )

    def of_evidence(self, evidence: EvidenceRecord) -> Row:
        """The values of an evidence row, as `PUT_EVIDENCE` takes them."""
        event = evidence.event
        plaintext = self._seal(evidence.plaintext.encode(), "evidence", "plaintext", evidence.side, event.id)
        return evidence.side, event.id, evidence.job_id, orjson.dumps(event.to_json()), plaintext

    def read_evidence(self, row: Row) -> EvidenceRecord:
        """The evidence in a row that `GET_EVIDENCE` found, its number left out.

        The signature is checked anew: who can write to the file must not be able to make evidence.

        Raises:
            LedgerError: It is no event, or not the one that was signed.
        """
        side, job_id, document, sealed = row
        event = _read_event(document, "a piece of evidence")
        plaintext = self._open(sealed, "evidence", "plaintext", side, event.id).decode()
        return EvidenceRecord(_read_side(side), job_id, event, plaintext)

    def _seal(self, value: bytes, *place: str | int) -> bytes | None:
        return self._cipher.seal(value, *place) if value else None

    def _open(self, sealed: object, *place: str | int) -> bytes:
        if sealed is None:
            return b""
        if not isinstance(sealed, bytes):
            raise _unknown_word()
        return self._cipher.open(sealed, *place)


def read_paid_minute(row: Row) -> PaidMinute:
    """A minute and what was paid in it."""
    minute, paid_msat = row
    return PaidMinute(int(minute) * MILLISECONDS_PER_MINUTE, AmountMsat(int(paid_msat)))


def _read_event(document: bytes | str, what: str) -> VerifiedEvent:
    try:
        return verify(parse_event(orjson.loads(document)))
    except (orjson.JSONDecodeError, RemoteProtocolError) as error:
        raise LedgerError(f"{what} in the ledger does not verify: its file was altered") from error


def _read_leaves(stored: object) -> tuple[bytes, ...]:
    if stored is None:
        return ()
    if not isinstance(stored, bytes):
        raise _unknown_word()
    leaves, start = [], 0
    while start < len(stored):
        end = start + _LENGTH_BYTES + int.from_bytes(stored[start : start + _LENGTH_BYTES], "big")
        if end > len(stored):
            raise LedgerError("the leaves of a sealed tranche in the ledger are cut off: its file was altered")
        leaves.append(stored[start + _LENGTH_BYTES : end])
        start = end
    return tuple(leaves)


def _read_side(text: str) -> Side:
    try:
        return _SIDES[text]
    except KeyError:
        raise _unknown_word() from None


def _read_job_state(text: str) -> JobState:
    try:
        return JobState(text)
    except ValueError:
        raise _unknown_word() from None


def _read_tranche_state(text: str) -> TrancheState:
    try:
        return TrancheState(text)
    except ValueError:
        raise _unknown_word() from None


def _unknown_word() -> LedgerError:
    return LedgerError("a row of the ledger holds a word that RelayMesh never writes: its file was altered")
