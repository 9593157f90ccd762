"""Ctrl-C at the moments that are easily forgotten: while commands load, while a prompt is read, during the goodbye."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import Home

READING = """
import os, signal, sys
class Unfinished:
    buffer = property(lambda self: self)
    def isatty(self):
        return False
    def read(self):
        os.kill(os.getpid(), signal.SIGINT)
        return b"nobody stopped me"
from relaymesh.cli import main
sys.argv = ["relaymesh", sys.argv[1]]
sys.stdin = Unfinished()
main()
"""
LOADING = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from relaymesh.cli import main
main()
"""
FIRST = """
import os, signal, sys
import anyio
from relaymesh.cli.running import run
async def command():
    try:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        await anyio.sleep_forever()
    finally:
        print("goodbye")
run(command)
"""
AGAIN = """
import os, signal
import anyio
from relaymesh.cli.running import run
async def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                await anyio.wait_all_tasks_blocked()
        print("goodbye")
run(command)
"""


def interrupted(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    environment = Home(folder).environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_an_interrupt_while_the_commands_load_ends_it_without_a_word(tmp_path: Path) -> None:
    ran = interrupted(tmp_path, LOADING)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("command", ["infer", "quote"])
def test_an_interrupt_while_a_prompt_is_read_ends_it_without_a_word(tmp_path: Path, command: str) -> None:
    ran = interrupted(tmp_path, READING, command)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_before_a_command_first_waits_still_lets_it_clean_up(tmp_path: Path, name: str) -> None:
    ran = interrupted(tmp_path, FIRST, name)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "goodbye\n", "")


def test_more_interrupts_do_not_cut_a_goodbye_short(tmp_path: Path) -> None:
    ran = interrupted(tmp_path, AGAIN)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "goodbye\n", "")
