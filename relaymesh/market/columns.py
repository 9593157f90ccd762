"""Columns: the live prices of one part of the market, kept so that choosing among ten thousand takes a millisecond.

How a `Directory` feeds them: one `MarketColumns` for each (model, job type) that it indexes, and one for each
(None, job type). When an offer comes, `place` it with the node's live status and standing in every one that it belongs
to; when it goes, `remove` it there; on a new status or standing of a node, `set_status` and `set_standing` in every one
that holds an offer of that node. Each of these costs the same however many prices there are. An offer is known by its
event id: place what replaces it, and remove it.

They hold facts, and no offer or status: a directory has a hundred thousand nodes in less than a gigabyte because it
keeps their events packed, and `recall` reads again what is looked at. The few that are chosen are recalled; the
excluded and the runners-up are told from the facts, which are immutable, when somebody asks.

`select` chooses exactly what `relaymesh.market.selection.select` chooses among the same candidates, standings included.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from relaymesh.market import column_arithmetic as arithmetic
from relaymesh.market.candidate import Candidate
from relaymesh.market.column_arithmetic import Column, Integers
from relaymesh.market.column_choice import Scored, best_rows, tell_eligible, tell_excluded
from relaymesh.market.facts import Facts, load_of, price_facts
from relaymesh.market.policy import BALANCED, Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Selection, check_count, to_choice
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.market.trait_codes import TraitCodes
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.fields import JobType
from relaymesh.units import Timestamp

Recall = Callable[[EventId], tuple[SignedOffer, SignedStatus | None]]
"""Reads a live offer, and its node's live status, again; KeyError when it is gone."""

_FIRST_CAPACITY = 16


