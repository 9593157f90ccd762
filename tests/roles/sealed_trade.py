"""A client's ledger as a crash leaves it: sealed tranches that were delivered, and paid or not, and nobody read."""

from dataclasses import dataclass

from relaymesh.machines.records import JobRecord, LedgerRecord, TrancheRecord, TrancheState
from relaymesh.machines.sealed_tranche import SealedTranche
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.lightning import InvoiceRequest, PaymentRequest
from relaymesh.ports.memory_lightning import MemoryLightning, MemoryWallet
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import AmountMsat, Timestamp
from tests.conformance.ledger.records import make_job
from tests.machines.pair import CLIENT, NODE
from tests.machines.sealed import CONTRACT, JOB_ID, deliver, invoice_for, purchase, seal

AMOUNT_MSAT = AmountMsat(10)
TEXTS = (("Sold ", "sealed, "), ("opened ", "by the ", "préimage 🤝."))


@dataclass
class Trade:
    """What a job of two sealed tranches left behind.

    Args:
        sealed: The tranches as the node sealed them.
        rows: Their rows in the client's ledger, as PAYING.
        records: All that the client's ledger has.
    """

    job: JobRecord
    sealed: list[SealedTranche]
    rows: list[TrancheRecord]
    records: list[LedgerRecord]


def trade(job_id: JobId = JOB_ID, texts: tuple[tuple[str, ...], ...] = TEXTS) -> Trade:
    """A job whose tranches are all delivered and on their way to be paid."""
    job = make_job(client=CLIENT.public_key, job_id=job_id, node=NODE.public_key, quote_id=CONTRACT.quote_event.id)
    found = Trade(job, [], [], [job])
    for number, pieces in enumerate(texts):
        sealed, bought = seal(*pieces, tranche=number, amount_msat=AMOUNT_MSAT), purchase(number)
        deliver(sealed, bought)
        row = TrancheRecord(
            side="client",
            client=CLIENT.public_key,
            job_id=job_id,
            tranche=number,
            state=TrancheState.PAYING,
            order="sealed",
            units=bought.text_bytes,
            amount_msat=AMOUNT_MSAT,
            bolt11=f"lnbcrt1sealed{number}",
            payment_hash=sealed.payment_hash,
        )
        found.sealed.append(sealed)
        found.rows.append(row)
        found.records += [row, *bought.records()]
    return found


async def keep(ledger: Ledger, traded: Trade) -> None:
    """Write it."""
    await ledger.write(tuple(traded.records))


async def pay(sealed: SealedTranche, buyer: MemoryWallet, seller: MemoryWallet) -> None:
    """Pay a tranche as the client would have, with the key as the preimage."""
    label = f"relaymesh/{sealed.job_id[:32]}/{sealed.tranche}"
    issued = await seller.create_invoice(InvoiceRequest(label, AMOUNT_MSAT, "RelayMesh job", 60, sealed.secret))
    assert issued.payment_hash == sealed.payment_hash == invoice_for(sealed).payment_hash
    await buyer.pay(PaymentRequest(issued.bolt11, issued.payment_hash, AmountMsat(10), 500))


def wallets() -> tuple[MemoryWallet, MemoryWallet]:
    """A buyer with money, and a seller."""
    lightning = MemoryLightning(clock=lambda: Timestamp(1_800_000_000))
    return lightning.wallet("buyer", 1_000_000), lightning.wallet("seller")
