"""Requests to LND's REST interface, each with a deadline: short calls, and streams of one JSON object a line.

LND's own documentation, "REST": bytes in base64, 64-bit numbers as text, a no as `{code, message, details}` with gRPC's
codes. Whether a request left this machine decides what its failure means, so failing to connect and getting no answer
are two errors. What moves money or streams has a connection of its own: an idle one may be gone without our knowing.
"""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Self

import aiohttp
import anyio
import orjson

from relaymesh.adapters.lnd_file import LndConnection
from relaymesh.errors import LightningError

ALREADY_EXISTS: Final = 6
NOT_FOUND: Final = 5
"""gRPC's codes, as far as anything depends on them."""

MAXIMUM_ANSWER_BYTES: Final = 8_388_608
MACAROON_HEADER: Final = "Grpc-Metadata-macaroon"

_CONNECT_SECONDS: Final = 5.0
_MAXIMUM_REASON_CHARACTERS: Final = 300


class LndUnreachable(LightningError):
    """Nothing was asked: no connection could be made."""


class LndSilent(LightningError):
    """The request left, and no answer came, or one that makes no sense: whatever it asked for may have happened."""


class LndRefused(LightningError):
    """LND's own no: a gRPC code and its words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"LND refused: {reason}")
        self.code = code
        self.reason = reason


class LndLink:
    """The conversation with one node, while `open`'s block lasts."""

    def __init__(
        self, connection: LndConnection, idempotent: aiohttp.ClientSession, once: aiohttp.ClientSession
    ) -> None:
        self._connection = connection
        self._idempotent = idempotent
        self._once = once

    @classmethod
    @asynccontextmanager
    async def open(cls, connection: LndConnection) -> AsyncIterator[Self]:
        """The link; nothing is connected before something is asked."""
        context = ssl.create_default_context(cadata=connection.certificate or None)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted, whoever signed it
        async with (
            _session(connection, aiohttp.TCPConnector(ssl=context, limit=0)) as idempotent,
            _session(connection, aiohttp.TCPConnector(ssl=context, limit=0, force_close=True)) as once,
        ):
            yield cls(connection, idempotent, once)

    async def call(
        self,
        method: str,
        path: str,
        seconds: float,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Ask something that may be asked again, and take the whole answer.

        Raises:
            LndUnreachable: Nothing was asked.
            LndRefused: LND said no.
            LndSilent: There was no answer in time, or one that makes no sense.
        """
        data = None if body is None else orjson.dumps(body)
        try:
            with anyio.fail_after(seconds):
                async with self._request(self._idempotent, method, path, data, query) as response:
                    return _read_answer(response.status, await _read_all(response))
        except TimeoutError as error:
            raise LndSilent("LND did not answer in time", retryable=True) from error

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any], None]]:
        """Ask something whose answer comes piece by piece; only the caller bounds it. Raises as `call`."""
        data = None if body is None else orjson.dumps(body)
        async with (
            self._request(self._once, method, path, data, query) as response,
            aclosing(_read_stream(response)) as results,
        ):
            yield results

    @asynccontextmanager
    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        data: bytes | None,
        query: Mapping[str, str] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{self._connection.url}{path}"
        try:
            async with session.request(method, url, data=data, params=query, allow_redirects=False) as response:
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            reason = "its TLS certificate is not the one that belongs to the connection"
            raise LndUnreachable(f"LND at {self._connection.address} cannot be reached: {reason}") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            reason = _reason(error)
            raise LndUnreachable(
                f"LND at {self._connection.address} cannot be reached: {reason}", retryable=True
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise LndSilent(f"the connection to LND broke: {type(error).__name__}", retryable=True) from error


def _session(connection: LndConnection, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        headers={MACAROON_HEADER: connection.macaroon.hex(), "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
    )


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return getattr(cause, "strerror", None) or type(cause).__name__


async def _read_all(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > MAXIMUM_ANSWER_BYTES:
            raise LndSilent(f"LND's answer has more than {MAXIMUM_ANSWER_BYTES} bytes")
    return bytes(data)


def _read_answer(status: int, data: bytes) -> dict[str, Any]:
    answer = _parse(data)
    if status == 200:
        return answer
    raise _refusal(answer)


async def _read_stream(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
    """Each `result`, as it comes; a no, before the first or after any of them, is raised."""
    if response.status != 200:
        raise _refusal(_parse(await _read_all(response)))
    held = bytearray()
    async for piece in response.content.iter_any():
        held += piece
        if len(held) > MAXIMUM_ANSWER_BYTES:
            raise LndSilent(f"a line of LND's answer has more than {MAXIMUM_ANSWER_BYTES} bytes")
        *lines, rest = held.split(b"\n")
        held = bytearray(rest)
        for line in lines:
            if line.strip():
                yield _read_line(line)
    if held.strip():
        yield _read_line(held)


def _read_line(line: bytes | bytearray) -> dict[str, Any]:
    answer = _parse(bytes(line))
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    raise _refusal(answer)


def _refusal(answer: dict[str, Any]) -> LightningError:
    """A no; a stream's is wrapped once more."""
    told = answer.get("error")
    told = told if isinstance(told, dict) else answer
    code, message = told.get("code"), told.get("message")
    if type(code) is not int or not isinstance(message, str):
        return LndSilent("LND's answer should say why it refuses, it does not: is that its REST interface?")
    return LndRefused(code, message[:_MAXIMUM_REASON_CHARACTERS])


def _parse(data: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LndSilent("LND's answer should be JSON, it is not: is that its REST interface?") from error
    if not isinstance(answer, dict):
        raise LndSilent("LND's answer should be a JSON object, it is not")
    return answer
