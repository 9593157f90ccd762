"""Session request (28772) and session accept (28773): from a quote to a place to meet (RM-02, "Handshake")."""

from typing import Annotated, Any, Final

from pydantic import Field

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import Endpoint, EventIdField, Hex32, Milliseconds, RelayUrl, Version
from relaymesh.protocol.quote import MAXIMUM_REPLY_RELAYS, QuoteRequest

MAXIMUM_ENDPOINTS: Final = 4
MAXIMUM_CONCURRENT_JOBS: Final = 4096


class SessionRequest(WireValue):
    """What a 28772 asks: open a session under this quote, on this one of its terms.

    Args:
        quote: The node's complete signed 28771, as the JSON object of NIP-01.
        term: Which of the quote's terms, by index.
        ephemeral_key: The client's x-only key for this session alone.
        relays: Where the client also listens for the answer.
        guarantee: For a term of `postpay`, the complete signed 8775 of the key that vouches for the client.
    """

    v: Version = 1
    quote: dict[str, Any]
    term: Annotated[int, Field(ge=0, le=7)]
    ephemeral_key: Hex32
    relays: Annotated[tuple[RelayUrl, ...], Field(max_length=MAXIMUM_REPLY_RELAYS)] = ()
    guarantee: dict[str, Any] | None = None


class PostedRequest(QuoteRequest):
    """What a 28772 without a quote asks: a session at the offer's posted price, on the first term of the quote to come.

    Args:
        ephemeral_key: The client's x-only key for this session alone.
    """

    ephemeral_key: Hex32


class SessionAccept(WireValue):
    """What a 28773 grants.

    Args:
        request_id: The 28772 it answers.
        session_id: 32 random bytes that name the session.
        endpoints: Where to connect, best first; told nowhere else.
        ephemeral_key: The node's x-only key for this session alone.
        term: The term chosen, repeated.
        max_jobs: How many jobs may run at once.
        idle_in_ms: The node ends the session after this long without any message.
    """

    v: Version = 1
    request_id: EventIdField
    session_id: Hex32
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1, max_length=MAXIMUM_ENDPOINTS)]
    ephemeral_key: Hex32
    term: Annotated[int, Field(ge=0, le=7)]
    max_jobs: Annotated[int, Field(ge=1, le=MAXIMUM_CONCURRENT_JOBS)]
    idle_in_ms: Milliseconds


class PostedAccept(SessionAccept):
    """What a 28773 grants at a posted price: the session, and the quote that it rests on.

    Args:
        quote: The node's complete signed 28771, as the JSON object of NIP-01; its `e` is the 28772.
    """

    quote: dict[str, Any]
