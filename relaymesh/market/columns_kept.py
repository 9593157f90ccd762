"""The columns that a directory keeps up to date: those of the parts of the market in which somebody chooses."""

from collections import UserDict
from collections.abc import Callable, Iterable

from relaymesh.market.columns import MarketColumns, Recall
from relaymesh.market.standing import UNKNOWN, Standing, Standings
from relaymesh.market.state import LookupKey, State, offer_key
from relaymesh.market.state_memory import Entry
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.fields import JobType


class _StandingsOrNewcomer(UserDict[PublicKey, Standing]):
    """Who is not among those that are known has the newcomer's standing."""

    def __init__(self, known: dict[PublicKey, Standing], newcomer: Standing) -> None:
        self.data, self._newcomer = known, newcomer  # not a copy: it is asked for before every choice

    def __missing__(self, node: PublicKey) -> Standing:
        return self._newcomer

    def get(self, node: PublicKey, default: object = None) -> Standing:
        """The node's standing or the newcomer's, never `default`."""
        return self.data.get(node, self._newcomer)


class KeptColumns:
    """Made when they are first asked for; after that a change costs what changed.

    Args:
        look_up: The entries under a key.
        recall: Reads an offer and its node's live status again.
    """

    def __init__(self, look_up: Callable[[LookupKey], Iterable[Entry]], recall: Recall) -> None:
        self._look_up, self._recall = look_up, recall
        self._columns: dict[LookupKey, MarketColumns] = {}
        self._offers: dict[PublicKey, tuple[Entry, ...]] = {}
        self._standings: dict[PublicKey, Standing] = {}
        self._newcomer = UNKNOWN

    def columns_for(self, model: str | None, job_type: JobType) -> MarketColumns:
        """The columns of one part of the market, filled."""
        key = offer_key(model, job_type)
        columns = self._columns.get(key)
        if columns is None:
            columns = self._columns[key] = MarketColumns(model, job_type, self._recall)
            for entry in self._look_up(key):
                self._place(columns, entry)
        return columns

    def placed(self, entry: Entry, state: State) -> None:
        """A state came to stand in an entry that is linked to its keys already."""
        if isinstance(state, SignedOffer):
            self._offers[state.node] = (*self._offers.get(state.node, ()), entry)
            for columns in self._columns_of(entry):
                self._place(columns, entry)
        elif isinstance(state, SignedStatus):
            self._tell(state.node, lambda columns: columns.set_status(state.node, state))

    def removed(self, entry: Entry) -> None:
        """What stands in an entry is about to go; it is linked to its keys still."""
        node, kind, _ = entry.address
        if kind != Kind.OFFER:
            return
        left = tuple(other for other in self._offers.get(node, ()) if other is not entry)
        if left:
            self._offers[node] = left
        else:
            self._offers.pop(node, None)
        for columns in self._columns_of(entry):
            columns.remove(entry.event_id)

    def status_ended(self, node: PublicKey) -> None:
        """Nothing was heard of a node lately."""
        self._tell(node, lambda columns: columns.set_status(node, None))

    def offers_of(self, node: PublicKey) -> tuple[Entry, ...]:
        """Where a node's live offers stand."""
        return self._offers.get(node, ())

    @property
    def standings(self) -> Standings:
        """What is known about nodes: all of whom anything is, and on asking whoever else as a newcomer."""
        return _StandingsOrNewcomer(self._standings, self._newcomer)

    def standing(self, node: PublicKey) -> Standing:
        """What is known about a node."""
        return self._standings.get(node, self._newcomer)

    def set_standing(self, node: PublicKey, standing: Standing) -> None:
        """Note what is now known about a node."""
        if standing == self._newcomer:
            self._standings.pop(node, None)
        else:
            self._standings[node] = standing
        self._tell_standing(node, standing)

    def set_standings(self, standings: Standings) -> None:
        """Note what is now known about all nodes: whoever is not in it is a newcomer."""
        for node in tuple(self._standings):
            if node not in standings:
                self.set_standing(node, self._newcomer)
        for node, standing in standings.items():
            if standing != self.standing(node):
                self.set_standing(node, standing)

    def set_newcomer(self, standing: Standing) -> None:
        """Note the standing of every node that has none of its own."""
        self._newcomer = standing
        for node in self._offers:
            if node not in self._standings:
                self._tell_standing(node, standing)

    def _columns_of(self, entry: Entry) -> Iterable[MarketColumns]:
        for key in entry.lookup_keys:
            columns = self._columns.get(key)
            if columns is not None:
                yield columns

    def _place(self, columns: MarketColumns, entry: Entry) -> None:
        offer, status = self._recall(entry.event_id)
        columns.place(offer, status, self.standing(offer.node))

    def _tell_standing(self, node: PublicKey, standing: Standing) -> None:
        self._tell(node, lambda columns: columns.set_standing(node, standing))

    def _tell(self, node: PublicKey, change: Callable[[MarketColumns], None]) -> None:
        if self._columns:
            for columns in {each for entry in self._offers.get(node, ()) for each in self._columns_of(entry)}:
                change(columns)
