"""The demonstration's mesh: relay, Lightning network and three nodes, each a process of its own, started and ended."""

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from relaymesh.configuration import format_document
from relaymesh.errors import UsageError

READY_SECONDS: Final = 30
STOP_SECONDS: Final = 1.5
LONGEST_LINE: Final = 65_536
BUYER: Final = "buyer"
BUYER_MSAT: Final = 50_000_000
NODE_MSAT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One of the three: its label, its prices, and how fast it lets its engine answer."""

    label: str
    input_msat: int
    output_msat: int
    outputs_per_second: int


NODES: Final = (
    DemoNode("amber", input_msat=400, output_msat=4_000, outputs_per_second=40),
    DemoNode("birch", input_msat=700, output_msat=9_000, outputs_per_second=80),
    DemoNode("cedar", input_msat=300, output_msat=15_000, outputs_per_second=0),
)
"""Amber answers cheapest, cedar fastest; cedar reads input (and so computes embeddings) cheapest."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """What is running.

    Args:
        directory: Where all of it keeps its files.
        relay_url: The relay.
        rpc_paths: Every wallet's JSON-RPC socket, by wallet name; the hub's is apart.
        hub_rpc_path: The routing hub's socket.
        nodes: What each node said of itself when it was ready, by label.
        client_config: Settings with which the commands reach this mesh.
    """

    directory: Path
    relay_url: str
    rpc_paths: Mapping[str, str]
    hub_rpc_path: str
    nodes: Mapping[str, Mapping[str, Any]]
    client_config: Path


@asynccontextmanager
async def start_mesh(directory: Path) -> AsyncIterator[Mesh]:
    """Start everything, wait until it is ready, and end it all with the block.

    Raises:
        UsageError: A process did not start; the sentence has its last words.
    """
    async with AsyncExitStack() as stack:
        facts: dict[str, dict[str, Any]] = {}

        async def start(name: str, arguments: Sequence[str]) -> None:
            log = directory / f"{name}.log"
            process = await stack.enter_async_context(_process(arguments, log))
            facts[name] = await _wait_ready(process, name, log)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start, "relay", _relay_command(directory))
            tasks.start_soon(start, "lightning", _lightning_command(directory))
        relay_url = facts["relay"]["relay_url"]
        wallets = facts["lightning"]["wallets"]
        async with anyio.create_task_group() as tasks:
            for node in NODES:
                config = _write_node_config(directory, node, relay_url, wallets[node.label]["rpc_path"])
                command = ["-m", "relaymesh", "node", "serve", "--config", str(config), "--json"]
                tasks.start_soon(start, node.label, command)
        rpc_paths = {name: wallet["rpc_path"] for name, wallet in wallets.items()}
        client_config = _write_client_config(directory, relay_url, rpc_paths[BUYER])
        nodes = {node.label: facts[node.label] for node in NODES}
        hub = facts["lightning"]["hub"]["rpc_path"]
        yield Mesh(directory, relay_url, rpc_paths, hub, nodes, client_config)


def _relay_command(directory: Path) -> list[str]:
    return ["-m", "relaymesh_relay", "--port", "0", "--database", str(directory / "relay.sqlite3"), "--json"]


def _lightning_command(directory: Path) -> list[str]:
    wallets = [f"{BUYER}={BUYER_MSAT}", *(f"{node.label}={NODE_MSAT}" for node in NODES)]
    options = [part for wallet in wallets for part in ("--wallet", wallet)]
    return ["-m", "relaymesh.lightning_sim", "--directory", str(directory / "lightning"), *options]


def _write_node_config(directory: Path, node: DemoNode, relay_url: str, rpc_path: str) -> Path:
    settings: dict[str, dict[str, object]] = {
        "network": {"relays": [relay_url]},
        "files": {"directory": str(directory / node.label)},
        "wallet": {"lightning_rpc": rpc_path},
        "node": {
            "label": node.label,
            "port": 0,
            "runner": "embedded",
            "input_msat": node.input_msat,
            "output_msat": node.output_msat,
            "minimum_msat": 100,
            "tranche_units": 128,
            "output_tokens_per_second": node.outputs_per_second,
            "heartbeat_seconds": 20,
        },
    }
    return _write_toml(directory / f"{node.label}.toml", settings)


def _write_client_config(directory: Path, relay_url: str, rpc_path: str) -> Path:
    settings: dict[str, dict[str, object]] = {
        "network": {"relays": [relay_url], "allow_private": True},
        "files": {"directory": str(directory / "client")},
        "wallet": {"lightning_rpc": rpc_path},
    }
    return _write_toml(directory / "client.toml", settings)


def _write_toml(path: Path, tables: Mapping[str, Mapping[str, object]]) -> Path:
    path.write_text(format_document(tables), encoding="utf-8")
    return path


@asynccontextmanager
async def _process(arguments: Sequence[str], log: Path) -> AsyncIterator[Process]:
    with log.open("wb") as errors:
        process = await anyio.open_process([sys.executable, *arguments], stdin=None, stderr=errors)
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()
    await process.aclose()


async def _wait_ready(process: Process, name: str, log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        with anyio.fail_after(READY_SECONDS):
            line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", LONGEST_LINE)
        facts: dict[str, Any] = json.loads(line)
    except (anyio.IncompleteRead, anyio.EndOfStream, TimeoutError, ValueError) as error:
        words = (await anyio.Path(log).read_text(encoding="utf-8", errors="replace")).strip().splitlines()
        raise UsageError(f"{name} did not start: {words[-1] if words else 'it said nothing'}") from error
    return facts
