"""Authentication of clients to relays: the signed answer to a challenge, built and checked (NIP-42)."""

from typing import Final

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.relay_urls import is_same_relay
from relaymesh.units import Timestamp

AUTHENTICATION_WINDOW_SECONDS: Final = 600


def build_authentication(public_key: PublicKey, relay_url: str, challenge: str, created_at: Timestamp) -> UnsignedEvent:
    """The 22242 that answers a relay's challenge; sign it and send it as an `AuthMessage`, never as an event.

    Args:
        public_key: Who authenticates.
        relay_url: The relay, as it was dialled.
        challenge: The relay's words in its `AUTH` message.
        created_at: Now.
    """
    tags = (("relay", relay_url), ("challenge", challenge))
    return UnsignedEvent(public_key, created_at, Kind.AUTHENTICATION, tags, "")


def check_authentication(
    event: VerifiedEvent, relay_urls: tuple[str, ...], challenge: str, now: Timestamp
) -> PublicKey:
    """Who has authenticated with this event.

    Args:
        event: What the client sent, its signature checked.
        relay_urls: The URLs under which this relay is known; they are compared normalised.
        challenge: What this relay asked on this connection.
        now: The relay's time; the event may be `AUTHENTICATION_WINDOW_SECONDS` off either way.

    Raises:
        RemoteProtocolError: The event is no answer to this challenge, for this relay, now.
        UsageError: One of `relay_urls` is no relay URL.
    """
    if event.kind != Kind.AUTHENTICATION:
        raise RemoteProtocolError(f"an authentication must be of kind {int(Kind.AUTHENTICATION)}, not {event.kind}")
    if abs(event.created_at - now) > AUTHENTICATION_WINDOW_SECONDS:
        raise RemoteProtocolError(
            f"an authentication must be made within {AUTHENTICATION_WINDOW_SECONDS} seconds of now; check the clock"
        )
    if event.tag_values("challenge") != (challenge,):
        raise RemoteProtocolError("an authentication must carry this connection's challenge, once")
    named = event.tag_values("relay")
    if len(named) != 1 or not is_same_relay(named[0], relay_urls):
        raise RemoteProtocolError("an authentication must name this relay's URL, once")
    return event.public_key