class MarketColumns:
    """The prices of one part of the market.

    Args:
        model: The model whose prices are kept; None keeps those of all models.
        job_type: The job type whose prices are kept.
        recall: Reads an offer that is placed here again.
    """

    def __init__(self, model: str | None, job_type: JobType, recall: Recall) -> None:
        self._model, self._job_type, self._recall = model, job_type, recall
        self._facts: list[Facts] = []
        self._integers: Integers = np.zeros((len(Column), _FIRST_CAPACITY), np.int64)
        self._rings = np.zeros(_FIRST_CAPACITY, np.uint64)
        self._traits = TraitCodes()
        # Tuples, since nearly all have one row, and a set would take more memory than all that is known of it.
        self._rows_of_offer: dict[EventId, tuple[int, ...]] = {}
        self._rows_of_node: dict[PublicKey, tuple[int, ...]] = {}
        self._crowded: set[PublicKey] = set()  # nodes with several prices here

    def __len__(self) -> int:
        """How many prices there are."""
        return len(self._facts)

    def place(self, offer: SignedOffer, status: SignedStatus | None, standing: Standing = UNKNOWN) -> None:
        """Take in the rows of an offer that belong here; nothing happens if there are none or the offer is known."""
        if offer.event.id in self._rows_of_offer:
            return
        load = load_of(offer.label, status)
        rows = offer.offer.rows
        # A row that an offer repeats is the same price once more: its place is that of the first.
        places = (
            rows.index(row) for row in rows if self._job_type in row.job_types and self._model in (None, row.model)
        )
        for position in dict.fromkeys(places):
            self._append(price_facts(offer, position, load, standing))

    def remove(self, offer_id: EventId) -> None:
        """Forget an offer; nothing happens if it is not here."""
        for _ in range(len(self._rows_of_offer.get(offer_id, ()))):
            self._drop(next(iter(self._rows_of_offer[offer_id])))

    def set_status(self, node: PublicKey, status: SignedStatus | None) -> None:
        """Note what a node now says about itself; None when its status has ended."""
        for row in self._rows_of_node.get(node, ()):
            facts = self._facts[row] = self._facts[row]._replace(load=load_of(self._facts[row].label, status))
            arithmetic.write_load(self._integers, row, facts)

    def set_standing(self, node: PublicKey, standing: Standing) -> None:
        """Note what is now known about a node."""
        for row in self._rows_of_node.get(node, ()):
            facts = self._facts[row] = self._facts[row]._replace(standing=standing)
            arithmetic.write_standing(self._integers, row, facts)

    def select(
        self, request: BuyerRequest, *, seed: bytes, count: int, now: Timestamp, policy: Policy = BALANCED
    ) -> Selection:
        """Choose the best `count` nodes; see `relaymesh.market.selection.select`."""
        check_count(count)
        facts = self._facts.copy()
        scored = self._score(request, policy, now)
        chosen, near_equal_count = best_rows(
            scored, facts, self._rings, request, seed=seed, count=count, policy=policy, crowded=self._crowded
        )
        recalled = ((one, self._find(one.facts)) for one in chosen)
        choices = [to_choice(one, rank, candidate) for rank, (one, candidate) in enumerate(recalled, start=1)]
        return Selection(
            request=request,
            policy=policy,
            seed=seed,
            now=now,
            count=count,
            chosen=tuple(choice for choice in choices if choice is not None),
            eligible_count=len(scored.rows),
            excluded_count=len(facts) - len(scored.rows),
            near_equal_count=near_equal_count,
            tell_eligible=partial(tell_eligible, scored, facts, chosen, request),
            tell_excluded=partial(tell_excluded, scored, facts, request, now),
            recall=self._find,
        )

    # ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────

    def _append(self, facts: Facts) -> None:
        row = len(self._facts)
        if row == self._integers.shape[1]:
            self._integers = np.concatenate((self._integers, np.zeros_like(self._integers)), axis=1)
            self._rings = np.concatenate((self._rings, np.zeros_like(self._rings)))
        traits, code = self._traits.take(facts.traits)
        facts = facts._replace(traits=traits)
        self._facts.append(facts)
        self._rows_of_offer[facts.offer_id] = (*self._rows_of_offer.get(facts.offer_id, ()), row)
        self._rows_of_node[facts.node] = (*self._rows_of_node.get(facts.node, ()), row)
        if len(self._rows_of_node[facts.node]) > 1:
            self._crowded.add(facts.node)
        self._rings[row] = int(facts.offer_id[:16], 16)
        arithmetic.write_price(self._integers, row, facts, code)
        arithmetic.write_load(self._integers, row, facts)
        arithmetic.write_standing(self._integers, row, facts)

    def _drop(self, row: int) -> None:
        # The last row moves into the place that becomes free, so that the columns have no holes.
        facts, last = self._facts[row], len(self._facts) - 1
        self._traits.give_back(facts.traits)
        self._unlink(facts, row)
        moved = self._facts.pop()
        if row != last:
            self._facts[row] = moved
            self._integers[:, row] = self._integers[:, last]
            self._rings[row] = self._rings[last]
            self._rows_of_offer[moved.offer_id] = _moved(self._rows_of_offer[moved.offer_id], last, row)
            self._rows_of_node[moved.node] = _moved(self._rows_of_node[moved.node], last, row)

    def _unlink(self, facts: Facts, row: int) -> None:
        of_offer = tuple(other for other in self._rows_of_offer.pop(facts.offer_id) if other != row)
        of_node = tuple(other for other in self._rows_of_node.pop(facts.node) if other != row)
        if of_offer:
            self._rows_of_offer[facts.offer_id] = of_offer
        if len(of_node) < 2:
            self._crowded.discard(facts.node)
        if of_node:
            self._rows_of_node[facts.node] = of_node

    # ── choosing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _score(self, request: BuyerRequest, policy: Policy, now: Timestamp) -> Scored:
        """The eligible rows with their terms."""
        integers = self._integers[:, : len(self._facts)]
        is_in = arithmetic.find_eligible(integers, request, now)
        is_in &= self._traits.fitting(request)[integers[Column.TRAITS]]
        if request.allow is not None:
            allowed = np.zeros(len(self._facts), bool)
            allowed[list(self._rows_of(request.allow))] = True
            is_in &= allowed
        is_in[list(self._rows_of(request.ignore))] = False
        rows = np.flatnonzero(is_in)
        if len(rows) < len(self._facts):
            integers = integers[:, rows]
        tiers = arithmetic.find_tiers(integers, request)
        if request.order and tiers is not None:
            tiers = self._in_order(request, rows, tiers)
        return Scored(rows, arithmetic.compute_terms(integers, request, policy), tiers)

    def _in_order(
        self, request: BuyerRequest, rows: "arithmetic.Vector", tiers: "arithmetic.Vector"
    ) -> "arithmetic.Vector":
        places = np.full(len(self._facts), len(request.order), np.int64)
        for place, node in reversed(list(enumerate(request.order))):
            places[list(self._rows_of_node.get(node, ()))] = place
        return 2 * places[rows] + tiers

    def _rows_of(self, nodes: frozenset[PublicKey]) -> Iterator[int]:
        for node in nodes:
            yield from self._rows_of_node.get(node, ())

    def _find(self, facts: Facts) -> Candidate | None:
        try:
            offer, status = self._recall(facts.offer_id)
        except KeyError:
            return None
        return Candidate(offer, offer.offer.rows[facts.position], status)


def _moved(rows: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    return tuple(new if row == old else row for row in rows)
