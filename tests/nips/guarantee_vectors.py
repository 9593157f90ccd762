"""The vectors of nips/vectors/guarantee.json: guarantees that a node may rely on, and that it may not."""

import json
from collections.abc import Iterator
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.protocol.guarantee import MAXIMUM_GUARANTEE_SECONDS, Guarantee, build_guarantee, parse_guarantee
from relaymesh.units import Timestamp
from tests.nips.example_market import BUYER, CLIENT, NODE, ROUTER, make_guarantee, moment

NOW: Final = moment(0).timestamp
LAST: Final = Timestamp(NOW + MAXIMUM_GUARANTEE_SECONDS - 1)


def build() -> list[dict[str, Any]]:
    """Each event, whom it is shown to, by which session key and when, and whether he may rely on it."""
    return [
        {
            "what": what,
            "event": event,
            "node": node,
            "client": client,
            "now": now,
            "holds": _holds(event, node, client, now),
        }
        for what, event, node, client, now in _cases()
    ]


def _cases() -> Iterator[tuple[str, dict[str, Any], PublicKey, PublicKey, Timestamp]]:
    node, client, good = NODE.public_key, CLIENT.public_key, _fields(make_guarantee())
    yield "as it was given", good, node, client, NOW
    yield "in its last second", good, node, client, LAST
    yield "a minute before it was made", good, node, client, Timestamp(NOW - 60)
    yield "expired", good, node, client, Timestamp(LAST + 1)
    yield "more than a minute before it was made", good, node, client, Timestamp(NOW - 61)
    yield "shown to another node", good, ROUTER.public_key, client, NOW
    yield "shown by another session key", good, node, ROUTER.public_key, NOW
    yield "valid for more than a day", _given(NOW + MAXIMUM_GUARANTEE_SECONDS + 1), node, client, NOW
    yield "under another's name", {**good, "pubkey": ROUTER.public_key}, node, client, NOW
    yield "with an altered session key", _altered(good), node, ROUTER.public_key, NOW


def _given(valid_until: int) -> dict[str, Any]:
    guarantee = Guarantee(client=CLIENT.public_key, valid_until=Timestamp(valid_until))
    built = build_guarantee(guarantee, author=BUYER.public_key, node=NODE.public_key, created_at=NOW)
    return _fields(BUYER.sign(built))


def _altered(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "content": fields["content"].replace(CLIENT.public_key, ROUTER.public_key)}


def _fields(event: VerifiedEvent) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(event.to_json()))
    return fields


def _holds(event: dict[str, Any], node: PublicKey, client: PublicKey, now: Timestamp) -> bool:
    try:
        return parse_guarantee(event, verify).find_objection(node=node, client=client, now=now) is None
    except RemoteProtocolError:
        return False
