"""Columns: the live prices of one part of the market, kept so that choosing among ten thousand takes a millisecond.

How a `Directory` feeds them: one `MarketColumns` for each (model, job type) that it indexes, and one for each
(None, job type). When an offer comes, `place` it with the node's live status and standing in every one that it belongs
to; when it goes, `remove` it there; on a new status or standing of a node, `set_status` and `set_standing` in every one
that holds an offer of that node. Each of these costs the same however many prices there are. An offer is known by its
event id: place what replaces it, and remove it.

Hold integers, names and ids, and no offer or status: a directory has a hundred thousand nodes in less than a gigabyte,
because it keeps their events packed, and `recall` reads again what is looked at. The few that are chosen are recalled;
the excluded and the runners-up are told from the columns.

`select` chooses exactly what `relaymesh.market.selection.select` chooses among the same candidates, standings included.
"""

from collections.abc import Callable, Iterator

from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import BuyerRequest
from relaymesh.market.policy import CHEAPEST, Policy
from relaymesh.market.selection import Selection, select
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.fields import JobType
from relaymesh.units import Timestamp

Recall = Callable[[EventId], tuple[SignedOffer, SignedStatus | None]]
"""Reads a live offer, and its node's live status, again."""


class MarketColumns:
    """The prices of one part of the market.

    Args:
        model: The model whose prices are kept; None keeps those of all models.
        job_type: The job type whose prices are kept.
        recall: Reads an offer that is placed here again.
    """

    def __init__(self, model: str | None, job_type: JobType, recall: Recall) -> None:
        self._model, self._job_type, self._recall = model, job_type, recall
        self._offers: dict[EventId, SignedOffer] = {}
        self._statuses: dict[PublicKey, SignedStatus | None] = {}
        self._standings: dict[PublicKey, Standing] = {}

    def __len__(self) -> int:
        """How many prices there are."""
        return sum(1 for _ in self._candidates())

    def place(self, offer: SignedOffer, status: SignedStatus | None, standing: Standing = UNKNOWN) -> None:
        """Take in the rows of an offer that belong here; nothing happens if there are none or the offer is known."""
        self._offers[offer.event.id] = offer
        self._statuses[offer.node], self._standings[offer.node] = status, standing

    def remove(self, offer_id: EventId) -> None:
        """Forget an offer; nothing happens if it is not here."""
        self._offers.pop(offer_id, None)

    def set_status(self, node: PublicKey, status: SignedStatus | None) -> None:
        """Note what a node now says about itself; None when its status has ended."""
        self._statuses[node] = status

    def set_standing(self, node: PublicKey, standing: Standing) -> None:
        """Note what is now known about a node."""
        self._standings[node] = standing

    def select(
        self, request: BuyerRequest, *, seed: bytes, count: int, now: Timestamp, policy: Policy = CHEAPEST
    ) -> Selection:
        """Choose the best `count` nodes; see `relaymesh.market.selection.select`."""
        standings = self._standings
        return select(self._candidates(), request, seed=seed, count=count, now=now, policy=policy, standings=standings)

    def _candidates(self) -> Iterator[Candidate]:
        for offer in self._offers.values():
            for row in offer.offer.rows:
                if self._job_type in row.job_types and self._model in (None, row.model):
                    yield Candidate(offer, row, self._statuses[offer.node])
