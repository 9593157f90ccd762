"""The vectors of nips/vectors/ about events and jobs: ids, commitments, sealed leaves, what content may not hold."""

import hashlib
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import EventId, UnsignedEvent
from relaymesh.protocol.content import check_content
from relaymesh.protocol.metering import commit_to_payment
from relaymesh.protocol.sealed_commitment import SealedCommitment
from relaymesh.protocol.sealed_leaves import count_text, pack_leaves
from relaymesh.protocol.session_codec import compute_job_id
from relaymesh.protocol.session_messages import JobId, SealedMessage
from relaymesh.units import AmountMsat, Timestamp
from tests.nips import (
    example_job,
    example_market,
    examples,
    fraud_vectors,
    guarantee_vectors,
    ranking_vectors,
    reputation_vectors,
    scheduler_vectors,
)
from tests.nips.contents import CONTENTS
from tests.nips.example_market import BODY, NODE, SESSION_ID

AWKWARD: Final = UnsignedEvent(
    NODE.public_key,
    Timestamp(1_800_000_000),
    1,
    (("t", "relaymesh"), ("alt", 'quote " backslash \\ slash / newline \n return \r tab \t'), ("empty", "")),
    "controls \b\f\x00\x01\x1f delete \x7f separators \u2028\u2029 accents é emoji 🤝 <&>",
)
"""Every character that serialisations get wrong."""

_CONTENTS: Final = (
    ("an empty object", "{}"),
    ("white space", ' {"a": [1, 2]}\n'),
    ("eight levels", '{"a":' + "[" * 7 + "]" * 7 + "}"),
    ("brackets in a string do not nest", '{"a":"' + "[" * 20 + '"}'),
    ("the largest integer", '{"a":9007199254740991}'),
    ("the smallest integer", '{"a":-9007199254740991}'),
    ("an escaped pair of surrogates", '{"a":"\\ud83e\\udd1d"}'),
    ("no object", "[1]"),
    ("nothing", ""),
    ("two objects", "{}{}"),
    ("a key twice", '{"a":1,"a":1}'),
    ("a key twice, escaped differently", '{"a":1,"\\u0061":1}'),
    ("nine levels", '{"a":' + "[" * 8 + "]" * 8 + "}"),
    ("a fraction", '{"a":1.0}'),
    ("an exponent", '{"a":1e3}'),
    ("minus zero", '{"a":-0}'),
    ("a leading zero", '{"a":01}'),
    ("a plus sign", '{"a":+1}'),
    ("an integer that is too large", '{"a":9007199254740992}'),
    ("an integer that is too small", '{"a":-9007199254740992}'),
    ("not a number", '{"a":NaN}'),
    ("infinity", '{"a":Infinity}'),
    ("a lone surrogate, escaped", '{"a":"\\ud83e"}'),
    ("a control character, not escaped", '{"a":"\n"}'),
    ("a trailing comma", '{"a":1,}'),
    ("a comment", '{"a":1/**/}'),
    ("single quotes", "{'a':1}"),
    ("a byte order mark", "\ufeff{}"),
)


def event_vectors() -> dict[str, Any]:
    """For each kind: the fields that are signed, the exact text that the id hashes, the id."""
    kept = {content.name: examples.events()[content.name] for content in CONTENTS}
    return {
        "rule": "id = SHA-256(serialisation in UTF-8); the signature is BIP-340 over the id (NIP-01)",
        "events": [{"name": name, **_unsigned(event), "signature": event.signature} for name, event in kept.items()],
        "awkward": {"name": "awkward characters", **_unsigned(AWKWARD)},
    }


def _unsigned(event: UnsignedEvent) -> dict[str, Any]:
    fields = {
        "pubkey": event.public_key,
        "created_at": event.created_at,
        "kind": int(event.kind),
        "tags": [list(tag) for tag in event.tags],
        "content": event.content,
    }
    return {"unsigned": fields, "serialisation": event.serialise().decode(), "id": event.compute_id()}


def commitment_vectors() -> dict[str, Any]:
    """Job id, commitment keys, and what is committed to under them, for the job of the examples."""
    exchange, _ = example_job.finish()
    secrets, job_id = example_job.session_secrets(), compute_job_id(SESSION_ID, example_job.JOB_NONCE)
    agreed = example_market.agree()
    return {
        "session_request_id": agreed.session_request.id,
        "session_accept_id": agreed.session_accept.id,
        "session_id": SESSION_ID,
        "job_nonce": example_job.JOB_NONCE.hex(),
        "job_id": job_id,
        "commitment_keys": {
            what: secrets.commitment_key(what, job_id).hex() for what in ("prompt", "output", "payment")
        },
        "body": BODY,
        "prompt_commitment": exchange.commitments.commit_prompt(BODY),
        "outputs": list(example_job.PIECES),
        "output_commitment": exchange.commitments.commit_output(example_job.PIECES),
        "payments": [
            _payment(exchange.commitments.payment_salt(tranche), tranche, payment_hash)
            for tranche, payment_hash in exchange.payment_hashes.items()
        ],
    }


