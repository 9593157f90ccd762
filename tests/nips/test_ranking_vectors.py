"""The ranking vector follows from the text of RM-04, and each of its lies is found."""

import hashlib
import json
from typing import Any

import pytest

from relaymesh.market.ranking import buyer_request
from relaymesh.market.recomputation import SignedRanking, recompute
from relaymesh.nostr.event import VerifiedEvent, parse_event
from relaymesh.nostr.keys import verify
from relaymesh.protocol.open_request import read_open_request
from relaymesh.protocol.ranking import Ranking
from relaymesh.roles.routers import read_cited
from tests.nips.ranking_vectors import LIES
from tests.nips.test_files import load

VECTORS: dict[str, Any] = load("vectors/ranking.json")


def events() -> list[VerifiedEvent]:
    return [verify(parse_event(event)) for event in VECTORS["events"]]


def recompute_with(changes: dict[str, Any]) -> tuple[str, ...]:
    """What is wrong with the vector's ranking, so changed."""
    ranking = Ranking.from_text(json.dumps({**VECTORS["ranking"], **changes}))
    inner = verify(parse_event(VECTORS["open_request"]))
    # The event around it was sealed; what recomputing needs of it is its author and its date.
    answer = VerifiedEvent(VECTORS["router"], VECTORS["created_at"], 28_775, (), "", ranking.request_id, "00" * 64)
    signed = SignedRanking(answer, ranking, buyer_request(read_open_request(inner), inner))
    found = recompute(signed, read_cited(events()))
    assert not found.missing
    return found.faults


def test_seed_and_digest_follow_from_the_text() -> None:
    ranking = VECTORS["ranking"]
    both = bytes.fromhex(ranking["request_id"]) + bytes.fromhex(VECTORS["router"])
    assert hashlib.sha256(both).hexdigest() == ranking["seed"]
    ids = sorted(event["id"] for event in VECTORS["events"])
    assert ids == VECTORS["considered_ids"]
    assert hashlib.sha256(b"".join(map(bytes.fromhex, ids))).hexdigest() == ranking["registry_digest"]


def test_scores_are_the_sums_of_their_terms_and_come_before_what_is_out() -> None:
    rows = VECTORS["ranking"]["rows"]
    eligible = [row for row in rows if row["excluded"] is None]
    assert rows[: len(eligible)] == eligible and 0 < len(eligible) < len(rows)
    assert all(sum(row["terms"].values()) == row["score_msat"] for row in eligible)
    assert all(row["score_msat"] is None and row["terms"] == {} for row in rows[len(eligible) :])


def test_the_ranking_comes_out_again() -> None:
    assert recompute_with({}) == ()


@pytest.mark.parametrize("lie", VECTORS["lies"], ids=lambda lie: lie["name"])
def test_a_lie_does_not(lie: dict[str, Any]) -> None:
    assert recompute_with(lie["changes"])


def test_there_is_a_lie_of_every_sort() -> None:
    assert [lie["name"] for lie in VECTORS["lies"]] == list(LIES)
