"""`python -m relaymesh.lightning_sim`: run a simulated Lightning network and say on one line, in JSON, where it is."""

import argparse
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from relaymesh.errors import LedgerError, UsageError
from relaymesh.lightning_sim.plan import HUB_NAME, NetworkPlan, WalletPlan
from relaymesh.lightning_sim.records import NETWORK
from relaymesh.lightning_sim.server import LightningNetwork
from relaymesh.lightning_sim.wallet_connect import serve_wallets
from relaymesh.units import MICROSECONDS_PER_MILLISECOND, MILLISECONDS_PER_SECOND, Instant, Moment

if TYPE_CHECKING:
    from relaymesh.lightning_sim.lnd_rest import LndService

NANOSECONDS_PER_MILLISECOND: Final = 1_000_000


def main() -> int:
    """Run until SIGINT or SIGTERM; 0 then, 2 where the arguments or the folder cannot be used."""
    try:
        anyio.run(serve, *read_arguments(sys.argv[1:]))
    except (UsageError, LedgerError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def read_arguments(arguments: list[str]) -> tuple[Path, NetworkPlan, tuple[str, ...], int | None]:
    """Folder, plan, the wallet services' relays and LND's port; UsageError where a value makes no sense."""
    defaults = NetworkPlan(())
    parser = argparse.ArgumentParser("python -m relaymesh.lightning_sim", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where sockets and balances are kept")
    parser.add_argument("--wallet", action="append", default=[], metavar="NAME=MSAT", help="a wallet, if new with MSAT")
    parser.add_argument("--inbound-msat", type=int, default=WalletPlan("", 0).inbound_msat)
    parser.add_argument("--fee-base-msat", type=int, default=defaults.fee_base_msat)
    parser.add_argument("--fee-proportional-millionths", type=int, default=defaults.fee_proportional_millionths)
    parser.add_argument("--payment-latency-ms", type=int, default=defaults.payment_latency_ms, help="per channel")
    parser.add_argument("--hold", action="append", default=[], metavar="NAME=SECONDS", help="hold payments to NAME")
    parser.add_argument("--wallet-connect", action="append", default=[], metavar="URL", help="serve NIP-47 at a relay")
    parser.add_argument("--lnd-port", type=int, help="serve LND's REST interface there; 0 takes a free one")
    given = parser.parse_args(arguments)
    wallets = [WalletPlan(*_read_pair(text, "--wallet NAME=MSAT"), given.inbound_msat) for text in given.wallet]
    holds = [_read_pair(text, "--hold NAME=SECONDS") for text in given.hold]
    plan = NetworkPlan(
        wallets=tuple(wallets),
        fee_base_msat=given.fee_base_msat,
        fee_proportional_millionths=given.fee_proportional_millionths,
        payment_latency_ms=given.payment_latency_ms,
        hold_ms=tuple((name, seconds * MILLISECONDS_PER_SECOND) for name, seconds in holds),
    )
    return given.directory, plan, tuple(given.wallet_connect), given.lnd_port


async def serve(directory: Path, plan: NetworkPlan, relay_urls: tuple[str, ...], lnd_port: int | None) -> None:
    """Run the network, the wallet services at these relays and LND's interface, until a signal asks for its end."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            LightningNetwork.start(directory, plan, system_clock_ms) as network,
            serve_wallets(network, relay_urls, system_clock) as connections,
            serve_lnd_at(network, lnd_port) as lnd,
        ):
            print(json.dumps(describe(network, connections, lnd)), flush=True)
            async for _ in signals:
                break


def system_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // NANOSECONDS_PER_MILLISECOND


def system_clock() -> Moment:
    """What the machine's clocks say."""
    return Moment(Instant(time.monotonic_ns() // MICROSECONDS_PER_MILLISECOND), system_clock_ms())


@asynccontextmanager
async def serve_lnd_at(network: LightningNetwork, port: int | None) -> AsyncIterator["LndService | None"]:
    """LND's interface while the block lasts, where a port is named."""
    if port is None:
        yield None
        return
    from relaymesh.lightning_sim.lnd_rest import serve_lnd

    async with serve_lnd(network, port) as service:
        yield service


def describe(
    network: LightningNetwork, connections: Mapping[str, Path], lnd: "LndService | None" = None
) -> dict[str, object]:
    """What the line says: every node's socket, id and balance, and the files with its connections."""
    nodes: dict[str, dict[str, object]] = {
        name: {
            "rpc_path": str(network.rpc_path(name)),
            "public_key": node.public_key,
            "balance_msat": network.simulation.ledger.balance_msat(node),
        }
        for name, node in network.simulation.ledger.nodes.items()
    }
    for name, path in connections.items():
        nodes[name]["wallet_connect"] = str(path)
    facts: dict[str, object] = {"network": NETWORK, "directory": str(network.directory)}
    if lnd is not None:
        for name, path in lnd.connections.items():
            nodes[name] |= {"lnd": str(path), "lnd_macaroon": str(lnd.macaroons[name])}
        facts |= {"lnd_url": lnd.url, "lnd_certificate": str(lnd.certificate)}
    hub = nodes.pop(HUB_NAME)
    return facts | {"wallets": nodes, "hub": hub}


def _read_pair(text: str, wanted: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise UsageError(f"{wanted} was expected, with a whole number, not {text!r}")
    return name, int(number)


if __name__ == "__main__":
    sys.exit(main())
