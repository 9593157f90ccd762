"""The ranking's own arithmetic: its seed, its digest, and what its rows say."""

import hashlib

from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.ranking import RankedRow, ranking_seed, registry_digest

OFFER, STATUS = EventId("a1" * 32), EventId("0b" * 32)
ROUTER = PublicKey("7c" * 32)


def test_a_seed_is_made_of_both_the_request_and_the_router() -> None:
    seed = ranking_seed(OFFER, ROUTER)
    assert seed == hashlib.sha256(b"\xa1" * 32 + b"\x7c" * 32).digest()
    assert seed != ranking_seed(STATUS, ROUTER) != ranking_seed(STATUS, PublicKey("7d" * 32))


def test_a_digest_is_the_same_whatever_the_order_and_the_repetitions() -> None:
    expected = hashlib.sha256(b"\x0b" * 32 + b"\xa1" * 32).hexdigest()
    assert registry_digest((OFFER, STATUS)) == registry_digest((STATUS, OFFER, STATUS)) == expected
    assert registry_digest(()) == hashlib.sha256(b"").hexdigest()


def test_a_row_names_its_node_its_label_and_the_events_it_rests_on() -> None:
    row = RankedRow(offer_address=f"38770:{'5e' * 32}:main/2", offer_id=OFFER, status_id=STATUS, terms={})
    assert (row.node, row.label) == ("5e" * 32, "main/2")
    assert row.cited_ids == (OFFER, STATUS)
