"""`python -m relaymesh_relay`: run the relay until Ctrl-C or SIGTERM."""

import argparse
import gc
import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from relaymesh.errors import RelayMeshError
from relaymesh_relay.server import serve
from relaymesh_relay.settings import Settings, choose_settings

# Events on their way are many and hold no cycles: look for cycles seldom.
_COLLECTOR_THRESHOLDS = (50_000, 20, 50)
_OTHER_FILES = 100


def main() -> int:
    """Run the command; returns its exit code."""
    arguments = _parse_arguments()
    try:
        reread = partial(_read_settings, arguments)
        failure = anyio.run(_run, reread, arguments.json, backend_options={"use_uvloop": _has_uvloop()})
        if failure is not None:
            raise failure
    except RelayMeshError as error:
        print(f"relaymesh-relay: {error}", file=sys.stderr)
        return 1
    return 0


def _read_settings(arguments: argparse.Namespace) -> Settings:
    """What the file and the command line say now, with room for as many connections."""
    settings = choose_settings(arguments.config, host=arguments.host, port=arguments.port, database=arguments.database)
    _allow_open_files(settings.network.connections)
    return settings


async def _run(reread: Callable[[], Settings], as_json: bool) -> RelayMeshError | None:
    """Serve until a signal comes; returns why the relay could not serve, since a task group would wrap it."""

    def announce(url: str) -> None:
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        print(json.dumps({"relay_url": url}) if as_json else f"relay listening on {url}", flush=True)

    def log(line: str) -> None:
        print(f"relaymesh-relay: {line}", file=sys.stderr, flush=True)

    settings = reread()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        try:
            await serve(settings, started=announce, log=log, reread=reread)
        except RelayMeshError as error:
            tasks.cancel_scope.cancel()
            return error
    return None


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="relaymesh-relay", description="Run the bundled Nostr relay.")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 takes a free one (default 7777)")
    parser.add_argument("--database", type=Path, help="SQLite file of events, or :memory: (default relay.sqlite3)")
    parser.add_argument("--config", type=Path, help="TOML file of settings; the options above go before it")
    parser.add_argument("--json", action="store_true", help="announce the address as one JSON object")
    return parser.parse_args()


def _allow_open_files(connections: int) -> None:
    """Ask the system for as many open files as connections may need; it grants what it grants."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _has_uvloop() -> bool:
    try:
        import uvloop
    except ImportError:
        return False
    return bool(uvloop)


if __name__ == "__main__":
    sys.exit(main())
