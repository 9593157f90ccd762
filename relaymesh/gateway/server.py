"""The gateway over HTTP: uvicorn on sockets of ours, ended with the block that began it."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import anyio
import uvicorn

from relaymesh.errors import UsageError
from relaymesh.gateway.application import Application

GRACE_SECONDS: Final = 2
"""How long answers under way have when the gateway is stopped."""
BACKLOG: Final = 2_048


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever started it, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are not ours."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        self.is_listening.set()


@asynccontextmanager
async def open_server(application: Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block lasts; yields the URL that clients take as their base.

    At its end whatever is being bought is given up, and whoever waits for it is told so.

    Raises:
        UsageError: The address cannot be listened on.
    """
    listening = _listen(host, port)
    config = uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serve, server, listening)
        try:
            await server.is_listening.wait()
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{listening.getsockname()[1]}/v1"
        finally:
            application.stop()
            server.should_exit = True


async def _serve(server: _Server, listening: socket.socket) -> None:
    """Until it is told to end; a cancellation from outside is heard through that, so that answers can finish."""
    with anyio.CancelScope(shield=True), listening:
        await server.serve(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"the gateway cannot listen on {host}:{port}: {error.strerror}; choose another port"
        ) from error
    listening.setblocking(False)
    # What it accepts inherits this: an answer's last piece must not wait 40 ms for the reader's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
