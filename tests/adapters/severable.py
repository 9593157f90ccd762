"""A TCP proxy on 127.0.0.1 whose cable can be pulled and plugged in again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream, TaskGroup


class SeverableProxy:
    """Forwards to a port of this machine, as long as it is not severed.

    Args:
        target_port: Where to forward to.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.port = 0
        self.connections = 0
        self._group: TaskGroup | None = None
        self._cable: anyio.CancelScope | None = None
        self._unplugged = anyio.Event()

    async def plug_in(self) -> None:
        """Accept connections, at the same port each time."""
        assert self._group is not None
        await self._group.start(self._serve)

    async def pull(self) -> None:
        """Break every connection and refuse new ones."""
        if self._cable is not None:
            self._cable.cancel()
            await self._unplugged.wait()

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self._unplugged = anyio.Event()
        try:
            with anyio.CancelScope() as self._cable:
                listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
                async with listener:
                    self.port = int(listener.extra(anyio.abc.SocketAttribute.local_port))
                    task_status.started()
                    await listener.serve(self._forward)
        finally:
            self._cable = None
            self._unplugged.set()

    async def _forward(self, near: SocketStream) -> None:
        self.connections += 1
        async with near:
            try:
                far = await anyio.connect_tcp("127.0.0.1", self._target_port)
            except OSError:
                return
            async with far, anyio.create_task_group() as group:
                group.start_soon(_pump, near, far, group.cancel_scope)
                group.start_soon(_pump, far, near, group.cancel_scope)


async def _pump(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
    try:
        async for chunk in source:
            await sink.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    scope.cancel()


@asynccontextmanager
async def severable(target_port: int) -> AsyncIterator[SeverableProxy]:
    """A proxy to this port, plugged in."""
    proxy = SeverableProxy(target_port)
    async with anyio.create_task_group() as group:
        proxy._group = group
        await proxy.plug_in()
        yield proxy
        group.cancel_scope.cancel()
