"""The reputation assertion on the wire, and its mirror for other Nostr clients."""

import json
from dataclasses import replace
from typing import Any

import pytest

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.assertion import (
    MAXIMUM_CITED_PROOFS,
    MAXIMUM_CITED_RECEIPTS,
    Assertion,
    build_assertion_event,
    build_trusted_assertion,
    read_assertion,
)
from relaymesh.protocol.content import MAXIMUM_EVENT_BYTES, MAXIMUM_PLAINTEXT_BYTES
from relaymesh.units import MAXIMUM_INTEGER, Timestamp
from tests.market.builders import NODE, NOW, node, sign

AUTHOR = node(2)
FIELDS: dict[str, Any] = {
    "v": 1,
    "seq": 5,
    "valid_until": NOW + 3_600,
    "rank": 80,
    "observed": {"done": 9, "failed": 1, "busy": 3, "first_output_ms": 250, "output_tokens_per_1000s": 30_000},
    "receipts": ["aa" * 32, "ab" * 32],
    "proofs": ["ac" * 32],
}


def assertion(**changes: Any) -> Assertion:
    return Assertion.from_text(json.dumps({**FIELDS, **changes}))


def test_what_is_built_is_read() -> None:
    said = assertion()
    signed = read_assertion(sign(build_assertion_event(said, NODE, AUTHOR, Timestamp(NOW))))
    assert (signed.assertion, signed.subject, signed.author) == (said, NODE, AUTHOR)
    assert (signed.event.tag_value("d"), signed.event.tag_values("p")) == (NODE, (NODE,))


def test_the_largest_assertion_fits_an_event() -> None:
    cited = [f"{number:064x}" for number in range(MAXIMUM_CITED_RECEIPTS + MAXIMUM_CITED_PROOFS)]
    counts = dict.fromkeys(("done", "partial", "failed", "busy", "refused", "missing_records"), 10**9)
    said = assertion(
        seq=MAXIMUM_INTEGER,
        observed={**counts, "first_output_ms": MAXIMUM_INTEGER, "output_tokens_per_1000s": 10**9},
        receipts=cited[:MAXIMUM_CITED_RECEIPTS],
        proofs=cited[MAXIMUM_CITED_RECEIPTS:],
    )
    event = sign(build_assertion_event(said, NODE, AUTHOR, Timestamp(NOW)))
    assert event.size <= MAXIMUM_EVENT_BYTES and len(event.content) <= MAXIMUM_PLAINTEXT_BYTES


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 101},
        {"rank": -1},
        {"rank": 0.5},
        {"observed": {"done": -1}},
        {"observed": None},
        {"receipts": ["aa" * 32] * 2},
        {"proofs": ["aa" * 32]},
        {"receipts": ["AA" * 32]},
        {"receipts": [f"{number:064x}" for number in range(MAXIMUM_CITED_RECEIPTS + 1)]},
        {"proofs": [f"{number:064x}" for number in range(MAXIMUM_CITED_PROOFS + 1)]},
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"Assertion: |plain integers"):
        assertion(**changes)


@pytest.mark.parametrize(
    ("subject", "person"), [("main", NODE), (NODE, AUTHOR), ("AB" * 32, "AB" * 32), (AUTHOR, AUTHOR)]
)
def test_a_subject_is_another_key_and_both_tags_name_it(subject: str, person: str) -> None:
    event = build_assertion_event(assertion(), NODE, AUTHOR, Timestamp(NOW))
    named = {"d": subject, "p": person}
    tags = tuple((tag[0], named.get(tag[0], tag[1])) for tag in event.tags)
    with pytest.raises(RemoteProtocolError, match="assertion"):
        read_assertion(sign(replace(event, tags=tags)))


def test_the_mirror_says_the_rank_as_nip_85_wants_it() -> None:
    said = sign(build_assertion_event(assertion(), NODE, AUTHOR, Timestamp(NOW)))
    mirror = build_trusted_assertion(assertion(), NODE, AUTHOR, Timestamp(NOW), said.id)
    assert (mirror.kind, mirror.content) == (Kind.TRUSTED_ASSERTION, "")
    assert ("d", NODE) in mirror.tags and ("rank", "80") in mirror.tags
    assert ("assertion", said.id) in mirror.tags
    assert {tag[0] for tag in mirror.tags if len(tag[0]) == 1} == {"d"}
