"""A connection to a wallet service: its string, which is a secret, and the file that keeps it (NIP-47).

`nostr+walletconnect://WALLET?relay=URL&secret=HEX`: whoever has it can spend. So it lives in a file of its owner, is
shown by nothing, and no complaint about it repeats any of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from relaymesh.adapters.key_files import keep_secret, read_secret
from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.nostr.event import PublicKey, is_hex_32
from relaymesh.nostr.keys import KeyPair, is_curve_point
from relaymesh.nostr.relay_urls import normalise_relay_url

SCHEME: Final = "nostr+walletconnect"
MAXIMUM_CONNECTION_CHARACTERS: Final = 2_048
MAXIMUM_RELAYS: Final = 8

_EXPECTED: Final = f"expected a wallet connection, {SCHEME}://WALLET?relay=URL&secret=KEY"


@dataclass(frozen=True, slots=True)
class WalletConnection:
    """What a connection string says; `key` is the client's and shows no secret.

    Args:
        wallet: The wallet service's key.
        relay_urls: Where it listens, normalised.
        key: Signs requests and opens answers.
    """

    wallet: PublicKey
    relay_urls: tuple[str, ...]
    key: KeyPair


def is_connection_text(text: str) -> bool:
    """Whether this means to be a connection string."""
    return text.strip().lower().startswith(f"{SCHEME}:")


def parse_connection(text: str) -> WalletConnection:
    """Read a connection string.

    Raises:
        UsageError: It is none; the sentence repeats nothing of it.
    """
    text = text.strip()
    if len(text) > MAXIMUM_CONNECTION_CHARACTERS or not is_connection_text(text):
        raise UsageError(f"{_EXPECTED} with at most {MAXIMUM_CONNECTION_CHARACTERS} characters")
    try:
        parts = urlsplit(text)
        given = parse_qs(parts.query, strict_parsing=True)
    except ValueError:
        raise UsageError(f"{_EXPECTED}, written as a URL") from None
    wallet = (parts.netloc or parts.path.strip("/")).lower()
    if not is_hex_32(wallet) or not is_curve_point(PublicKey(wallet)):
        raise UsageError(f"{_EXPECTED}, where WALLET is a public key in 64 hex characters")
    return WalletConnection(PublicKey(wallet), _read_relays(given.get("relay", [])), _read_key(given.get("secret", [])))


def format_connection(connection: WalletConnection) -> str:
    """The connection string, for a file or for whoever is to have the wallet; never for a message or a log."""
    relays = "&".join(f"relay={quote(url, safe='')}" for url in connection.relay_urls)
    return f"{SCHEME}://{connection.wallet}?{relays}&secret={connection.key.reveal_secret().hex()}"


def load_connection(path: Path) -> WalletConnection:
    """The connection in this file.

    Raises:
        UsageError: There is no such file, others can read it, or it holds something else.
    """
    text = read_secret(path)
    try:
        return parse_connection(text)
    except UsageError as error:
        raise UsageError(f"the wallet connection in {path} cannot be used: {error}") from None


def save_connection(path: Path, connection: WalletConnection) -> None:
    """Keep the connection in a file that only its owner can read; the same one again changes nothing.

    Raises:
        UsageError: There is another file of that name (it stays as it is), or it cannot be written.
    """
    keep_secret(path, format_connection(connection))


def _read_relays(urls: list[str]) -> tuple[str, ...]:
    if not 1 <= len(urls) <= MAXIMUM_RELAYS:
        raise UsageError(f"{_EXPECTED}, with 1 to {MAXIMUM_RELAYS} relays")
    try:
        return tuple(dict.fromkeys(map(normalise_relay_url, urls)))
    except UsageError as error:
        raise UsageError(f"{_EXPECTED}; of its relay: {error}") from None


def _read_key(secrets: list[str]) -> KeyPair:
    if len(secrets) == 1 and is_hex_32(secrets[0].lower()):
        try:
            return KeyPair(bytes.fromhex(secrets[0]))
        except LocalProtocolError:
            pass
    raise UsageError(f"{_EXPECTED}, where KEY is a secret key in 64 hex characters")
