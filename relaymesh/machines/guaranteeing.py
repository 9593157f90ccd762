"""How a buyer's long-term key vouches for a session key to each node that may give credit (RM-03, "Postpay")."""

from typing import Any, Final

from relaymesh.nostr.event import PublicKey, Signer
from relaymesh.protocol.codec import MarketMessage
from relaymesh.protocol.guarantee import MAXIMUM_GUARANTEE_SECONDS, Guarantee, build_guarantee
from relaymesh.protocol.handshake import SessionRequest
from relaymesh.protocol.quote import QuoteRequest
from relaymesh.units import Moment, Timestamp

MAXIMUM_RELAYS_BESIDE: Final = 1
"""Reply relays of a session request that brings a guarantee: with the largest quote it still fits a message."""


class Guarantor:
    """The buyer's long-term key, for the requests of one opening; a node hears of it where `postpay` is asked for.

    Args:
        signer: The long-term key.
        client: The session key that it vouches for.
    """

    def __init__(self, signer: Signer, client: PublicKey) -> None:
        self._signer, self._client = signer, client
        self._given: dict[PublicKey, dict[str, Any]] = {}

    def attach(self, message: MarketMessage, node: PublicKey, now: Moment) -> MarketMessage:
        """The message to this node, with the guarantee where it needs one; once given, the same again."""
        if isinstance(message, QuoteRequest) and "postpay" in message.settlement:
            return message.model_copy(update={"guarantee": self._give(node, now.timestamp)})
        if isinstance(message, SessionRequest) and node in self._given:
            few = message.relays[:MAXIMUM_RELAYS_BESIDE]
            return message.model_copy(update={"guarantee": self._given[node], "relays": few})
        return message

    def _give(self, node: PublicKey, now: Timestamp) -> dict[str, Any]:
        if node not in self._given:
            guarantee = Guarantee(client=self._client, valid_until=Timestamp(now + MAXIMUM_GUARANTEE_SECONDS))
            author = self._signer.public_key
            event = self._signer.sign(build_guarantee(guarantee, author=author, node=node, created_at=now))
            self._given[node] = event.to_json()
        return self._given[node]
