"""Cutting a byte stream into JSON-RPC requests: objects that follow one another with or without space between."""

import json
from typing import Any, Final

from relaymesh.lightning_sim.answers import RpcFailure

MAXIMUM_REQUEST_BYTES: Final = 1_048_576
_INVALID_REQUEST: Final = -32600


class RequestReader:
    """Collects bytes until they make a request."""

    def __init__(self) -> None:
        self._buffer = b""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take in what arrived and hand out the requests that are now complete.

        Raises:
            RpcFailure: What arrived can never become a request; the connection is of no more use.
        """
        self._buffer += data
        requests = []
        while (request := self._cut_one()) is not None:
            requests.append(request)
        return requests

    def _cut_one(self) -> dict[str, Any] | None:
        try:
            text = self._buffer.decode().lstrip()
            request, end = self._decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            if len(self._buffer) > MAXIMUM_REQUEST_BYTES or self._buffer.lstrip()[:1] not in (b"", b"{"):
                raise RpcFailure(_INVALID_REQUEST, "Invalid JSON-RPC request") from error
            return None
        self._buffer = text[end:].encode()
        if not isinstance(request, dict):
            raise RpcFailure(_INVALID_REQUEST, "Invalid JSON-RPC request: should be an object")
        return request
