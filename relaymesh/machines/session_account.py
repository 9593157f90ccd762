"""Prepaid session tranches: one payment that serves many small jobs (RM-03, "Session tranches").

A session's money is an account on either side. The node's `SellerAccount` (seller_account.py) asks for tranches as jobs
need them and promises them to jobs; the client's `BuyerAccount` (buyer_account.py) pays them, as long as no more is at
stake than the quote stated. Payments are made and kept as those of a job are, by the same two settlements and the same
table: the account is a job of type `session`, whose id is the session's. Here is what the two share.
"""

from dataclasses import dataclass

from relaymesh.machines.records import SESSION_ACCOUNT, JobRecord, JobState, Side
from relaymesh.machines.settlement import SettlementContract
from relaymesh.market.admission import admit_job
from relaymesh.market.pricing import MAXIMUM_TRANCHES, TranchePlan, session_exposure
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse
from relaymesh.protocol.session_messages import JobId
from relaymesh.units import AmountMsat


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What the quote's term says about a session's money.

    Args:
        tranche_msat: The most that one tranche is of; also the most that one job may cost.
        exposure_msat: The most that the buyer may have at stake: paid, and not drawn by jobs.
    """

    tranche_msat: AmountMsat
    exposure_msat: AmountMsat

    @property
    def count(self) -> int:
        """How many tranches there can be: at most 32, and no more than can be counted together."""
        return max(1, min(MAXIMUM_TRANCHES, MAXIMUM_QUANTITY // self.tranche_msat))

    @property
    def maximum_msat(self) -> AmountMsat:
        """All that a session can cost."""
        return AmountMsat(self.tranche_msat * self.count)


def read_terms(contract: SessionContract) -> SessionTerms | None:
    """The terms of a session's money; None where each job is paid by itself."""
    if contract.term.scope != "session" or not contract.term.tranche_units:
        return None
    tranche_msat = AmountMsat(contract.term.tranche_units)
    return SessionTerms(tranche_msat, min(contract.term.exposure_buyer_msat, session_exposure(tranche_msat)))


def account_record(
    side: Side, contract: SessionContract, state: JobState, created_at_ms: int, charged_msat: int = 0
) -> JobRecord:
    """The account as the ledger keeps it.

    Args:
        charged_msat: What was paid and no job drew; said when the account closes, so that over the session and its jobs
            what was paid is what was charged.
    """
    terms = read_terms(contract)
    return JobRecord(
        side=side,
        client=contract.client,
        job_id=contract.session_id,
        node=contract.node,
        session_id=contract.session_id,
        quote_id=contract.quote_event.id,
        model=contract.quote.row.model,
        job_type=SESSION_ACCOUNT,
        client_nonce="",
        maximum_msat=AmountMsat(0) if terms is None else terms.maximum_msat,
        state=state,
        created_at_ms=created_at_ms,
        charged_msat=AmountMsat(charged_msat),
    )


def agree_account(side: Side, contract: SessionContract, terms: SessionTerms) -> SettlementContract:
    """The settlement of a session's tranches, on one side: prepaid, one unit for one millisatoshi.

    What may be at stake is the account's to watch, since a settlement does not know what jobs drew.
    """
    row = contract.quote.row.model_copy(
        update={"unit": "byte", "per": 1, "input_msat": 0, "output_msat": 1, "minimum_msat": AmountMsat(0)}
    )
    return SettlementContract(
        side=side,
        client=contract.client,
        job_id=JobId(contract.session_id),
        order="prepay",
        plan=TranchePlan(row, 0, terms.maximum_msat, terms.tranche_msat),
        is_input_known=False,
        maximum_msat=terms.maximum_msat,
        maximum_stake_msat=AmountMsat(2 * terms.tranche_msat),
        lightning_node_id=contract.lightning_node_id,
    )


def admit_session_job(
    contract: SessionContract, *, input_units: int, maximum_output_units: int, maximum_msat: AmountMsat
) -> int | Refusal:
    """How much output a job of this session is granted, as `admit_job` says; none costs more than a session's tranche.

    RM-02, "Jobs", and RM-03, "Session tranches".
    """
    terms, row = read_terms(contract), contract.quote.row
    limit_msat = maximum_msat if terms is None else min(maximum_msat, terms.tranche_msat)
    granted = admit_job(
        row, input_units=input_units, maximum_output_units=maximum_output_units, maximum_msat=limit_msat
    )
    if isinstance(granted, Refusal) and granted.code is RefusalCode.OVER_BUDGET and limit_msat < maximum_msat:
        return refuse(granted.code, f"this job costs more than one of the session's tranches, {limit_msat} msat")
    return granted
