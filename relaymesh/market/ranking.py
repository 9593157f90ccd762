"""A router's ranking: the scheduler's choice as rows that cite what they rest on, and fit into one message (RM-04)."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from relaymesh.market.candidate import Candidate
from relaymesh.market.eligibility import Exclusion
from relaymesh.market.policy import Policy
from relaymesh.market.request import BuyerRequest
from relaymesh.market.selection import Choice, Selection
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent
from relaymesh.nostr.proof_of_work import committed_bits
from relaymesh.protocol.content import MAXIMUM_PLAINTEXT_BYTES
from relaymesh.protocol.fields import JobType
from relaymesh.protocol.quote import RequestedJob
from relaymesh.protocol.ranking import (
    MAXIMUM_RANKED,
    RankedRow,
    Ranking,
    StatedStanding,
    ranking_seed,
    registry_digest,
)
from relaymesh.units import Timestamp

FORMULA: Final = "relaymesh/1"
"""The name of the formula that RM-04 gives; whoever ranks by another names another."""
_SALT_BYTES: Final = len(',"salt":""') + 64
_MAXIMUM_DIGESTS: Final = 1_024


class RankedMarket(Protocol):
    """What a router ranks: a `Directory`, seen from here."""

    @property
    def revision(self) -> int:
        """Grows whenever an offer or a status comes, changes or goes."""
        ...

    def select(self, request: BuyerRequest, *, seed: bytes, count: int, now: Timestamp, policy: Policy) -> Selection:
        """The best `count` nodes, and why."""
        ...

    def standing(self, node: PublicKey) -> Standing:
        """What is known about a node beyond its own words."""
        ...

    def considered_ids(self, model: str | None, job_type: JobType, now: Timestamp) -> Iterable[EventId]:
        """The live offers for this model and job type, and the live statuses of their nodes."""
        ...


class RegistryDigests:
    """The digest of each part of the market, computed again only after the market has changed."""

    def __init__(self, market: RankedMarket) -> None:
        self._market = market
        self._known: OrderedDict[tuple[str | None, JobType], tuple[int, str]] = OrderedDict()

    def digest(self, model: str | None, job_type: JobType, now: Timestamp) -> str:
        """SHA-256 over the sorted ids of what is considered for this model and job type, in hex."""
        revision, digest = self._known.get((model, job_type), (-1, ""))
        if revision != self._market.revision:
            digest = registry_digest(self._market.considered_ids(model, job_type, now))
            self._known[model, job_type] = (self._market.revision, digest)
            if len(self._known) > _MAXIMUM_DIGESTS:
                self._known.popitem(last=False)
        return digest


def buyer_request(request: RequestedJob, inner: VerifiedEvent) -> BuyerRequest:
    """What an open request asks of the market; nodes that want more work than it carries are out of its reach."""
    return BuyerRequest(
        model=request.model,
        job_type=request.job_type,
        shape=request.shape,
        budget_msat=request.budget_msat,
        capabilities=request.capabilities,
        orders=request.settlement,
        scopes=request.scopes,
        maximum_pow_bits=committed_bits(inner) or 0,
    )


@dataclass(frozen=True, slots=True)
class Ranked:
    """What came of ranking.

    Args:
        ranking: What the client is told.
        asked: The choices that its request is passed on to.
        cited: The events that the ranking rests on.
    """

    ranking: Ranking
    asked: tuple[Choice, ...]
    cited: tuple[VerifiedEvent, ...]


class Ranker:
    """Ranks a market under one router's key.

    Args:
        market: What is ranked.
        router: Who ranks.

    Attributes:
        assertions: What the router last asserted about nodes in public, by node.
    """

    def __init__(self, market: RankedMarket, router: PublicKey) -> None:
        self.assertions: dict[PublicKey, VerifiedEvent] = {}
        self._market, self._router, self._digests = market, router, RegistryDigests(market)

    def rank(self, request: BuyerRequest, request_id: EventId, *, policy: Policy, asks: int, now: Timestamp) -> Ranked:
        """Rank the market for one request.

        A router does no proof of work: a node that wants some is ranked, and the client asks it itself.

        Args:
            request_id: The 28770 that is answered.
            asks: How many of the best nodes the request is passed on to.
        """
        seed = ranking_seed(request_id, self._router)
        selection = self._market.select(request, seed=seed, count=MAXIMUM_RANKED, now=now, policy=policy)
        asked = tuple(choice for choice in selection.chosen if not choice.candidate.offer.offer.pow_bits)[:asks]
        ranking = Ranking(
            request_id=request_id,
            ranked_at=now,
            rows=self._rows(selection, asked),
            considered=selection.eligible_count + selection.excluded_count,
            eligible=selection.eligible_count,
            policy=policy.name,
            formula=FORMULA,
            seed=seed.hex(),
            registry_digest=self._digests.digest(request.model, request.job_type, now),
        )
        return Ranked(_shorten(ranking), asked, self._cited(selection))

    def _rows(self, selection: Selection, asked: tuple[Choice, ...]) -> tuple[RankedRow, ...]:
        rows = [self._rank_choice(choice, choice in asked) for choice in selection.chosen]
        excluded = selection.first_excluded(MAXIMUM_RANKED - len(rows))
        return (*rows, *map(self._rank_exclusion, excluded))

    def _cited(self, selection: Selection) -> tuple[VerifiedEvent, ...]:
        candidates = [choice.candidate for choice in selection.chosen]
        candidates += [each.candidate for each in selection.first_excluded(MAXIMUM_RANKED - len(candidates))]
        cited: dict[EventId, VerifiedEvent] = {}
        for candidate in candidates:
            offer, status = candidate.offer, candidate.status
            assertion = self.assertions.get(offer.node)
            for event in (offer.event, None if status is None else status.event, assertion):
                if event is not None:
                    cited[event.id] = event
        return tuple(cited.values())

    def _rank_choice(self, choice: Choice, asked: bool) -> RankedRow:
        return RankedRow(
            **self._cite(choice.candidate),
            score_msat=score_of(choice),
            terms=terms_of(choice),
            estimated_msat=choice.ceiling_msat,
            asked=asked,
        )

    def _rank_exclusion(self, exclusion: Exclusion) -> RankedRow:
        return RankedRow(**self._cite(exclusion.candidate), terms={}, excluded=exclusion.reason.value)

    def _cite(self, candidate: Candidate) -> dict[str, Any]:
        offer, status, assertion = candidate.offer, candidate.status, self.assertions.get(candidate.offer.node)
        return {
            "offer_address": offer.address,
            "offer_id": offer.event.id,
            "row": place_of(candidate),
            "status_id": None if status is None else status.event.id,
            "standing": state_standing(self._market.standing(offer.node)),
            "assertion_id": None if assertion is None else assertion.id,
        }


def state_standing(standing: Standing) -> StatedStanding | None:
    """A standing as a ranking states it; None stands for that of a node nobody knows."""
    if standing == UNKNOWN:
        return None
    return StatedStanding(**{field: getattr(standing, field) for field in StatedStanding.model_fields})


def read_standing(stated: StatedStanding | None) -> Standing:
    """The standing that a ranking states."""
    return UNKNOWN if stated is None else Standing(**dict(stated))


def score_of(choice: Choice) -> int:
    """The score of a choice, in msat-equivalents; the lower, the better."""
    return choice.terms.score


def terms_of(choice: Choice) -> dict[str, int]:
    """What the score of a choice is made of, by name."""
    return choice.terms._asdict()


def place_of(candidate: Candidate) -> int:
    """Which of its offer's price rows a candidate is, by index."""
    return candidate.offer.offer.rows.index(candidate.row)


def _shorten(ranking: Ranking) -> Ranking:
    """The ranking without the last rows that one message has no room for."""
    while len(orjson.dumps(ranking.to_fields())) + _SALT_BYTES > MAXIMUM_PLAINTEXT_BYTES:
        ranking = ranking.model_copy(update={"rows": ranking.rows[:-1]})
    return ranking
