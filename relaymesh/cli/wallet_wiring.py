"""The wallet that the settings name, opened: Core Lightning by its socket, LND and any other by its connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relaymesh.cli.clock import system_clock
from relaymesh.errors import UsageError
from relaymesh.ports.lightning import Wallet as LightningWallet
from relaymesh.settings import Wallet

BOOK_SUFFIX = ".sqlite3"
"""Beside the file with the connection lies what must not be forgotten about it."""


@asynccontextmanager
async def open_wallet(wallet: Wallet) -> AsyncIterator[LightningWallet]:
    """The wallet that the settings name, while the block lasts.

    Raises:
        UsageError: None is named, or two are; the sentence says what to do.
    """
    if wallet.lightning_rpc and wallet.connection_file:
        raise UsageError("wallet.lightning_rpc and wallet.connection_file name two wallets: leave one of them out")
    if wallet.connection_file:
        async with open_connection(_path(wallet.connection_file)) as connected:
            yield connected
    elif wallet.lightning_rpc:
        from relaymesh.adapters.core_lightning import CoreLightningWallet

        yield CoreLightningWallet(_path(wallet.lightning_rpc))
    else:
        raise UsageError(
            "no wallet is connected: `relaymesh lightning serve` starts one to try things with, "
            "`relaymesh wallet connect` connects Core Lightning by its lightning-rpc socket, LND by its REST "
            "interface, or any wallet by NWC"
        )


@asynccontextmanager
async def open_connection(file: Path) -> AsyncIterator[LightningWallet]:
    """The wallet whose connection this file holds, while the block lasts.

    Raises:
        UsageError: The file cannot be used.
        LedgerError: What is remembered about the connection cannot be used.
    """
    from relaymesh.adapters.key_files import read_secret
    from relaymesh.adapters.lnd_file import is_lnd_text

    opened = _open_lnd(file) if is_lnd_text(read_secret(file)) else _open_wallet_connect(file)
    async with opened as wallet:
        yield wallet


@asynccontextmanager
async def _open_lnd(file: Path) -> AsyncIterator[LightningWallet]:
    from relaymesh.adapters.lnd import LndWallet
    from relaymesh.adapters.lnd_file import load_lnd_connection

    async with LndWallet.open(load_lnd_connection(file), _book(file), system_clock) as wallet:
        yield wallet


@asynccontextmanager
async def _open_wallet_connect(file: Path) -> AsyncIterator[LightningWallet]:
    from relaymesh.adapters.wallet_connect import WalletConnectWallet
    from relaymesh.adapters.wallet_connect_file import load_connection
    from relaymesh.adapters.websocket_relays import WebSocketRelays
    from relaymesh.machines.relay_connection_interface import RelayConnectionSettings
    from relaymesh.nostr.authentication import build_authentication
    from relaymesh.nostr.event import VerifiedEvent

    connection = load_connection(file)

    def authenticate(relay_url: str, challenge: str) -> VerifiedEvent:
        now = system_clock().timestamp
        return connection.key.sign(build_authentication(connection.key.public_key, relay_url, challenge, now))

    # Money waits for this relay: it is looked for again and again, not every five minutes.
    settings = RelayConnectionSettings(first_retry_ms=500, last_retry_ms=10_000)
    relays = WebSocketRelays(connection.relay_urls, authenticate=authenticate, settings=settings, clock=system_clock)
    async with relays, WalletConnectWallet.open(connection, relays, _book(file), system_clock) as wallet:
        yield wallet


def forget_connection(file: Path) -> None:
    """Remove a connection that turned out to be of no use, with what was remembered about it."""
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink(missing_ok=True)


def _book(file: Path) -> Path:
    return file.with_name(file.name + BOOK_SUFFIX)


def _path(text: str) -> Path:
    return Path(text).expanduser()
