"""How to reach a Lightning node that runs LND, and the file that keeps it: its address, macaroon and certificate.

`lndconnect://HOST:PORT?cert=CERTIFICATE&macaroon=MACAROON` (the lndconnect format, URL-safe base64 without padding, the
certificate as DER): whoever has it can spend. So it lives in a file of its owner, is shown by nothing, and no complaint
about it repeats any of it. Without a certificate the node has to have one that the machine trusts anyway.
"""

import base64
import binascii
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from relaymesh.adapters.key_files import keep_secret, read_secret
from relaymesh.errors import UsageError

SCHEME: Final = "lndconnect"
MAXIMUM_CONNECTION_CHARACTERS: Final = 4_096
MAXIMUM_FILE_BYTES: Final = 16_384
"""No macaroon and no certificate is longer; a file that is was named by mistake."""

_EXPECTED: Final = f"expected a connection to LND, {SCHEME}://HOST:PORT?cert=CERTIFICATE&macaroon=MACAROON"
_EXPECTED_URL: Final = "expected where LND answers REST calls, for example https://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class LndConnection:
    """Where LND's REST interface is and how it lets us in.

    Args:
        address: Host and port.
        macaroon: What is presented with every request; a secret.
        certificate: The one that the node must show, as DER; empty trusts what the machine trusts.
    """

    address: str
    macaroon: bytes = field(repr=False)
    certificate: bytes = field(default=b"", repr=False)

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"https://{self.address}"


def is_lnd_text(text: str) -> bool:
    """Whether this means to be a connection to LND."""
    return text.strip().lower().startswith(f"{SCHEME}:")


def parse_lnd_connection(text: str) -> LndConnection:
    """Read an lndconnect text.

    Raises:
        UsageError: It is none; the sentence repeats nothing of it.
    """
    text = text.strip()
    if len(text) > MAXIMUM_CONNECTION_CHARACTERS or not is_lnd_text(text):
        raise UsageError(f"{_EXPECTED} with at most {MAXIMUM_CONNECTION_CHARACTERS} characters")
    try:
        parts = urlsplit(text)
        address = _read_address(parts.netloc)
        given = parse_qs(parts.query, strict_parsing=True)
        macaroons, certificates = given.get("macaroon", []), given.get("cert", [])
        if len(macaroons) != 1 or len(certificates) > 1:
            raise ValueError
        macaroon = _decode(macaroons[0])
        certificate = _decode(certificates[0]) if certificates else b""
        if certificate:
            _check_certificate(certificate)
    except (ValueError, binascii.Error):
        raise UsageError(f"{_EXPECTED}, the last two in URL-safe base64") from None
    return LndConnection(address, macaroon, certificate)


def format_lnd_connection(connection: LndConnection) -> str:
    """The lndconnect text, for a file or for whoever is to have the wallet; never for a message or a log."""
    certificate = f"cert={_encode(connection.certificate)}&" if connection.certificate else ""
    return f"{SCHEME}://{connection.address}?{certificate}macaroon={_encode(connection.macaroon)}"


def read_lnd_files(url: str, macaroon_file: Path, certificate_file: Path | None) -> LndConnection:
    """A connection, from where LND is and the files that LND wrote.

    Raises:
        UsageError: The URL is none, a file cannot be read or holds something else, or everybody may read the macaroon.
    """
    parts = urlsplit(url)
    try:
        if parts.scheme != "https" or parts.path.strip("/") or parts.query:
            raise ValueError
        address = _read_address(parts.netloc)
    except ValueError:
        raise UsageError(f"{_EXPECTED_URL}; only by https, since the macaroon is a secret") from None
    macaroon = _read_file(macaroon_file, "macaroon", is_secret=True)
    certificate = b""
    if certificate_file is not None:
        try:
            certificate = ssl.PEM_cert_to_DER_cert(_read_file(certificate_file, "certificate").decode("ascii"))
            _check_certificate(certificate)
        except ValueError:
            raise UsageError(f"expected a certificate (PEM) in {certificate_file}, LND's is tls.cert") from None
    return LndConnection(address, macaroon, certificate)


def load_lnd_connection(path: Path) -> LndConnection:
    """The connection in this file.

    Raises:
        UsageError: There is no such file, others can read it, or it holds something else.
    """
    text = read_secret(path)
    try:
        return parse_lnd_connection(text)
    except UsageError as error:
        raise UsageError(f"the connection in {path} cannot be used: {error}") from None


def save_lnd_connection(path: Path, connection: LndConnection) -> None:
    """Keep the connection in a file that only its owner can read; the same one again changes nothing.

    Raises:
        UsageError: There is another file of that name (it stays as it is), or it cannot be written.
    """
    keep_secret(path, format_lnd_connection(connection))


def _read_address(netloc: str) -> str:
    parts = urlsplit(f"//{netloc}")
    if not parts.hostname or parts.port is None or parts.username is not None or not netloc.isascii():
        raise ValueError("expected a host and a port")
    return netloc.lower()


def _read_file(path: Path, what: str, *, is_secret: bool = False) -> bytes:
    """LND writes its macaroons for itself and its group; one that everybody can read is no secret any more."""
    try:
        if is_secret and path.stat().st_mode & stat.S_IRWXO:
            raise UsageError(f"everybody on this machine can read the {what} {path}: run chmod o= {path}")
        with path.open("rb") as file:
            data = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from error
    if not 0 < len(data) <= MAXIMUM_FILE_BYTES:
        raise UsageError(f"the file {path} holds no {what}: it should have 1 to {MAXIMUM_FILE_BYTES} bytes")
    return data


def _check_certificate(certificate: bytes) -> None:
    try:
        ssl.create_default_context(cadata=certificate)
    except ssl.SSLError as error:
        raise ValueError("expected a certificate") from error


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if not data:
        raise ValueError("expected something")
    return data
