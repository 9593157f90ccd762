"""Commitments to a job's content: shown in public evidence, opened only by whoever holds the job's keys (RM-02)."""

import hmac
from collections.abc import Sequence
from typing import Self

from relaymesh.errors import LocalProtocolError
from relaymesh.protocol.key_schedule import KEY_BYTES, SessionSecrets
from relaymesh.protocol.session_messages import JobId


class JobCommitments:
    """One job's three commitment keys, derived when the job begins; they outlive the session (RM-02, "Privacy").

    Args:
        prompt_key: For the JOB's body.
        output_key: For the concatenated output.
        payment_key: For the salts of payment commitments.
    """

    __slots__ = ("_output_key", "_payment_key", "_prompt_key")

    def __init__(self, prompt_key: bytes, output_key: bytes, payment_key: bytes) -> None:
        self._prompt_key, self._output_key, self._payment_key = prompt_key, output_key, payment_key

    def __repr__(self) -> str:
        return "JobCommitments(…)"

    @classmethod
    def from_bytes(cls, keys: bytes) -> Self:
        """The commitments that `to_bytes` wrote down; LocalProtocolError if it is not 96 bytes."""
        if len(keys) != 3 * KEY_BYTES:
            raise LocalProtocolError(f"a job's commitment keys are {3 * KEY_BYTES} bytes")
        return cls(keys[:KEY_BYTES], keys[KEY_BYTES : 2 * KEY_BYTES], keys[2 * KEY_BYTES :])

    def to_bytes(self) -> bytes:
        """The three keys, for the ledger, which encrypts them."""
        return self._prompt_key + self._output_key + self._payment_key

    def commit_prompt(self, body: str) -> str:
        """HMAC-SHA256 of the JOB's body, in hex."""
        return hmac.digest(self._prompt_key, body.encode(), "sha256").hex()

    def commit_output(self, outputs: Sequence[str]) -> str:
        """HMAC-SHA256 of the whole output (all pieces joined), in hex."""
        return hmac.digest(self._output_key, "".join(outputs).encode(), "sha256").hex()

    def payment_salt(self, tranche: int) -> bytes:
        """HMAC-SHA256 of the tranche number (u32be): the 32 bytes a payment commitment is salted with."""
        return hmac.digest(self._payment_key, tranche.to_bytes(4), "sha256")


def derive_job_commitments(secrets: SessionSecrets, job_id: JobId) -> JobCommitments:
    """The job's commitment keys, from the session's secrets (RM-02, "Privacy")."""
    return JobCommitments(
        secrets.commitment_key("prompt", job_id),
        secrets.commitment_key("output", job_id),
        secrets.commitment_key("payment", job_id),
    )
