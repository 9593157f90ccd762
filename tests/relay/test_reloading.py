"""SIGHUP: other settings take effect on a relay that runs, wrong ones change nothing, and the log says which."""

import signal
import subprocess
from pathlib import Path

import anyio.to_thread
import pytest

from relaymesh.errors import UsageError
from relaymesh.units import Instant, Moment
from relaymesh_relay.connection import Connection
from relaymesh_relay.reloading import changed_names, keep_fixed
from relaymesh_relay.server import EXEMPTION
from relaymesh_relay.settings import Access, Limits, Network, Rates, Settings, Storage, read_settings
from tests.relay.client import ALICE, BOB, CAROL, Client, ClosedByRelay, request, running_relay, settings_in, sign
from tests.relay.processes import relay_process

pytestmark = pytest.mark.anyio


async def read_line(process: subprocess.Popen[str]) -> str:
    """The next line of the log."""
    assert process.stderr is not None
    return (await anyio.to_thread.run_sync(process.stderr.readline)).removeprefix("relaymesh-relay: ").rstrip()


async def test_a_signal_has_the_settings_read_again(tmp_path: Path) -> None:
    config, members = tmp_path / "relay.toml", tmp_path / "members"
    config.write_text("")
    with relay_process(tmp_path / "relay.sqlite3", "--config", str(config)) as (process, url):
        assert await read_line(process) == EXEMPTION
        async with Client(url) as client:
            assert (await client.submit(sign(BOB)))[0]

            members.write_text(f"# who may write\n{ALICE.public_key}  # Alice\n\n")
            config.write_text(
                f'[access]\nmembers_file = "{members}"\n[limits]\nevent_tags = 3\nmessage_bytes = 5000\n'
                '[identity]\nname = "Anew"\n[network]\nport = 9\n[storage]\nsynchronous = "NORMAL"\n'
            )
            process.send_signal(signal.SIGHUP)
            changed = "identity.name, limits.message_bytes, limits.event_tags, access.members, access.members_file"
            assert await read_line(process) == f"settings read again; changed: {changed}"
            waiting = "these change at the relay's next start only: storage.synchronous"
            assert await read_line(process) == waiting  # the port is the command line's
            assert (await client.submit(sign(BOB, content="again")))[1].startswith("restricted:")
            assert (await client.submit(sign(ALICE)))[0]
            assert (await client.submit(sign(ALICE, tags=[["t", "x"]] * 4)))[1].startswith("invalid:")
            _, body = await request(url, "GET / HTTP/1.1\nHost: x\nAccept: application/nostr+json\n\n")
            assert b'"name":"Anew"' in body and b'"max_event_tags":3' in body and b'"restricted_writes":true' in body

            config.write_text("[limits]\nevent_tags = -1\n")
            process.send_signal(signal.SIGHUP)
            wrong = "the settings stay as they were: the setting limits.event_tags must be at least 0, not -1"
            assert await read_line(process) == wrong
            assert (await client.submit(sign(BOB, content="once more")))[1].startswith("restricted:")

            members.write_text(f"{ALICE.public_key}\n{BOB.public_key}\n")
            config.write_text(f'[access]\nmembers_file = "{members}"\n[identity]\nname = "Anew"\n')
            process.send_signal(signal.SIGHUP)
            assert (await read_line(process)).startswith("settings read again; changed: limits.message_bytes")
            assert (await client.submit(sign(BOB, content="at last")))[0]
            await client.send("REQ", "x" * 6_000)
            assert (await client.receive())[0] == "NOTICE"
        process.terminate()
        assert await anyio.to_thread.run_sync(process.wait) == 0


