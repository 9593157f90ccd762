"""A connection to LND: read from what LND wrote or from an lndconnect text, kept in private, repeated by nothing."""

import base64
import stat
from pathlib import Path

import pytest

from relaymesh.adapters.lnd_file import (
    MAXIMUM_CONNECTION_CHARACTERS,
    LndConnection,
    format_lnd_connection,
    is_lnd_text,
    load_lnd_connection,
    parse_lnd_connection,
    read_lnd_files,
    save_lnd_connection,
)
from relaymesh.errors import UsageError
from tests.adapters.certificates import make_tls

MACAROON = bytes(range(200, 256))
URL = "https://lnd.example:8080"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    make_tls(tmp_path, "lnd.example")
    return tmp_path / "certificate.pem"


@pytest.fixture
def macaroon(tmp_path: Path) -> Path:
    path = tmp_path / "admin.macaroon"
    path.write_bytes(MACAROON)
    path.chmod(0o640)  # as LND does
    return path


def test_what_lnd_wrote_comes_back_from_the_file_it_is_kept_in(
    tmp_path: Path, certificate: Path, macaroon: Path
) -> None:
    connection = read_lnd_files(URL, macaroon, certificate)
    assert (connection.url, connection.macaroon) == (URL, MACAROON) and connection.certificate
    kept = tmp_path / "connection"
    save_lnd_connection(kept, connection)
    save_lnd_connection(kept, connection)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert load_lnd_connection(kept) == connection
    with pytest.raises(UsageError, match="never overwritten"):
        save_lnd_connection(kept, LndConnection("other:1", b"x"))


def test_an_lndconnect_text_is_read_as_other_wallets_write_it() -> None:
    encoded = base64.urlsafe_b64encode(MACAROON).decode()
    assert (
        "=" in encoded
        and "-" in encoded + "_"
        and parse_lnd_connection(f" lndconnect://[::1]:8080?macaroon={encoded.rstrip('=')}\n")
        == LndConnection("[::1]:8080", MACAROON)
    )
    for each in (LndConnection("a.example:1", b"\x00"), LndConnection("127.0.0.1:65535", MACAROON)):
        assert parse_lnd_connection(format_lnd_connection(each)) == each and is_lnd_text(format_lnd_connection(each))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nostr+walletconnect://x",
        "lndconnect://",
        "lndconnect://a.example?macaroon=c2VjcmV0",
        "lndconnect://a.example:70000?macaroon=c2VjcmV0",
        "lndconnect://me@a.example:1?macaroon=c2VjcmV0",
        "lndconnect://a.example:1",
        "lndconnect://a.example:1?macaroon=",
        "lndconnect://a.example:1?macaroon=c2VjcmV0&macaroon=c2VjcmV0",
        "lndconnect://a.example:1?macaroon=c2Vj*mV0",
        "lndconnect://a.example:1?cert=c2VjcmV0&macaroon=c2VjcmV0",
        "lndconnect://a.example:1?macaroon=c2VjcmV0&x=" + "y" * MAXIMUM_CONNECTION_CHARACTERS,
    ],
)
def test_what_is_no_connection_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError, match="expected a connection to LND") as refused:
        parse_lnd_connection(text)
    assert "c2V" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["http://lnd.example:8080", "https://lnd.example", "https://lnd.example:8080/v1", "lnd.example:8080", "https://"],
)
def test_only_an_https_address_with_a_port_will_do(url: str, macaroon: Path) -> None:
    with pytest.raises(UsageError, match="only by https"):
        read_lnd_files(url, macaroon, None)


def test_a_macaroon_that_everybody_can_read_is_refused_and_so_is_what_is_none(
    tmp_path: Path, certificate: Path, macaroon: Path
) -> None:
    assert read_lnd_files(URL, macaroon, None).certificate == b""
    for wrong, word in ((tmp_path / "absent", "cannot be read"), (_file(tmp_path, b""), "holds no macaroon")):
        with pytest.raises(UsageError, match=word):
            read_lnd_files(URL, wrong, certificate)
    with pytest.raises(UsageError, match="expected a certificate"):
        read_lnd_files(URL, macaroon, macaroon)
    macaroon.chmod(0o644)
    with pytest.raises(UsageError, match="chmod o="):
        read_lnd_files(URL, macaroon, certificate)


def _file(directory: Path, data: bytes) -> Path:
    path = directory / "file"
    path.write_bytes(data)
    path.chmod(0o600)
    return path
