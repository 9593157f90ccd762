"""The examples of nips/examples/: one event of each kind, and every message of one job, as the machines make them."""

import base64
from typing import Any, Final

from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from tests.nips import example_job, example_market, example_reputation
from tests.nips.contents import CONTENTS, Content
from tests.nips.example_market import CLIENT, CLIENT_EPHEMERAL, NODE, NODE_EPHEMERAL

KEYS: Final[dict[str, KeyPair]] = {
    "node": NODE,
    "client_session": CLIENT,
    "client_ephemeral": CLIENT_EPHEMERAL,
    "node_ephemeral": NODE_EPHEMERAL,
    "lightning_node": KeyPair(example_market.LIGHTNING_SECRET),
    "observer": example_reputation.OBSERVER,
}


def events() -> dict[str, VerifiedEvent]:
    """The example of each kind, by name; together they are one job from offer to receipt, one refusal, and trust."""
    agreed = example_market.agree()
    return {
        "offer": example_market.make_offer(),
        "status": example_market.make_status(),
        "quote-request": agreed.quote_request,
        "quote": agreed.quote,
        "session-request": agreed.session_request,
        "session-accept": agreed.session_accept,
        "refusal": agreed.refusal,
        "metering": example_job.make_metering(),
        "receipt": example_job.make_receipt(),
        "manifest": example_reputation.make_manifest(),
        "assertion": example_reputation.make_assertion(),
    }


def plaintext(content: Content) -> str:
    """What an example's content says; a sealed one as its author can open it too."""
    event = events()[content.name]
    if not content.is_sealed:
        return event.content
    author, recipient = (NODE, CLIENT) if event.public_key == NODE.public_key else (CLIENT, NODE)
    return author.open(event.content, recipient.public_key)


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
