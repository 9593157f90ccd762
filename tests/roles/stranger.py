"""A client that keeps to no rule: it opens a session as everybody does, and then says what it likes, when it likes."""

from secrets import token_bytes

import anyio

from relaymesh.errors import SessionError
from relaymesh.machines.opening_events import OpeningFailed, SessionAgreed
from relaymesh.machines.session import Link
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.sessions import Connection
from relaymesh.protocol.frames import Hello, parse_ready, split_into_frames
from relaymesh.protocol.key_schedule import derive_session_secrets
from relaymesh.protocol.session_codec import encode_message
from relaymesh.protocol.session_messages import JobMessage, SessionMessage
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.negotiation import negotiate
from relaymesh.units import AmountMsat
from tests.roles.market import Market, loop_clock, wanted


async def ask_for_session(market: Market, key: KeyPair, ephemeral: KeyPair) -> SessionAgreed | OpeningFailed:
    """What a key is answered that asks for a session; nobody connects."""
    relays = market.connect_relays()
    async with MarketView(relays, loop_clock) as view:
        selection = await view.wait_for_choice(wanted().to_request(), 5)
        answer = await negotiate(relays, loop_clock, selection, key, ephemeral.public_key)
    assert isinstance(answer, SessionAgreed | OpeningFailed)
    return answer


class Stranger:
    """One session of such a client, over one connection at a time."""

    def __init__(self, market: Market, agreed: SessionAgreed, ephemeral: KeyPair) -> None:
        contract = agreed.contract
        theirs = PublicKey(agreed.accept.ephemeral_key)
        shared = ephemeral.shared_secret(theirs), ephemeral.shared_secret(contract.node)
        self.contract = contract
        self._secrets = derive_session_secrets(contract.request_id, contract.accept_id, *shared)
        self._dialer, self._endpoint = market.network.dialer(), agreed.accept.endpoints[0]
        self._connection: Connection | None = None
        self._link: Link | None = None

    @classmethod
    async def open(cls, market: Market, key: KeyPair | None = None) -> "Stranger":
        """Agree on a session, under a key of its own or under this one, and connect."""
        ephemeral = KeyPair.generate()
        agreed = await ask_for_session(market, key or KeyPair.generate(), ephemeral)
        assert isinstance(agreed, SessionAgreed)
        stranger = cls(market, agreed, ephemeral)
        await stranger.greet()
        return stranger

    async def greet(self) -> None:
        """Connect and say HELLO; SessionError if nobody says READY."""
        nonce = token_bytes(32)
        self._connection = await self._dialer.dial(self._endpoint)
        hello = Hello(self.contract.session_id, nonce, self._secrets.hello_mac(self.contract.session_id, nonce))
        await self._connection.send(hello.to_text())
        ready = parse_ready(await self._connection.receive())
        ciphers = self._secrets.connection_ciphers(nonce, ready.node_nonce)
        self._link = Link(1, ciphers.client_to_node, ciphers.node_to_client)

    def job(self) -> JobMessage:
        """A new job that the node has no reason to refuse."""
        return wanted().to_order(self.contract.quote.row, AmountMsat(50_000)).to_message(self.contract)

    async def send(self, *messages: SessionMessage) -> None:
        """Say something, in as few frames as it fits."""
        assert self._connection is not None and self._link is not None
        plaintexts = split_into_frames(map(encode_message, messages))
        await self._connection.send(*[self._link.seal_frame(plaintext).frame for plaintext in plaintexts])

    async def hear(self, seconds: float = 1) -> list[SessionMessage]:
        """All that is said for so long, or until the connection is closed."""
        assert self._connection is not None and self._link is not None
        heard: list[SessionMessage] = []
        with anyio.move_on_after(seconds):
            try:
                while True:
                    heard += self._link.open_frame(await self._connection.receive())
            except SessionError:
                pass
        return heard
