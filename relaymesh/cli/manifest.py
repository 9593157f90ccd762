"""`relaymesh manifest`: say what a machine can do, from a file written by hand."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, KeyOption, RelayOption
from relaymesh.cli.passphrase import passphrase_for
from relaymesh.cli.running import guarded, run
from relaymesh.errors import RelayError, UsageError

if TYPE_CHECKING:
    from relaymesh.nostr.event import VerifiedEvent
    from relaymesh.protocol.manifest import Manifest
    from relaymesh.settings import Settings
    from relaymesh.units import Timestamp

_SIZES = {
    "cpu": "cpu_threads",
    "memory": "memory_gib",
    "disk": "disk_free_gib",
    "gpu": "gpu_memory_gib",
    "network": "network_mbit",
}
"""Bands, and the sizes in the file that they are made of; without `gpu_memory_gib` there is no accelerator."""
_TABLES = frozenset({"label", "role", "valid_days", "machine", "benchmarks", "relays"})
DEFAULT_DAYS = 30
SECONDS_PER_DAY = 86_400


@guarded
def manifest(
    file: Annotated[Path, typer.Argument(help="The TOML file: label, role, valid_days, [machine], [[benchmarks]], …")],
    publish: Annotated[bool, typer.Option("--publish", help="Publish it to the relays.")] = False,
    key: KeyOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,  # taken like everywhere: an event is JSON in any case
) -> None:
    """Sign a capability manifest made from a TOML file, and print the event.

    [machine] has cpu_threads, memory_gib, disk_free_gib, network_mbit and, with an accelerator, gpu_memory_gib: they
    are told in coarse bands. Each [[benchmarks]] has model, prefill_tokens_per_1000s, decode_tokens_per_1000s and
    perhaps first_output_ms, quantization and measured_at; each [[relays]] has url and perhaps round_trip_ms.
    """
    from relaymesh.adapters.key_files import load_or_create_key
    from relaymesh.cli.clock import system_clock
    from relaymesh.cli.settings_source import data_directory, load_settings
    from relaymesh.protocol.manifest import build_manifest

    settings = load_settings(config, {"network": {"relays": relay or None}})
    now = system_clock().timestamp
    label, value = read_manifest_file(file, now)
    path = key or data_directory(settings) / "node.key"
    pair = load_or_create_key(path, passphrase=passphrase_for(path))
    event = pair.sign(build_manifest(value, label, pair.public_key, now))
    if publish:
        run(lambda: publish_events(settings, (event,)))
    print(json.dumps(event.to_json()))


def read_manifest_file(file: Path, now: "Timestamp") -> tuple[str, "Manifest"]:
    """The label and the manifest that a file describes.

    Raises:
        UsageError: It cannot be read, or something in it is missing, unknown or out of range.
    """
    from relaymesh.configuration import parse_document
    from relaymesh.errors import RemoteProtocolError
    from relaymesh.protocol.codec import is_label
    from relaymesh.protocol.manifest import Manifest

    try:
        document = parse_document(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the manifest cannot be read from {file}: {reason}") from error
    for name in document:
        if name not in _TABLES:
            raise UsageError(f"a manifest file knows no `{name}`; known are {', '.join(sorted(_TABLES))}")
    label, days = document.get("label", "main"), document.get("valid_days", DEFAULT_DAYS)
    if not isinstance(label, str) or not is_label(label):
        raise UsageError(f"label must be that of the offers which the machine serves, not `{label}`")
    if type(days) is not int or not 1 <= days <= 3_650:
        raise UsageError("valid_days must be 1 to 3650")
    fields = {
        "seq": now,
        "valid_until": now + days * SECONDS_PER_DAY,
        "role": document.get("role", "node"),
        "bands": _read_bands(document.get("machine")),
        "benchmarks": _read_tables(document, "benchmarks", {"measured_at": now}),
        "relays": _read_tables(document, "relays", {"round_trip_ms": None}),
    }
    try:
        return label, Manifest.from_text(json.dumps(fields))
    except (RemoteProtocolError, TypeError) as error:
        raise UsageError(f"the file {file} describes no manifest: {error}") from error


def _read_bands(machine: Any) -> dict[str, int | None]:
    from relaymesh.protocol.manifest import to_band

    if not isinstance(machine, dict):
        raise UsageError(f"a manifest file must have a table [machine] with {', '.join(_SIZES.values())}")
    unknown = set(machine) - set(_SIZES.values())
    if unknown:
        raise UsageError(f"[machine] knows no {', '.join(sorted(unknown))}; known are {', '.join(_SIZES.values())}")
    bands: dict[str, int | None] = {}
    for band, name in _SIZES.items():
        size = machine.get(name)
        if size is None and band == "gpu":
            bands[band] = None
        elif type(size) is not int or size < 0:
            raise UsageError(f"machine.{name} must be a whole number, at least 0")
        else:
            bands[band] = to_band(size)
    return bands


def _read_tables(document: dict[str, Any], name: str, defaults: dict[str, Any]) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{name} must be written as [[{name}]]")
    return [{**defaults, **table} for table in tables]


async def publish_events(settings: "Settings", events: "tuple[VerifiedEvent, ...]") -> None:
    """Publish these events to all relays, and say on standard error which took them.

    Raises:
        RelayError: No relay took one of them.
    """
    from relaymesh.adapters.websocket_relays import WebSocketRelays
    from relaymesh.cli.clock import system_clock

    async with WebSocketRelays(settings.network.relays, clock=system_clock) as relays:
        for event in events:
            answers = await relays.publish(event)
            takers = [answer.relay_url for answer in answers if answer.accepted]
            if not takers:
                said = "; ".join(f"{answer.relay_url}: {answer.message}" for answer in answers)
                raise RelayError(f"no relay took the event: {said}")
            print(f"published {event.id} to {', '.join(takers)}", file=sys.stderr)
