"""The relay as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relaymesh_relay.server import EXEMPTION


@contextmanager
def relay_process(database: Path | str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A relay in a process of its own, and its URL."""
    command = [sys.executable, "-m", "relaymesh_relay", "--port", "0", "--database", str(database), "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["relay_url"]
        finally:
            process.kill()


def resident_megabytes(process_id: int) -> float:
    """The memory that a process holds."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def complaints(process: subprocess.Popen[str]) -> str:
    """What the relay said on standard error, but for what it says at every start."""
    assert process.stderr is not None
    return process.stderr.read().removeprefix(f"relaymesh-relay: {EXEMPTION}\n")
