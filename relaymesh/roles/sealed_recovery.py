"""What was bought sealed and never read: opened from the wallet's preimage and the leaves that were kept (RM-03).

It needs neither the node nor a relay. Nothing is paid here, and nothing is forgotten until whoever asked has the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.records import JobRecord, SealedRecord, TrancheRecord
from relaymesh.machines.recovery import IN_DOUBT_STATES
from relaymesh.ports.ledger import JobQuery, Ledger, LedgerJob
from relaymesh.ports.lightning import (
    Payer,
    PaymentAbsent,
    PaymentFailed,
    PaymentLookup,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.protocol.sealed_commitment import read_sealed_commitment
from relaymesh.protocol.sealed_leaves import open_leaves
from relaymesh.roles.recovery import MOST_JOBS, recover_client


class Opening(Enum):
    """What became of one sealed tranche that was kept."""

    OPENED = "opened"
    UNKNOWN = "unknown"
    NOT_PAID = "not paid"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class OpenedTranche:
    """One sealed tranche that was kept.

    Args:
        sealed: As it was kept.
        opening: What became of it.
        pieces: The pieces of output, in order; empty unless it was opened.
        sentence: Why it was not; empty if it was.
        is_final: Whether it will never be opened, because the wallet says that it was not paid.
    """

    sealed: SealedRecord
    opening: Opening
    pieces: tuple[str, ...] = ()
    sentence: str = ""
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """One job with all its sealed tranches that were kept, in order."""

    job: JobRecord
    tranches: tuple[OpenedTranche, ...]

    @property
    def pieces(self) -> tuple[str, ...]:
        """The output that could be opened."""
        return tuple(piece for tranche in self.tranches for piece in tranche.pieces)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Why the rest could not."""
        return tuple(tranche.sentence for tranche in self.tranches if tranche.sentence)


async def needs_wallet(ledger: Ledger, job_id: str | None = None) -> bool:
    """Whether some tranche that was kept sealed has no preimage in the ledger yet; `job_id` may be how an id begins."""
    kept = await _find_kept(ledger, job_id)
    return any(_find_row(found, sealed).preimage is None for found, seals in kept for sealed in seals)


async def open_sealed_jobs(ledger: Ledger, wallet: Payer | None, job_id: str | None = None) -> tuple[OpenedJob, ...]:
    """Settle what is open in the client's ledger, and open what was delivered sealed and is still kept, oldest first.

    Args:
        ledger: The client's.
        wallet: The wallet that paid: it is asked, and nothing is paid. None where none is at hand.
        job_id: This job, or those whose id begins so; all if None.
    """
    await recover_client(ledger, wallet)
    opened = []
    for found, seals in reversed(await _find_kept(ledger, job_id)):
        tranches = [await _open(_find_row(found, sealed), sealed, wallet) for sealed in seals]
        opened.append(OpenedJob(found.job, tuple(tranches)))
    return tuple(opened)


async def forget_sealed(ledger: Ledger, jobs: Sequence[OpenedJob]) -> None:
    """Erase the leaves of what was opened and handed out, and of what was certainly never paid; the rest stays."""
    erased = tuple(
        replace(tranche.sealed, leaves=())
        for job in jobs
        for tranche in job.tranches
        if tranche.opening is Opening.OPENED or tranche.is_final
    )
    if erased:
        await ledger.write(erased)


async def _find_kept(ledger: Ledger, job_id: str | None) -> list[tuple[LedgerJob, tuple[SealedRecord, ...]]]:
    kept = []
    for found in await ledger.find_jobs(JobQuery(side="client", job_id=job_id, limit=MOST_JOBS)):
        if any(tranche.order == "sealed" for tranche in found.tranches):
            seals = await ledger.find_sealed("client", found.job.client, found.job.job_id)
            if any(sealed.leaves for sealed in seals):
                kept.append((found, tuple(sealed for sealed in seals if sealed.leaves)))
    return kept


def _find_row(found: LedgerJob, sealed: SealedRecord) -> TrancheRecord:
    """The tranche's row: the ledger keeps no sealed tranche without."""
    return next(tranche for tranche in found.tranches if tranche.tranche == sealed.tranche)


async def _open(tranche: TrancheRecord, sealed: SealedRecord, wallet: Payer | None) -> OpenedTranche:
    preimage, number = tranche.preimage, tranche.tranche
    if preimage is None:
        lookup = await _ask(tranche, wallet)
        if not isinstance(lookup, PaymentSucceeded):
            return _tell_unpaid(tranche, sealed, lookup)
        preimage = lookup.preimage
    try:
        pieces = open_leaves(read_sealed_commitment(sealed.commitment).commitment, sealed.leaves, preimage)
    except RemoteProtocolError as error:
        advice = f"`relaymesh fraud prove {tranche.job_id[:16]}` makes a proof of it"
        return OpenedTranche(sealed, Opening.BAD, sentence=f"tranche {number} was paid, but {error}; {advice}")
    return OpenedTranche(sealed, Opening.OPENED, pieces)


async def _ask(tranche: TrancheRecord, wallet: Payer | None) -> PaymentLookup:
    """What the wallet says of the payment, also where it said earlier that there is none: it may have been another."""
    if wallet is None:
        return PaymentUnknown("no wallet is connected")
    return await wallet.lookup_payment(tranche.payment_hash)


def _tell_unpaid(tranche: TrancheRecord, sealed: SealedRecord, lookup: PaymentLookup) -> OpenedTranche:
    number = tranche.tranche
    match lookup:
        case PaymentUnknown(reason) if tranche.state in IN_DOUBT_STATES:
            sentence = f"nobody can say yet whether tranche {number} was paid ({reason}): ask again later"
            return OpenedTranche(sealed, Opening.UNKNOWN, sentence=sentence)
        case PaymentFailed(_, reason):
            sentence = f"tranche {number} was not paid, and nothing was lost: {reason}"
            return OpenedTranche(sealed, Opening.NOT_PAID, sentence=sentence, is_final=True)
        case PaymentAbsent():
            sentence = f"tranche {number} was not paid by this wallet; if another one was connected then, connect it"
            return OpenedTranche(sealed, Opening.NOT_PAID, sentence=sentence)
        case _:
            sentence = f"tranche {number} was not paid as far as is known: {tranche.reason or 'it was never sent'}"
            return OpenedTranche(sealed, Opening.NOT_PAID, sentence=sentence)
