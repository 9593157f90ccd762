"""Core Lightning's JSON-RPC from an event loop: pyln-client in threads that never outlive a cancelled call.

pyln-client opens one connection per call and blocks on it without any deadline. Here each call runs in a daemon thread,
and cancelling it (or its deadline) shuts the connection down, which ends the thread at once; a thread stuck even so
cannot hold up the process's exit. Everything pyln-client and the socket may raise becomes one of three errors.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.from_thread
import anyio.lowlevel
from pyln.client import LightningRpc, RpcError

from relaymesh.errors import LightningError

UNKNOWN_METHOD: Final = -32601
"""JSON-RPC's code for a method that the node does not have."""

_UNREADABLE: Final = 0
_LONGEST_MESSAGE: Final = 300
_SOCKET_SLACK_SECONDS: Final = 5


class NodeUnreachable(LightningError):
    """The Lightning node could not be connected to, so the request never left this process."""


class NodeSilent(LightningError):
    """The request may have reached the Lightning node, but its answer did not come back."""


class NodeRefused(LightningError):
    """The Lightning node answered with an error.

    Args:
        code: As Core Lightning numbers them; 0 where the answer made no sense.
        reason: The node's own words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the Lightning node refused the request ({code}): {reason}")
        self.code = code
        self.reason = reason


class NodeRpc:
    """The JSON-RPC socket of one Lightning node.

    Args:
        rpc_path: The socket, `lightning-rpc` in the node's network folder.
    """

    def __init__(self, rpc_path: Path) -> None:
        self.rpc_path = rpc_path

    async def call(
        self, method: str, parameters: dict[str, Any], limiter: anyio.CapacityLimiter | None, deadline_seconds: float
    ) -> dict[str, Any]:
        """Call `method` and return its result; waiting for a place in `limiter`, if any, counts towards the deadline.

        Raises:
            NodeUnreachable: Nothing was sent.
            NodeSilent: Something was sent, and no answer came before the deadline or the connection's end.
            NodeRefused: The node answered with an error.
        """
        exchange = _Exchange(self.rpc_path, method, parameters, deadline_seconds + _SOCKET_SLACK_SECONDS)
        try:
            with anyio.fail_after(deadline_seconds):
                async with limiter or nullcontext():
                    return await _run_in_daemon_thread(exchange.run, exchange.hang_up)
        except TimeoutError:
            if exchange.is_sent:
                raise NodeSilent(f"the Lightning node did not answer {method} in {deadline_seconds:.1f} s") from None
            raise NodeUnreachable(f"the Lightning node took no {method} in {deadline_seconds:.1f} s") from None


class _SilentLogger:
    """pyln-client logs every request, preimages included: this is what it logs to."""

    def debug(self, *_words: object) -> None:
        """Keep it to oneself."""


class _Exchange:
    """One call on one connection, which another thread may hang up."""

    def __init__(self, rpc_path: Path, method: str, parameters: dict[str, Any], socket_timeout: float) -> None:
        self.is_sent = False
        self._method = method
        self._parameters = parameters
        self._socket_timeout = socket_timeout
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_hung_up = False
        self._rpc = LightningRpc(str(rpc_path), logger=_SilentLogger())
        self._write = self._rpc._writeobj
        self._rpc._writeobj = self._send

    def run(self) -> dict[str, Any]:
        """Make the call, in a thread of its own."""
        try:
            result = self._call()
        finally:
            with self._lock:
                if self._socket is not None:
                    self._socket.close()
        if not isinstance(result, dict):
            raise NodeSilent(f"the Lightning node's answer to {self._method} was not an object")
        return result

    def _call(self) -> object:
        try:
            return self._rpc.call(self._method, self._parameters)
        except RpcError as error:
            failure = self._explain(error.error)
        except OSError as error:
            if self.is_sent:
                raise NodeSilent(f"the connection to the Lightning node broke during {self._method}") from error
            path = self._rpc.socket_path
            if isinstance(error, FileNotFoundError):
                raise NodeUnreachable(f"there is no Lightning node's socket at {path}; is the node running?") from error
            raise NodeUnreachable(f"the Lightning node at {path} does not answer") from error
        except Exception:  # noqa: BLE001 - pyln-client raises whatever a malformed answer makes its parsing raise
            failure = NodeSilent(f"the Lightning node's answer to {self._method} made no sense")
        # Raised out here, apart from its cause, whose text repeats request and answer: they may hold a preimage.
        raise failure

    def hang_up(self) -> None:
        """End the call from another thread; afterwards `is_sent` no longer changes."""
        with self._lock:
            self._is_hung_up = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, connection: Any, request: object) -> None:
        """What pyln-client calls to write its request: the one place where its connection can be got hold of."""
        with self._lock:
            self._socket = connection.sock
            if self._is_hung_up:
                raise ConnectionAbortedError("hung up before the request was sent")
            self.is_sent = True
        connection.sock.settimeout(self._socket_timeout)
        self._write(connection, request)

    def _explain(self, error: object) -> LightningError:
        """A lost connection comes as a plain string, everything else as an object with a code."""
        if not isinstance(error, dict):
            return NodeSilent(f"the connection to the Lightning node was lost during {self._method}")
        code, message = error.get("code"), error.get("message")
        if not isinstance(code, int):
            code = _UNREADABLE
        text = str(message)
        if "preimage" in self._parameters:  # the node quotes what it does not like
            text = text.replace(self._parameters["preimage"], "…")
        return NodeRefused(code, text[:_LONGEST_MESSAGE])


async def _run_in_daemon_thread(work: Callable[[], dict[str, Any]], hang_up: Callable[[], None]) -> dict[str, Any]:
    """Run blocking `work` in a thread that no exit waits for; `hang_up` is called where nobody waits for it any more.

    anyio's own worker threads will not do: the interpreter joins them at exit, however long their call still blocks.
    """
    results: list[dict[str, Any]] = []
    failures: list[Exception] = []
    done = anyio.Event()
    token = anyio.lowlevel.current_token()

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - handed to the task that waits
            failures.append(error)
        with suppress(RuntimeError):  # the event loop is gone: nobody waits
            anyio.from_thread.run_sync(done.set, token=token)

    try:
        threading.Thread(target=run, name="core-lightning-call", daemon=True).start()
    except RuntimeError as error:
        raise NodeUnreachable("the system gives this process no more threads to call its Lightning node in") from error
    try:
        await done.wait()
    except BaseException:
        hang_up()
        raise
    if failures:
        raise failures[0]
    return results[0]
