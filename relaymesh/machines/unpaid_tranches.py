"""Which rows of a node's ledger say that work was done and never paid (RM-03, "Postpay")."""

from relaymesh.machines.records import TrancheRecord, TrancheState


def is_unpaid_work(tranche: TrancheRecord) -> bool:
    """Whether the node worked for this tranche and the client let it down.

    An invoice that lapsed, or one that was not even made since the client had said that it would not pay. One that the
    node's own wallet failed to issue is nobody's debt.
    """
    if tranche.side != "node" or tranche.order not in ("postpay", "sealed"):
        return False
    is_forgone = tranche.state is TrancheState.FAILED and not tranche.invoice_label
    return tranche.state is TrancheState.EXPIRED or is_forgone
