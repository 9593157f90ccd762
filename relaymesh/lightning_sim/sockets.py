"""Unix sockets for the simulated nodes.

Plain sockets that wait through `anyio.wait_readable`, not anyio's own streams: where one of those is cancelled in the
same turn in which data arrives, as happens when Ctrl-C ends both sides, asyncio prints an `InvalidStateError`.
"""

import socket
from pathlib import Path
from typing import Final, Self

import anyio

_BACKLOG: Final = 128
_CHUNK_BYTES: Final = 65_536
_PAUSE_SECONDS: Final = 0.02


class Listener:
    """A socket in the file system that only its owner can connect to; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(_BACKLOG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    async def accept(self) -> "Connection":
        """The next client."""
        while True:
            await anyio.wait_readable(self._socket)
            try:
                return Connection(self._socket.accept()[0])
            except OSError:  # the client has gone again, or no more files can be opened for a while
                await anyio.sleep(_PAUSE_SECONDS)


class Connection:
    """One client; use it in a `with` block."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        self._writing = anyio.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    async def receive(self) -> bytes:
        """What has come; nothing once the client has closed or is gone."""
        while True:
            await anyio.wait_readable(self._socket)
            try:
                return self._socket.recv(_CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def send(self, data: bytes) -> None:
        """Send all of it, in one piece even where several tasks send; to a client that is gone, nothing."""
        async with self._writing:
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
                except OSError:
                    return
