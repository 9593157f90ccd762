"""Connection strings: read as NIP-47 writes them, kept for their owner alone, and never repeated in a complaint."""

import stat
import traceback
from pathlib import Path

import pytest

from relaymesh.adapters.wallet_connect_file import (
    MAXIMUM_RELAYS,
    WalletConnection,
    format_connection,
    is_connection_text,
    load_connection,
    parse_connection,
    save_connection,
)
from relaymesh.errors import UsageError
from relaymesh.nostr.keys import KeyPair

WALLET = "b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4"
SECRET = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c"
EXAMPLE = f"nostr+walletconnect://{WALLET}?relay=wss%3A%2F%2Frelay.damus.io&secret={SECRET}"


def test_the_nip_s_example_is_read() -> None:
    connection = parse_connection(EXAMPLE)
    assert (connection.wallet, connection.relay_urls) == (WALLET, ("wss://relay.damus.io",))
    assert connection.key.reveal_secret().hex() == SECRET


def test_what_is_written_is_read_back() -> None:
    connection = WalletConnection(
        KeyPair(b"\x05" * 32).public_key, ("ws://127.0.0.1:7777", "wss://a.example/x?y=1"), KeyPair(b"\x06" * 32)
    )
    read = parse_connection(format_connection(connection))
    assert (read.wallet, read.relay_urls) == (connection.wallet, connection.relay_urls)
    assert read.key.reveal_secret() == connection.key.reveal_secret()


def test_several_relays_a_lightning_address_and_capitals_are_taken() -> None:
    loud = EXAMPLE.upper().replace("SECRET", "secret").replace("RELAY=", "relay=")
    text = f"{loud}&relay=ws%3A%2F%2Fb.example&lud16=a%40b"
    assert parse_connection(f"  {text}\n").relay_urls == ("wss://relay.damus.io", "ws://b.example")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nostr:npub1",
        f"nostr+walletconnect://{WALLET}",
        f"nostr+walletconnect://{WALLET}?secret={SECRET}",
        f"nostr+walletconnect://{WALLET}?relay=wss%3A%2F%2Fr.example",
        f"nostr+walletconnect://{WALLET[:-1]}?relay=wss%3A%2F%2Fr.example&secret={SECRET}",
        f"nostr+walletconnect://{'00' * 32}?relay=wss%3A%2F%2Fr.example&secret={SECRET}",
        f"nostr+walletconnect://{WALLET}?relay=https%3A%2F%2Fr.example&secret={SECRET}",
        f"nostr+walletconnect://{WALLET}?relay=wss%3A%2F%2Fr.example&secret={SECRET[:-2]}",
        f"nostr+walletconnect://{WALLET}?relay=wss%3A%2F%2Fr.example&secret={'00' * 32}",
        f"nostr+walletconnect://{WALLET}?relay=wss%3A%2F%2Fr.example&secret={SECRET}&secret={SECRET}",
        f"nostr+walletconnect://{WALLET}?{'relay=wss%3A%2F%2Fr.example&' * (MAXIMUM_RELAYS + 1)}secret={SECRET}",
        f"nostr+walletconnect://[{WALLET}?relay=wss%3A%2F%2Fr.example&secret={SECRET}",
        f"nostr+walletconnect://{WALLET}?{SECRET}",
        EXAMPLE + "x" * 3_000,
    ],
)
def test_what_is_no_connection_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_connection(text)
    shown = "".join(traceback.format_exception(refused.value))
    assert SECRET[:16] not in shown and "expected a wallet connection" in str(refused.value)


def test_a_connection_shows_no_secret() -> None:
    assert SECRET not in repr(parse_connection(EXAMPLE)) + str(parse_connection(EXAMPLE))


def test_a_file_is_its_owners_alone_and_keeps_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "wallet"
    save_connection(path, parse_connection(EXAMPLE))
    save_connection(path, parse_connection(EXAMPLE))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_connection(path).key.reveal_secret().hex() == SECRET


def test_another_connection_never_overwrites_one(tmp_path: Path) -> None:
    path = tmp_path / "wallet"
    save_connection(path, parse_connection(EXAMPLE))
    other = parse_connection(EXAMPLE.replace("damus.io", "example"))
    with pytest.raises(UsageError, match="never overwritten"):
        save_connection(path, other)


def test_a_file_that_others_can_read_or_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wallet"
    path.write_text(EXAMPLE)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        load_connection(path)
    path.chmod(0o600)
    path.write_text(EXAMPLE.replace("secret", "sekret"))
    with pytest.raises(UsageError) as refused:
        load_connection(path)
    assert SECRET not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(("text", "is_one"), [(EXAMPLE, True), (" NOSTR+WALLETCONNECT:x", True), ("/a/path", False)])
def test_a_connection_is_told_from_a_path(text: str, is_one: bool) -> None:
    assert is_connection_text(text) is is_one
