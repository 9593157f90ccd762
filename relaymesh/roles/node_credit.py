"""What a node risks for a job until it is over, and what was never paid, as its ledger tells it (RM-03, "Postpay")."""

from collections.abc import Iterable

from relaymesh.machines.records import LedgerRecord, TrancheRecord
from relaymesh.machines.unpaid_tranches import is_unpaid_work
from relaymesh.market.unpaid_work import Debt, Reservation, UnpaidWork
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.units import Timestamp


def reserve_work(work: UnpaidWork, contract: SessionContract, now: Timestamp) -> Reservation | Refusal | None:
    """Take on a job of this session, or say why not; None where nothing is risked. It must be released in any case."""
    guarantee, term = contract.guarantee, contract.term
    if guarantee is not None and term.order == "postpay":
        objection = guarantee.find_objection(node=contract.node, client=contract.client, now=now)
        if objection is not None:
            return refuse(RefusalCode.PAYMENT_REQUIRED, objection)
    return work.reserve(contract.client, contract.guarantor, term.order, term.exposure_node_msat)


def note_unpaid(work: UnpaidWork, records: Iterable[LedgerRecord], guarantor: PublicKey | None) -> None:
    """Book what these records say was left unpaid: a debt of who vouched for it, or a key that is trusted no more."""
    for record in records:
        if not isinstance(record, TrancheRecord) or not is_unpaid_work(record):
            continue
        if record.order == "sealed":
            work.bar(record.client)
        elif guarantor is not None:
            job = (record.client, record.job_id)
            work.owe(Debt(guarantor, job, record.tranche, record.amount_msat))
