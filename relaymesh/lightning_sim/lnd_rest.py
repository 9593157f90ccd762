"""LND's REST interface to the simulated network: HTTPS on loopback, a macaroon that says which wallet is meant.

Real LND runs one node behind one port; here one port serves every wallet, each by its own macaroon. Certificate and
macaroons stay the same when the network starts again.
"""

import datetime
import hmac
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relaymesh.adapters.lnd_file import LndConnection, save_lnd_connection
from relaymesh.adapters.lnd_link import MACAROON_HEADER
from relaymesh.errors import UsageError
from relaymesh.lightning_sim.lnd_answers import HTTP_STATUSES, INVALID_ARGUMENT, UNKNOWN, Following, LndFailure, Result
from relaymesh.lightning_sim.lnd_commands import answer_lnd, look
from relaymesh.lightning_sim.server import LightningNetwork
from relaymesh.units import MILLISECONDS_PER_SECOND

HOST: Final = "127.0.0.1"
CERTIFICATE_FILE_NAME: Final = "tls.cert"
KEY_FILE_NAME: Final = "tls.key"
MACAROON_FILE_NAME: Final = "admin.macaroon"
CONNECTION_FILE_NAME: Final = "lndconnect"
MAXIMUM_BODY_BYTES: Final = 65_536

_VALID_FROM: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_VALID_UNTIL: Final = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
_PRIVATE_MODE: Final = 0o600


@dataclass(slots=True)
class LndFaults:
    """What goes wrong on purpose, for tests; a path is what follows the host, for example `/v2/router/send`.

    Args:
        lose_answers: For a path, how many of the next answers are never sent, though the request is carried out.
        lose_requests: For a path, how many of the next requests are never heard, though they arrive.
        answer_late_ms: For a path, how late its answers are.
    """

    lose_answers: dict[str, int] = field(default_factory=dict)
    lose_requests: dict[str, int] = field(default_factory=dict)
    answer_late_ms: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LndService:
    """The interface, as it runs.

    Args:
        url: Where it is.
        certificate: The file with its certificate.
        macaroons: For each wallet, the file with its macaroon.
        connections: For each wallet, the file with its connection: all three together.
        faults: What is to go wrong.
    """

    url: str
    certificate: Path
    macaroons: dict[str, Path]
    connections: dict[str, Path]
    faults: LndFaults


@asynccontextmanager
async def serve_lnd(network: LightningNetwork, port: int = 0) -> AsyncIterator[LndService]:
    """Serve every wallet of the network while the block lasts; on asyncio only.

    Raises:
        UsageError: The port is taken.
    """
    certificate, context = _prepare_tls(network.directory)
    macaroons = {name: _make_macaroon(node.secret) for name, node in network.simulation.ledger.nodes.items()}
    service = _Interface(network, {macaroon.hex(): name for name, macaroon in macaroons.items()})
    application = web.Application(client_max_size=MAXIMUM_BODY_BYTES)
    application.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port, ssl_context=context).start()
        except OSError as error:
            raise UsageError(f"LND's interface cannot be served at port {port}: {error.strerror}") from error
        address = f"{HOST}:{runner.addresses[0][1]}"
        connections = {
            name: _write_files(network, name, LndConnection(address, macaroon, certificate))
            for name, macaroon in macaroons.items()
            if not network.simulation.ledger.nodes[name].is_hub
        }
        files = {name: path.with_name(MACAROON_FILE_NAME) for name, path in connections.items()}
        yield LndService(
            f"https://{address}", network.directory / CERTIFICATE_FILE_NAME, files, connections, service.faults
        )
    finally:
        await runner.cleanup()


