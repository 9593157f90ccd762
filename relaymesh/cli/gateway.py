"""`relaymesh gateway`: answer programs that speak the OpenAI API, with what the mesh sells."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, PrivateOption, RelayOption, WalletOption, wallet_flags
from relaymesh.cli.running import guarded, run
from relaymesh.errors import UsageError

if TYPE_CHECKING:
    from anyio import Event

    from relaymesh.gateway.api_keys import ApiKey
    from relaymesh.settings import Gateway as GatewaySettings
    from relaymesh.settings import Settings

BUDGETS: str = "gateway-budgets.sqlite3"
"""The file, in the data folder, in which what each key has spent is counted."""

gateway_commands = typer.Typer(no_args_is_help=True, help="Answer programs that speak the OpenAI API.")


@gateway_commands.callback()
def _gateway() -> None:
    """Answer programs that speak the OpenAI API."""


@gateway_commands.command("serve", short_help="Serve the OpenAI API until Ctrl-C.")
@guarded
def serve(
    config: ConfigOption = None,
    relay: RelayOption = None,
    allow_private: PrivateOption = None,
    wallet: WalletOption = None,
    host: Annotated[str | None, typer.Option(help="The address on which programs connect.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port on which programs connect; 0 takes a free one.", max=65_535)
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="A TOML file of API keys and their budgets, instead of gateway.keys_file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the OpenAI API until Ctrl-C; what is asked is bought from the mesh, and paid over Lightning.

    Any OpenAI client works with it: the base URL is http://127.0.0.1:8787/v1, the API key anything, unless there are
    keys. What one job may cost is `client.max_msat`, unless the request says otherwise.
    """
    from relaymesh.cli.settings_source import load_settings

    flags: dict[str, dict[str, Any]] = {
        "network": {"relays": relay or None, "allow_private": allow_private},
        "wallet": wallet_flags(wallet),
        "gateway": {"host": host, "port": port, "keys_file": None if keys is None else str(keys)},
    }
    settings = load_settings(config, flags)
    check_reach(settings.gateway)
    run(lambda: _serve(settings, as_json))


@gateway_commands.command("add-key", short_help="Make an API key with a budget.")
@guarded
def add_key(
    name: Annotated[str, typer.Argument(help="Who gets it; what it spends is counted under this name.")],
    keys: Annotated[Path, typer.Option(help="The TOML file to add it to, made where it is not there.")],
    total_msat: Annotated[int, typer.Option(help="The most that may ever be spent; 0 is no limit.", min=0)] = 0,
    day_msat: Annotated[int, typer.Option(help="The most in any 24 hours; 0 is no limit.", min=0)] = 0,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model it may use, or MODEL=MSAT with the most for it in any 24 hours; several times."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key, print it once, and add its SHA-256 and its budget to the file of keys.

    A gateway reads the file when it starts.
    """
    from relaymesh.adapters.budget_file import Budget
    from relaymesh.gateway.api_keys import new_key, read_keys

    known = _read(keys) if keys.exists() else ""
    secret, table = new_key(name, Budget(total_msat, day_msat), dict(_read_model(each) for each in model or ()))
    joined = f"{known}\n{table}" if known else table
    read_keys(joined, str(keys))
    try:
        keys.touch(mode=0o600)
        keys.write_text(joined, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the keys cannot be written to {keys}: {error.strerror}") from error
    print(json.dumps({"name": name, "key": secret}) if as_json else secret)


def check_reach(gateway: "GatewaySettings") -> None:
    """Refuse to be reached by other machines without being told so, and without keys.

    Raises:
        UsageError: It would be.
    """
    try:
        is_local = gateway.host == "localhost" or ip_address(gateway.host).is_loopback
    except ValueError:
        is_local = False
    if is_local:
        return
    if not gateway.allow_remote:
        raise UsageError(f"{gateway.host} can be reached by other machines, which gateway.allow_remote must allow")
    if not gateway.keys_file:
        raise UsageError("gateway.allow_remote needs gateway.keys_file, or whoever comes by spends from the wallet")


def _read_model(given: str) -> tuple[str, int]:
    name, separator, limit = given.rpartition("=")
    if not separator:
        return given, 0
    if not (limit.isascii() and limit.isdigit() and name):
        raise UsageError(f"expected MODEL or MODEL=MSAT, got {given}")
    return name, int(limit)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the keys cannot be read from {file}: {reason}") from error


def _load_keys(settings: "Settings") -> "tuple[ApiKey, ...] | None":
    from relaymesh.gateway.api_keys import read_keys

    if not settings.gateway.keys_file:
        return None
    file = Path(settings.gateway.keys_file).expanduser()
    return read_keys(_read(file), str(file))


async def _serve(settings: "Settings", as_json: bool) -> None:
    """Serve until this is cancelled; then everything ends in order, so that jobs under way still are accounted for."""
    import anyio

    stopping = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serve_until, stopping, settings, as_json)
        try:
            await anyio.sleep_forever()
        finally:
            stopping.set()


async def _serve_until(stopping: "Event", settings: "Settings", as_json: bool) -> None:
    import anyio

    from relaymesh.adapters.budget_file import open_budget_file
    from relaymesh.cli.clock import system_clock
    from relaymesh.cli.settings_source import data_directory
    from relaymesh.cli.wiring import open_client
    from relaymesh.gateway.api_keys import KeyRing
    from relaymesh.gateway.application import Application, Gateway
    from relaymesh.gateway.server import open_server
    from relaymesh.roles.session_pool import SessionPool

    chosen, keys = settings.gateway, _load_keys(settings)
    with anyio.CancelScope() as scope:
        async with (
            open_client(settings) as client,
            SessionPool(client, chosen.sessions, chosen.session_seconds) as pool,
            open_budget_file(data_directory(settings) / BUDGETS) as budgets,
        ):
            ring = None if keys is None else KeyRing(keys, budgets, system_clock)
            gateway = Gateway(client, pool.buy, settings.client, ring, chosen.origins, chosen.maximum_requests)
            async with open_server(Application(gateway), chosen.host, chosen.port) as url:
                scope.shield = True  # from here on the end has an order: requests, sessions, client
                _announce(url, keys, as_json)
                await stopping.wait()


def _announce(url: str, keys: "tuple[ApiKey, ...] | None", as_json: bool) -> None:
    if as_json:
        print(json.dumps({"url": url}), flush=True)
        return
    asked = "any API key" if keys is None else f"one of {len(keys)} API keys"
    print(f"Serving the OpenAI API at {url} for {asked}; Ctrl-C ends it.", flush=True)
