"""A PostgreSQL server to throw away: its own folder, a unix socket, flushing to the disk as a real one does."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.real.programs import require_postgresql

PASSWORD = "correct horse"
START_TRIES = 50

# `mesh` is let in as it comes, `guest` needs a password.
ACCESS = """
local all mesh trust
local all guest scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server and where it listens."""

    programs: Path
    directory: Path
    user: str | None

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs to its end."""
        command = [str(self.programs / program), *arguments]
        # What it says goes into a file: a server that is started inherits it, and a pipe would never end.
        with (self.directory / "said").open("w+") as said:
            ran = subprocess.run(
                command, user=self.user, cwd=self.directory, stdout=said, stderr=said, text=True, check=False
            )
            said.seek(0)
            return subprocess.CompletedProcess(command, ran.returncode, said.read())

    def start(self) -> None:
        """Start it; after `kill` it must first see the last of the old one's processes go."""
        listening = f"-k {self.directory} -c listen_addresses="
        arguments = ("start", "--wait", "-D", str(self.data), "-l", str(self.log), "-o", listening)
        for _ in range(START_TRIES):
            if self.run("pg_ctl", *arguments).returncode == 0:
                return
        raise AssertionError(f"PostgreSQL does not start: {self.log.read_text()}")

    def stop(self) -> None:
        """Stop it without tidying up: it is thrown away."""
        self.run("pg_ctl", "stop", "--wait", "-m", "immediate", "-D", str(self.data))

    def kill(self) -> None:
        """`kill -9`, as if the machine had lost its power."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def execute(self, statement: str, *, database: str = "ledgers") -> str:
        """Carry out a statement behind everybody's back, and hand back what it found."""
        arguments = ("-h", str(self.directory), "-U", "mesh", "-d", database, "-qAtX", "-v", "ON_ERROR_STOP=1")
        ran = self.run("psql", *arguments, "-c", statement)
        assert ran.returncode == 0, ran.stdout
        return ran.stdout.strip()

    def configure(self, name: str, value: str) -> None:
        """Change one of the server's settings, for all who connect from now on."""
        self.execute(f"ALTER SYSTEM SET {name} = {value}")
        self.execute("SELECT pg_reload_conf()")
        while self.execute(f"SHOW {name}") != value:
            pass

    def url(self, *, user: str = "mesh", database: str = "ledgers", schema: str | None = None) -> str:
        """A ledger's URL; each call names a schema that nobody else has."""
        name = schema or f"ledger_{secrets.token_hex(6)}"
        return f"postgresql://{user}@/{database}?host={self.directory}&search_path={name}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server while the block lasts; started by root, it runs as its own user, since it would refuse root."""
    programs = require_postgresql()
    user = "postgres" if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="mesh-pg-"))  # short: the path of a unix socket has 107 bytes at most
    if user is not None:
        os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
    server = PostgresServer(programs, directory, user)
    try:
        made = server.run("initdb", "-D", str(server.data), "-U", "mesh", "-A", "trust", "-E", "UTF8")
        assert made.returncode == 0, made.stdout
        (server.data / "pg_hba.conf").write_text(ACCESS)
        server.start()
        server.execute("CREATE DATABASE ledgers", database="postgres")
        server.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