class _Interface:
    def __init__(self, network: LightningNetwork, wallets: dict[str, str]) -> None:
        self.faults = LndFaults()
        self._network = network
        self._wallets = wallets

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request: carried out, and on record, before it is answered."""
        path = next((each for each in self.faults.lose_requests if request.path.startswith(each)), None)
        if path is not None and self.faults.lose_requests[path] > 0:
            self.faults.lose_requests[path] -= 1
            return self._break_off(request)
        is_stream = request.path.startswith("/v2/")
        try:
            name = self._find_wallet(request)
            if name in self._network.simulation.faults.down:
                return self._break_off(request)
            given = await _read_given(request)
            steps = (request.method, *request.path.strip("/").split("/"))
            answer = self._network.change(lambda simulation, now: answer_lnd(simulation, name, steps, given, now))
        except LndFailure as failure:
            told = {"error": failure.to_json()} if is_stream else failure.to_json()
            return await self._send(request, told, HTTP_STATUSES[failure.code])
        if isinstance(answer, Following):
            return await self._follow(request, name, answer)
        return await self._send(request, answer, 200)

    def _find_wallet(self, request: web.Request) -> str:
        told = request.headers.getall(MACAROON_HEADER, [])
        if len(told) != 1:
            raise LndFailure(UNKNOWN, f"expected 1 macaroon, got {len(told)}")
        name = self._wallets.get(told[0].lower())
        if name is None:
            raise LndFailure(UNKNOWN, "verification failed: signature mismatch after caveat verification")
        return name

    async def _send(self, request: web.Request, answer: Result, status: int) -> web.StreamResponse:
        if await self._is_lost(request):
            return self._break_off(request)
        return web.json_response(answer, status=status)

    async def _follow(self, request: web.Request, name: str, following: Following) -> web.StreamResponse:
        """A stream: one object a line, whenever there is something new, until it is final."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        told: Result | None = None
        while True:
            changed = self._network.next_change
            found, is_final = look(self._network.simulation, name, following)
            if name in self._network.simulation.faults.down or (is_final and await self._is_lost(request)):
                return self._break_off(request)
            if found is not None and found != told:
                if told is None:
                    await response.prepare(request)
                await response.write(json.dumps({"result": found}).encode() + b"\n")
                told = found
            if is_final:
                return response
            await changed.wait()

    async def _is_lost(self, request: web.Request) -> bool:
        for path, late_ms in self.faults.answer_late_ms.items():
            if request.path.startswith(path):
                await anyio.sleep(late_ms / MILLISECONDS_PER_SECOND)
        for path, left in self.faults.lose_answers.items():
            if request.path.startswith(path) and left > 0:
                self.faults.lose_answers[path] -= 1
                return True
        return False

    def _break_off(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)


async def _read_given(request: web.Request) -> dict[str, Any]:
    if request.method == "GET":
        return dict(request.query)
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise LndFailure(INVALID_ARGUMENT, "proto: syntax error") from error
    if not isinstance(body, dict):
        raise LndFailure(INVALID_ARGUMENT, "proto: syntax error: unexpected token")
    return body


def _make_macaroon(secret: str) -> bytes:
    """Stands for a macaroon; what is in it is the node's own affair."""
    return b"simulated " + hmac.digest(bytes.fromhex(secret), b"relaymesh lnd: admin macaroon", "sha256")


def _write_files(network: LightningNetwork, name: str, connection: LndConnection) -> Path:
    folder = network.rpc_path(name).parent
    _write_private(folder / MACAROON_FILE_NAME, connection.macaroon)
    path = folder / CONNECTION_FILE_NAME
    path.unlink(missing_ok=True)
    save_lnd_connection(path, connection)
    return path


def _prepare_tls(directory: Path) -> tuple[bytes, ssl.SSLContext]:
    """The certificate (DER) and the server's side of TLS; made where there is none."""
    certificate_file, key_file = directory / CERTIFICATE_FILE_NAME, directory / KEY_FILE_NAME
    if not (certificate_file.exists() and key_file.exists()):
        _make_certificate(certificate_file, key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return ssl.PEM_cert_to_DER_cert(certificate_file.read_text()), context


def _make_certificate(certificate_file: Path, key_file: Path) -> None:
    """Self-signed, with a curve and names like those of LND's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lnd autogenerated cert"),
        x509.NameAttribute(NameOID.COMMON_NAME, "localhost"),
    ]
    subject = x509.Name(attributes)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.NoEncryption()
    _write_private(
        key_file, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(_PRIVATE_MODE)
    path.write_bytes(data)
