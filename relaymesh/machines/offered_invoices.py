"""The invoices of one job, as they come in at the client and go on to its settlement (RM-03, "Settlement")."""

from relaymesh.machines.client_output import ClientOutput
from relaymesh.machines.job_events import ReadInvoice
from relaymesh.machines.records import LedgerRecord
from relaymesh.machines.settlement import InvoiceOffered
from relaymesh.protocol.payment import DecodedInvoice, InvoiceReading
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import ErrorMessage, InvoiceMessage, JobId


class OfferedInvoices:
    """One invoice per tranche; what does not fit what was delivered is refused before the settlement looks at it."""

    def __init__(self) -> None:
        self._messages: dict[int, InvoiceMessage] = {}

    @property
    def is_empty(self) -> bool:
        """Whether none came yet."""
        return not self._messages

    def take(self, message: InvoiceMessage) -> ReadInvoice | Refusal | None:
        """What to do about an INVOICE: decode it, refuse it, or nothing where it was sent again after a reconnect."""
        known = self._messages.get(message.tranche)
        if known is None:
            self._messages[message.tranche] = message
            return ReadInvoice(message.tranche, message.bolt11)
        return None if known == message else refuse(RefusalCode.PAYMENT_MISMATCH, "a tranche is invoiced once")

    def offer(self, tranche: int, decoded: InvoiceReading, output: ClientOutput) -> InvoiceOffered | Refusal | None:
        """What the settlement is to decide on, once the invoice is decoded."""
        message = self._messages.get(tranche)
        if message is None:
            return None
        records: tuple[LedgerRecord, ...] = ()
        if output.sealed is not None and isinstance(decoded, DecodedInvoice):
            mismatch = output.sealed.find_mismatch(tranche, decoded, message)
            if mismatch is not None:
                return refuse(RefusalCode.PAYMENT_MISMATCH, mismatch)
            records = output.sealed.records(tranche)
        return InvoiceOffered(
            tranche=tranche,
            order=message.order,
            amount_msat=message.msat,
            units=message.units,
            bolt11=message.bolt11,
            decoded=decoded,
            delivered_bytes=output.bytes_in_hand,
            records=records,
        )


def farewell(job_id: JobId, refusal: Refusal) -> ErrorMessage:
    """What the node is told of why the client gives up; what wallet and limits say is the client's own affair."""
    if refusal.code in (RefusalCode.PAYMENT_REQUIRED, RefusalCode.OVER_BUDGET):
        refusal = refuse(RefusalCode.PAYMENT_REQUIRED, "the client did not pay")
    return ErrorMessage(job_id, refusal, refusal.is_retryable)