def _payment(salt: bytes, tranche: int, payment_hash: str) -> dict[str, Any]:
    return {
        "tranche": tranche,
        "salt": salt.hex(),
        "payment_hash": payment_hash,
        "payment_commitment": commit_to_payment(salt, payment_hash),
    }


_SEALED: Final[tuple[tuple[str, ...], ...]] = (
    ("Sold sealed, ", "opened ", "by the preimage."),
    ('{"delta":{"tool_calls":[]}}', "é", "🤝\x00"),
    ("x" * 8_189 + "🤝", "and a piece that goes on"),
)
"""The pieces of output of three tranches; the last one is cut before the character that would cross 8,192 bytes."""


def sealed_vectors() -> dict[str, Any]:
    """Sealed tranches: pieces, leaves, their keys, the messages that carry them, and the content of the commitments."""
    quote_id, job_id = example_market.agree().quote.id, compute_job_id(SESSION_ID, example_job.JOB_NONCE)
    tranches = [_tranche(quote_id, job_id, number, pieces) for number, pieces in enumerate(_SEALED)]
    return {"quote_id": quote_id, "job_id": job_id, "tranches": tranches, "bad_leaves": _bad_leaves()}


def _tranche(quote_id: EventId, job_id: JobId, number: int, pieces: tuple[str, ...]) -> dict[str, Any]:
    secret, plaintexts = bytes(range(number, number + 32)), pack_leaves(pieces)
    leaves = [_leaf(secret, quote_id, job_id, number, leaf, text) for leaf, text in enumerate(plaintexts)]
    text_bytes = tuple(map(count_text, plaintexts))
    commitment = SealedCommitment(
        quote_id=quote_id,
        job=job_id,
        tranche=number,
        payment_hash=hashlib.sha256(secret).hexdigest(),
        leaf_sha256=tuple(leaf["leaf_sha256"] for leaf in leaves),
        leaf_bytes=text_bytes,
        units=sum(text_bytes),
        msat=AmountMsat(1_000 + number),
    )
    return {"k": secret.hex(), "pieces": list(pieces), "leaves": leaves, "commitment": commitment.to_fields()}


def _leaf(secret: bytes, quote_id: str, job_id: JobId, tranche: int, leaf: int, plaintext: bytes) -> dict[str, Any]:
    info = b"relaymesh/1 sealed" + tranche.to_bytes(4) + leaf.to_bytes(4)
    key = HKDF(SHA256(), 32, bytes.fromhex(quote_id + job_id), info).derive(secret)
    ciphertext = ChaCha20Poly1305(key).encrypt(bytes(12), plaintext, None)
    return {
        "key": key.hex(),
        "plaintext_bytes": len(plaintext),
        "plaintext_sha256": hashlib.sha256(plaintext).hexdigest(),
        "message": SealedMessage(job_id, tranche, leaf, ciphertext).to_json(),
        "leaf_sha256": hashlib.sha256(ciphertext).hexdigest(),
    }


def _bad_leaves() -> list[dict[str, Any]]:
    """Plaintexts of a tranche's only leaf that are not what `leaf_bytes` vouches for."""
    cases: tuple[tuple[str, bytes, int], ...] = (
        ("less text than stated", b"two\xff", 4),
        ("more text than stated", b"two\xff", 2),
        ("separators instead of text", b"\xff\xff\xff\xff", 3),
        ("a piece that does not end", b"two", 3),
        ("no UTF-8", b"\xc3\xff", 1),
        ("a separator within a character", b"\xc3\xff\xa9\xff", 2),
        ("an encoded surrogate", b"\xed\xa0\x80\xff", 3),
        ("an overlong encoding", b"\xc0\x80\xff", 2),
    )
    return [{"what": what, "plaintext": text.hex(), "leaf_bytes": stated} for what, text, stated in cases]


def content_vectors() -> list[dict[str, Any]]:
    """Texts that the content rules take or refuse."""
    return [{"what": what, "text": text, "is_valid": _is_valid(text)} for what, text in _CONTENTS]


def _is_valid(text: str) -> bool:
    try:
        check_content(text)
    except RemoteProtocolError:
        return False
    return True


def files() -> dict[str, Any]:
    """The content of the files in nips/vectors/ that are made here, by name."""
    return {
        "events.json": event_vectors(),
        "commitments.json": commitment_vectors(),
        "sealed.json": sealed_vectors(),
        "content.json": content_vectors(),
        "reputation.json": reputation_vectors.build(),
        "ranking.json": ranking_vectors.build(),
        "scheduler.json": scheduler_vectors.build(),
        "fraud.json": fraud_vectors.fraud_vectors(),
        "stake.json": fraud_vectors.stake_vectors(),
        "guarantee.json": guarantee_vectors.build(),
    }
