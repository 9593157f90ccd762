"""The examples of nips/examples/: one event of each kind, and every message of one job, as the machines make them."""

import base64
from typing import Any, Final

from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from tests.nips import example_fraud, example_job, example_market, example_reputation, example_routing
from tests.nips.contents import CONTENTS, Content
from tests.nips.example_market import CLIENT, CLIENT_EPHEMERAL, NODE, NODE_EPHEMERAL

KEYS: Final[dict[str, KeyPair]] = {
    "node": NODE,
    "client_session": CLIENT,
    "client_ephemeral": CLIENT_EPHEMERAL,
    "node_ephemeral": NODE_EPHEMERAL,
    "lightning_node": KeyPair(example_market.LIGHTNING_SECRET),
    "observer": example_reputation.OBSERVER,
    "buyer": example_market.BUYER,
    "cheat": example_fraud.CHEAT,
    "router": example_market.ROUTER,
}


def events() -> dict[str, VerifiedEvent]:
    """The example of each kind, by name; together they are one job from offer to receipt, one refusal, and trust."""
    agreed, other = example_market.agree(), example_market.go_other_ways()
    return {
        "offer": example_market.make_offer(),
        "status": example_market.make_status(),
        "quote-request": agreed.quote_request,
        "quote": agreed.quote,
        "session-request": agreed.session_request,
        "session-accept": agreed.session_accept,
        "refusal": agreed.refusal,
        "open-request": other.open_request,
        "forwarded-request": other.forwarded_request,
        "posted-request": other.posted_request,
        "posted-accept": other.posted_accept,
        "metering": example_job.make_metering(),
        "receipt": example_job.make_receipt(),
        "manifest": example_reputation.make_manifest(),
        "assertion": example_reputation.make_assertion(),
        "router-announcement": example_routing.make_announcement(),
        "ranking": example_routing.make_ranking(),
        "stake": example_fraud.make_stake(),
        "fraud-proof": example_fraud.make_proof(),
        "slash": example_fraud.make_slash_event(),
        "sealed-commitment": example_fraud.make_commitment(),
        "guarantee": example_market.make_guarantee(),
    }


def plaintext(content: Content) -> str:
    """What an example's content says; a sealed one as its author can open it too."""
    event = events()[content.name]
    if not content.is_sealed:
        return event.content
    author = next(pair for pair in KEYS.values() if pair.public_key == event.public_key)
    [recipient] = event.tag_values("p")
    return author.open(event.content, PublicKey(recipient))


def keys() -> dict[str, Any]:
    """Every key of the examples. They are public: nobody should ever use them."""
    return {
        name: {"secret_key": pair.reveal_secret().hex(), "public_key": pair.public_key} for name, pair in KEYS.items()
    }


def example(content: Content) -> dict[str, Any]:
    """What the file of one kind holds: the event, and for a sealed one its plaintext and the NIP-44 nonce."""
    event = events()[content.name]
    found: dict[str, Any] = {"kind": int(content.kind), "name": content.name, "event": event.to_json()}
    if content.is_sealed:
        found["plaintext"] = plaintext(content)
        found["nonce"] = base64.b64decode(event.content)[1:33].hex()
    return found


def session_messages() -> list[dict[str, Any]]:
    """Every message of one job, in order, with who sends it."""
    return [{"from": sender, "message": message.to_json()} for sender, message in example_job.finish()[0].transcript]


def files() -> dict[str, Any]:
    """The content of every file in nips/examples/, by name."""
    return {
        "keys.json": keys(),
        "session-messages.json": session_messages(),
        **{f"{content.name}.json": example(content) for content in CONTENTS},
    }