async def test_a_smaller_message_is_the_longest_for_who_is_connected(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text("")
    with relay_process(tmp_path / "relay.sqlite3", "--config", str(config)) as (process, url):
        await read_line(process)
        async with Client(url) as client:
            await client.query({"limit": 0})
            config.write_text("[limits]\nmessage_bytes = 1000\n[network]\nexempt_loopback = false\n")
            process.send_signal(signal.SIGHUP)
            assert "limits.message_bytes" in await read_line(process)
            await client.send("CLOSE", "x" * 2_000)
            with pytest.raises(ClosedByRelay) as closed:
                await client.receive()
            assert closed.value.code == 1_009


def test_what_the_socket_and_the_database_were_made_with_stays() -> None:
    running = Settings()
    wanted = Settings(network=Network(host="::", port=1, connections=5), storage=Storage(file="x", sweep_seconds=1))
    kept, waiting = keep_fixed(running, wanted)
    assert waiting == ("network.host", "network.port", "storage.file")
    assert changed_names(running, kept) == ("network.connections", "storage.sweep_seconds")
    assert keep_fixed(running, running) == (running, ())


def test_new_rates_hold_for_who_is_connected() -> None:
    now = Moment(Instant(0), 1_750_000_000_000)
    connection = Connection(
        Settings(), address="a", relay_urls=("ws://x.example",), challenge="c", is_exempt=True, now=now
    )
    text = b'["REQ","q",{"limit":0}]'
    assert len([connection.receive(text, now) for _ in range(5)]) == 5 and not connection.outgoing
    slow = Settings(rates=Rates(requests_per_second=1, requests_burst=1))
    connection.adopt(slow, now, is_exempt=False)
    assert connection.receive(text, now) and not connection.receive(text, now)
    assert b"rate-limited:" in connection.outgoing[0]
    connection.adopt(slow, now, is_exempt=False)  # nothing about rates changed: what was used up stays so
    assert not connection.receive(text, now)
    connection.adopt(slow, now, is_exempt=True)
    assert connection.receive(text, now)


async def test_the_exemption_of_this_machine_is_said_while_it_holds(memory_path: Path) -> None:
    for network, expected in ((Network(), [EXEMPTION]), (Network(exempt_loopback=False), [])):
        said: list[str] = []
        async with running_relay(settings_in(memory_path, network=network), said.append):
            assert said == expected


MEMBERS = Access(members=(ALICE.public_key,))


@pytest.mark.parametrize(
    ("author", "kind", "tags", "is_taken"),
    [
        (ALICE, 1, (), True),
        (BOB, 1, (), False),
        (BOB, 1, (("p", ALICE.public_key),), False),
        (BOB, 1_059, (("p", ALICE.public_key),), True),
        (BOB, 1_059, (("p", CAROL.public_key),), False),
        (BOB, 4, (("p", ALICE.public_key),), False),
        (BOB, 28_770, (("p", ALICE.public_key),), True),
        (BOB, 28_770, (("p", CAROL.public_key),), False),
        (BOB, 13_194, (), True),
        *((BOB, kind, (("p", CAROL.public_key),), True) for kind in range(23_194, 23_198)),
        (BOB, 23_198, (("p", CAROL.public_key),), False),
    ],
)
async def test_members_write_and_the_others_reach_them(
    memory_path: Path, author: object, kind: int, tags: tuple[tuple[str, str], ...], is_taken: bool
) -> None:
    assert author in (ALICE, BOB)
    event = sign(ALICE if author is ALICE else BOB, kind=kind, tags=tags)
    async with running_relay(settings_in(memory_path, access=MEMBERS)) as url, Client(url) as client:
        await client.query({"kinds": [kind, 1]})
        accepted, message = await client.submit(event)
    assert accepted == is_taken
    assert is_taken or message.startswith("restricted:")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[access]\nmembers = ["npub1"]', r"access\.members must hold public keys in 64 lowercase hex"),
        ('[access]\nmembers_file = "missing"', "members cannot be read from missing"),
        ('[access]\nmembers_file = "{empty}"', "names nobody"),
        ('[network]\nmetrics_readers = ["here"]', r"network\.metrics_readers must hold addresses or networks"),
    ],
)
def test_a_wrong_member_or_reader_is_named(tmp_path: Path, text: str, words: str) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nobody\n")
    file = tmp_path / "relay.toml"
    file.write_text(text.replace("{empty}", str(empty)))
    with pytest.raises(UsageError, match=words):
        read_settings(file)


async def test_every_prefix_of_the_standard_has_its_case(memory_path: Path) -> None:
    cases = {
        "blocked": (Settings(access=Access(denied_kinds=(1,))), sign()),
        "restricted": (Settings(access=MEMBERS), sign(BOB)),
        "pow": (Settings(limits=Limits(proof_of_work_bits=60)), sign()),
        "invalid": (Settings(limits=Limits(event_tags=0)), sign(tags=[["t", "x"]])),
        "auth-required": (Settings(access=Access(authenticate_to_write=True)), sign()),
        "mute": (Settings(), sign(kind=20_000)),
    }
    for prefix, (settings, event) in cases.items():
        chosen = settings_in(memory_path, access=settings.access, limits=settings.limits)
        async with running_relay(chosen) as url, Client(url) as client:
            accepted, message = await client.submit(event)
            assert not accepted and message.startswith(f"{prefix}: "), (prefix, message)
