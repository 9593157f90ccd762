"""The node's sealed tranches of one job: one at a time, counted once it is paid (RM-03, "Sealed delivery")."""

from dataclasses import replace

from relaymesh.machines.job_events import RunnerProduced
from relaymesh.machines.job_metering import JobMeter
from relaymesh.machines.node_delivery import Seal
from relaymesh.machines.records import SealedRecord
from relaymesh.machines.sealed_tranche import SealedTranche, seal_tranche, tranche_secret
from relaymesh.nostr.event import Signer
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.session_messages import JobId, SessionMessage
from relaymesh.units import Moment


class SealedSale:
    """Seals tranches and remembers which output they held.

    Args:
        contract: The session's.
        job_id: The job.
        sealing_secret: 32 random bytes of this job alone.
        signer: The node's key.
        meter: Told of the output of a tranche that was paid for.
    """

    def __init__(
        self, contract: SessionContract, job_id: JobId, sealing_secret: bytes, signer: Signer, meter: JobMeter
    ) -> None:
        self._contract, self._job_id, self._secret, self._signer = contract, job_id, sealing_secret, signer
        self._meter = meter
        self._unpaid: tuple[SealedTranche, tuple[RunnerProduced, ...], Moment] | None = None
        self._outputs: set[int] = set()
        self._kept: list[SealedRecord] = []

    def seal(self, step: Seal, tranche: int, now: Moment) -> SealedTranche:
        """Seal the next tranche."""
        sealed = seal_tranche(
            self._contract,
            self._job_id,
            tranche,
            [piece.data for piece in step.pieces],
            units=step.units,
            amount_msat=step.amount_msat,
            secret=tranche_secret(self._secret, tranche),
            signer=self._signer,
            now=now,
        )
        self._unpaid = (sealed, step.pieces, now)
        self._kept.append(sealed.records()[0])
        return sealed

    def count(self) -> None:
        """The tranche is paid, if there is one: its preimage opens it, so it was delivered when it was sent."""
        if self._unpaid is None:
            return
        _, pieces, sealed_at = self._unpaid
        self._unpaid = None
        for piece in pieces:
            self._outputs.add(len(self._meter.outputs))
            self._meter.add_output(piece.data, piece.tokens, sealed_at)

    def erasure(self) -> tuple[SealedRecord, ...]:
        """The records of all tranches without what was in them: the ledger forgets a job's output with its end."""
        kept, self._kept = self._kept, []
        return tuple(replace(record, leaves=()) for record in kept)

    def holds(self, number: int) -> bool:
        """Whether this output was delivered sealed: who paid for it has it."""
        return number in self._outputs

    def messages(self) -> tuple[SessionMessage, ...]:
        """What to send again after a reconnect: the tranche that waits to be paid, byte for byte."""
        return () if self._unpaid is None else self._unpaid[0].messages()
