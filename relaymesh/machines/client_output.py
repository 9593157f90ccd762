"""A job's output as it comes in at the client: in clear or sealed, always in order (RM-02, "Messages")."""

from typing import Final

from relaymesh.machines.job_outcome import JobObservation
from relaymesh.machines.records import EvidenceRecord, SealedRecord
from relaymesh.machines.sealed_deliveries import SealedDeliveries
from relaymesh.protocol.session_messages import CommitmentMessage, OutputMessage, SealedMessage
from relaymesh.units import Moment

CREDIT_BYTES: Final = 256 * 1024


class ClientOutput:
    """Puts output into its order, and counts it.

    Args:
        observation: Told of every piece.
        sealed: The sealed tranches; None where output comes in clear.
    """

    def __init__(self, observation: JobObservation, sealed: SealedDeliveries | None) -> None:
        self.sealed = sealed
        self._observation = observation
        self._early: dict[int, str] = {}
        self._uncredited_bytes = 0

    @property
    def bytes_in_hand(self) -> int:
        """All that came, whether it can be read yet or not."""
        unopened = 0 if self.sealed is None else self.sealed.unopened_bytes
        return self._observation.output_bytes + unopened + sum(len(data.encode()) for data in self._early.values())

    def take(
        self, message: OutputMessage | SealedMessage | CommitmentMessage, paid: int, now: Moment
    ) -> tuple[str, ...]:
        """The pieces of output that can be read now.

        Args:
            paid: How many tranches were paid or are being paid.

        Raises:
            RemoteProtocolError: It cannot be part of what was agreed.
        """
        if not isinstance(message, OutputMessage):
            if self.sealed is not None:
                self.sealed.take(message, paid, now)
            return ()
        if self.sealed is not None and self.sealed.is_unopened:
            self._early.setdefault(message.number, message.data)  # what costs nothing comes in clear, and in its turn
            return ()
        return self._take_clear(message.number, message.data, now)

    def open(self, tranche: int, preimage: bytes, now: Moment) -> tuple[str, ...]:
        """The pieces of a sealed tranche that was paid for, and of what came after it in clear.

        Raises:
            RemoteProtocolError: What was sold is not what was committed to.
        """
        assert self.sealed is not None
        pieces = self.sealed.open(tranche, preimage)
        for piece in pieces:
            self._observation.add_output(piece, now)
        while (number := len(self._observation.outputs)) in self._early:
            pieces += self._take_clear(number, self._early.pop(number), now)
        return pieces

    def take_credit(self) -> int | None:
        """The bytes that the node may be granted anew; None while it has enough."""
        if self._uncredited_bytes < CREDIT_BYTES // 2:
            return None
        granted, self._uncredited_bytes = self._uncredited_bytes, 0
        return granted

    def evidence(self) -> list[EvidenceRecord]:
        """What the node committed to."""
        return [] if self.sealed is None else self.sealed.evidence()

    def erasure(self) -> tuple[SealedRecord, ...]:
        """What to write once the buyer has read everything."""
        return () if self.sealed is None else self.sealed.erasure()

    def _take_clear(self, number: int, data: str, now: Moment) -> tuple[str, ...]:
        if number != len(self._observation.outputs):
            return ()  # sent again after a reconnect
        self._uncredited_bytes += self._observation.add_output(data, now)
        return (data,)
