"""The relay as a process: started, killed, stopped, out of space, and never losing what it acknowledged."""

import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from relaymesh.nostr.event import VerifiedEvent
from relaymesh_relay.server import EXEMPTION
from tests.relay.client import ALICE, BOB, PATIENCE_SECONDS, Client, ClosedByRelay, request, sign
from tests.relay.processes import relay_process, resident_megabytes

pytestmark = pytest.mark.anyio


async def publish_until(url: str, events: list[VerifiedEvent], enough: int, process: subprocess.Popen[str]) -> set[str]:
    """Send all events at once, kill the relay after so many were acknowledged; which were."""
    acknowledged: set[str] = set()
    async with Client(url) as client:
        await client.publish(*events)
        try:
            while True:
                match await client.receive():
                    case ["OK", str(event_id), True, _]:
                        acknowledged.add(event_id)
                if len(acknowledged) == enough:
                    process.kill()
        except ClosedByRelay:
            return acknowledged


async def check_everything_is_there(url: str, acknowledged: set[str], events: list[VerifiedEvent]) -> None:
    """Each acknowledged event is found in every way, and nothing is half there."""
    by_id = {event.id: event for event in events}
    async with Client(url) as client:
        stored = await client.query_events({"kinds": [1], "#t": ["burst"]})
        assert acknowledged <= {event["id"] for event in stored}
        assert all(event == by_id[event["id"]].to_json() for event in stored)
        everything = {event["id"] for event in stored}
        for wanted in ({"authors": [ALICE.public_key, BOB.public_key]}, {}):
            assert set(await client.query(wanted)) == everything
        for start in range(0, len(events), 500):
            some = [event.id for event in events[start : start + 500]]
            assert set(await client.query({"ids": some})) == everything & set(some)


def burst(size: int, name: str) -> list[VerifiedEvent]:
    keys = (ALICE, BOB)
    return [sign(keys[number % 2], tags=[["t", "burst"]], content=f"{name} {number}") for number in range(size)]


async def kill_and_check(directory: Path, rounds: int) -> None:
    events: list[VerifiedEvent] = []
    acknowledged: set[str] = set()
    for number in range(rounds):
        with relay_process(directory / "relay.sqlite3") as (process, url):
            await check_everything_is_there(url, acknowledged, events)
            fresh = burst(180, f"round {number}")
            events += fresh
            acknowledged |= await publish_until(url, fresh, 1 + 60 * number % 170, process)
    with relay_process(directory / "relay.sqlite3") as (_, url):
        await check_everything_is_there(url, acknowledged, events)


async def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    await kill_and_check(tmp_path, 3)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_what_was_acknowledged_before_fifty_kills_is_there_after_them(tmp_path: Path) -> None:
    await kill_and_check(tmp_path, 50)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order_within_two_seconds(tmp_path: Path, number: signal.Signals) -> None:
    database = tmp_path / "relay.sqlite3"
    with relay_process(database) as (process, url):
        async with Client(url) as client, Client(url) as idle:
            await idle.query({"kinds": [1]})
            await client.publish(*burst(200, "unanswered"))
            assert (await client.receive())[0] == "OK"
            process.send_signal(number)
            with anyio.fail_after(2):
                assert await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True) == 0
            for each in (client, idle):
                with pytest.raises(ClosedByRelay) as closed:
                    while True:
                        assert (await each.receive())[:1] != ["NOTICE"]
                assert closed.value.code == 1_001
        assert process.stderr is not None and process.stderr.read() == f"relaymesh-relay: {EXEMPTION}\n"
    assert [file.name for file in tmp_path.iterdir()] == [database.name]  # no log file is left behind


async def test_without_room_it_refuses_keeps_answering_and_recovers(tmp_path: Path) -> None:
    with relay_process(tmp_path / "relay.sqlite3") as (process, url):
        _, highest = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        async with Client(url) as client:
            before = sign(content="before")
            assert (await client.submit(before))[0]
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, highest))
            large = [sign(content=str(number) * 40_000) for number in range(10)]
            answers = [await client.submit(event) for event in large]
            refused = [message for accepted, message in answers if not accepted]
            assert refused and all(message.startswith("error:") for message in refused)
            assert before.id in await client.query({"kinds": [1]})
            assert await health(url) == "503"
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (highest, highest))
            assert await health(url) == "200"
            assert [await client.submit(event) for event in large] == [
                (True, "duplicate: this event is stored already" if accepted else "") for accepted, _ in answers
            ]
            assert len(await client.query({"kinds": [1]})) == 11


async def health(url: str) -> str:
    head, _ = await request(url, "GET /health HTTP/1.1\nHost: x\n\n")
    return head.split(" ")[1]


async def test_without_a_file_it_keeps_events_until_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    event = sign()
    with relay_process(":memory:") as (process, url):
        for _ in range(2):
            async with Client(url) as client:
                assert (await client.submit(event))[0]
                assert await client.query({"authors": [ALICE.public_key]}) == [event.id]
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert list(tmp_path.iterdir()) == []


async def test_memory_stays_bounded_whatever_clients_ask_for(tmp_path: Path) -> None:
    with relay_process(tmp_path / "relay.sqlite3") as (process, url):
        async with Client(url) as client, Client(url) as greedy:
            for number in range(100):
                assert (await client.submit(sign(content=str(number % 10) * 60_000 + str(number))))[0]
            await client.query({"kinds": [1]})
            before = resident_megabytes(process.pid)
            for number in range(100):  # 600 MB of answers
                await greedy.send("REQ", str(number), {"kinds": [1]})
            for _ in range(5):
                assert len(await client.query({"kinds": [1]})) == 100
            assert resident_megabytes(process.pid) - before < 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--database", "no/such/folder/relay.sqlite3"], "cannot be opened"),
        (["--config", "missing.toml"], "cannot be read"),
        (["--host", "192.0.2.1"], "choose another host or port"),
        (["--host", ""], "must name an address"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "relaymesh_relay", "--port", "0", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert finished.returncode == 1 and finished.stdout == ""
    assert words in finished.stderr and finished.stderr.count("\n") == 1


def test_it_says_where_it_listens(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text('[network]\nhost = "127.0.0.1"\nport = 1\n[storage]\nfile = "chosen.sqlite3"\n')
    command = [sys.executable, "-m", "relaymesh_relay", "--port", "0", "--config", str(config)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.fullmatch(r"relay listening on ws://127\.0\.0\.1:[1-9][0-9]+\n", process.stdout.readline())
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert (tmp_path / "chosen.sqlite3").exists()
