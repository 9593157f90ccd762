"""The candidate: one price of one live offer, the unit that a scheduler chooses among."""

from dataclasses import dataclass

from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.status import LabelLoad


@dataclass(frozen=True, slots=True)
class Candidate:
    """One price of one live offer, with what its node last said about itself.

    Args:
        offer: The offer.
        row: One of its rows.
        status: The node's live status; None when nothing was heard of it lately.
    """

    offer: SignedOffer
    row: PriceRow
    status: SignedStatus | None

    @property
    def load(self) -> LabelLoad | None:
        """How busy this offer's label is; None when the node does not say."""
        return None if self.status is None else self.status.status.labels.get(self.offer.label)
