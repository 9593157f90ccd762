"""Runs the real command line in real processes, in a home of its own, and reports what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_SECONDS = 90  # a node that was killed with an invoice out first waits until nobody can pay it: a minute
COMMAND_SECONDS = 45


@dataclass
class Home:
    """A data folder of its own, and the commands run in it."""

    directory: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYMESH_", "XDG_"))}
        return {**kept, "HOME": str(self.directory), "XDG_DATA_HOME": str(self.directory / "data"), **self.settings}

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "relaymesh", *arguments],
            env=self.environment(),
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    @contextmanager
    def serve(self, *arguments: str) -> Iterator["Server"]:
        """Run a command that serves until it is stopped; it must then end within two seconds, leaving nobody."""
        errors = self.directory / f"{'-'.join(arguments[:2])}.{time.monotonic_ns()}.log"
        with errors.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "relaymesh", *arguments],
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        server = Server(process, errors)
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()


class Server:
    """A serving command."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self.errors = process, errors
        self.output = ""
        self.facts: dict[str, Any] = {}
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := os.read(self.process.stdout.fileno(), 65_536):
            self.output += chunk.decode()
            if "\n" in self.output or not self.output.startswith("{"):
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> None:
        assert self._ready.wait(READY_SECONDS), "the command said nothing in time"
        assert self.output, f"the command ended: {self.errors.read_text()}"
        if self.output.startswith("{"):
            self.facts = json.loads(self.output.splitlines()[0])

    def interrupt(self) -> float:
        """Ctrl-C; returns how many seconds the command took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        return time.monotonic() - began

    def kill(self) -> None:
        """`kill -9`, the whole group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()


def family(marker: str) -> list[int]:
    """The processes whose command line or environment mentions `marker`: who was started for this test."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if marker.encode() in words and state != "Z":
            found.append(int(entry.name))
    return found
