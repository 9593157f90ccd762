"""What a client has seen of routers, in a JSON file of its own: a few numbers for each, nothing about any job."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from relaymesh.errors import UsageError
from relaymesh.market.probation import RouterRecord
from relaymesh.nostr.event import PublicKey, is_hex_32

MAXIMUM_ROUTERS: Final = 1_000
"""So many routers are remembered, those seen last."""


def read_router_records(path: Path) -> dict[PublicKey, RouterRecord]:
    """The records in this file; none where there is no file.

    Raises:
        UsageError: It cannot be read, or is not what this program wrote.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {
            PublicKey(key): RouterRecord(**{name: int(value) for name, value in record.items()})
            for key, record in stored.items()
            if is_hex_32(key)
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"what was seen of routers cannot be read from {path}: {error}; remove it") from error


def write_router_records(path: Path, records: dict[PublicKey, RouterRecord]) -> None:
    """Replace the file by these records, at once or not at all.

    Raises:
        UsageError: It cannot be written.
    """
    kept = sorted(records.items(), key=lambda item: -item[1].last_day)[:MAXIMUM_ROUTERS]
    draft = path.with_suffix(".new")
    try:
        draft.write_text(json.dumps({key: asdict(record) for key, record in kept}), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"what was seen of routers cannot be written to {path}: {error.strerror}") from error
