"""What an operator sees over HTTP: whether the relay is well, what it counts, and the page for people."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from relaymesh_relay.counts import Counts, Tally
from relaymesh_relay.health import FRESH_SECONDS, PROBE_SECONDS, Health
from relaymesh_relay.metrics import METRICS, Live, render
from relaymesh_relay.pipeline import Pipeline
from relaymesh_relay.relay import Relay
from relaymesh_relay.settings import Access, Identity, Limits, Network
from relaymesh_relay.sqlite_search import SqliteReader
from relaymesh_relay.sqlite_store import SqliteStore, SqliteWriter
from relaymesh_relay.store import StorageError
from relaymesh_relay.worker import Worker
from tests.relay.client import ALICE, BOB, PATIENCE_SECONDS, Client, request, running_relay, settings_in, sign

pytestmark = pytest.mark.anyio
GET = "GET {} HTTP/1.1\nHost: x\n{}\n"


async def get(url: str, path: str, headers: str = "") -> tuple[int, str]:
    """The status and the body of what stands at a path."""
    head, body = await request(url, GET.format(path, headers))
    return int(head.split(" ")[1]), body.decode()


async def figures(url: str) -> dict[str, float]:
    """Every sample of `/metrics` by its name and label."""
    status, text = await get(url, "/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_it_is_well_while_events_can_be_stored_and_read(relay_url: str) -> None:
    assert await get(relay_url, "/health") == (200, "events can be stored and read\n")
    head, body = await request(relay_url, "HEAD /health HTTP/1.1\nHost: x\n\n")
    assert " 200 " in head and body == b""


@pytest.mark.parametrize(("door", "word"), [(SqliteWriter, "stored"), (SqliteReader, "read")])
async def test_it_is_not_well_when_the_store_fails(
    relay_url: str, monkeypatch: pytest.MonkeyPatch, door: type, word: str
) -> None:
    def fail(_: object) -> bool:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(door, "probe", fail)
    assert await get(relay_url, "/health") == (503, f"events cannot be {word}: disk I/O error\n")
    monkeypatch.undo()
    assert (await get(relay_url, "/health"))[0] == 200


async def test_asking_often_writes_once(relay_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, answers = [], []
    probe = SqliteWriter.probe

    def count(writer: SqliteWriter) -> bool:
        probes.append(writer)
        return probe(writer)

    monkeypatch.setattr(SqliteWriter, "probe", count)

    async def ask() -> None:
        answers.append((await get(relay_url, "/health"))[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
    assert answers == [200] * 20 and len(probes) == 1


class Desk:
    """A pipeline and a clock of which a test decides everything."""

    def __init__(self) -> None:
        self.now = 0.0
        self.probes: list[Callable[[str | None], object]] = []
        self.timers: list[tuple[Callable[[int], object], int]] = []
        self.stuck: str | None = None

    def probe(self, answer: Callable[[str | None], object]) -> None:
        self.probes.append(answer)

    def why_stuck(self, seconds: float) -> str | None:
        return self.stuck

    def call_later(self, seconds: float, function: Callable[[int], object], attempt: int) -> None:
        assert seconds == PROBE_SECONDS
        self.timers.append((function, attempt))

    def health(self) -> Health:
        return Health(self, self.call_later, lambda: self.now)


def test_a_good_answer_holds_for_a_second_and_a_bad_one_for_nobody_else() -> None:
    desk, answers = Desk(), list[str | None]()
    health = desk.health()
    health.ask(answers.append)
    desk.probes[0]("broken")
    health.ask(answers.append)
    desk.probes[1](None)
    health.ask(answers.append)
    desk.now = FRESH_SECONDS + 0.1
    health.ask(answers.append)
    assert answers == ["broken", None, None] and len(desk.probes) == 3


def test_a_thread_that_does_not_answer_is_said_and_asked_no_twice() -> None:
    desk, answers = Desk(), list[str | None]()
    health = desk.health()
    health.ask(answers.append)
    function, attempt = desk.timers[0]
    function(attempt)
    health.ask(answers.append)
    assert len(answers) == 2 and all("longer than 2 seconds" in str(answer) for answer in answers)
    assert len(desk.probes) == 1
    desk.probes[0](None)  # late, but it answered
    health.ask(answers.append)
    assert answers[2] is None
    function(attempt)  # a timer of a probe that was answered says nothing
    desk.stuck = "the thread relay-check has ended"
    health.ask(answers.append)
    assert answers[3:] == [desk.stuck]


def test_a_thread_that_is_stuck_or_gone_is_named(memory_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(batch: list[int]) -> None:
        begun.set()
        go_on.wait(PATIENCE_SECONDS)

    worker = Worker("relay-x", work, 1, lambda: None)
    worker.start()
    states = [(worker.is_alive, worker.busy_seconds > 0)]
    worker.put([1])
    assert begun.wait(PATIENCE_SECONDS)
    states.append((worker.is_alive, worker.busy_seconds > 0))
    go_on.set()
    worker.close()
    states.append((worker.is_alive, worker.busy_seconds > 0))
    assert states == [(True, False), (True, True), (False, False)]

    settings = settings_in(memory_path)
    pipeline = Pipeline(Relay(settings), SqliteStore(settings.storage), lambda *_: None, lambda: None)
    assert pipeline.why_stuck(2) == "the thread relay-check has ended"
    pipeline.start()
    assert pipeline.why_stuck(2) is None
    pipeline.close()


async def test_every_outcome_is_counted(memory_path: Path) -> None:
    access = Access(denied_authors=(BOB.public_key,))
    async with running_relay(settings_in(memory_path, access=access)) as url, Client(url) as client:
        stored = sign(content="stored")
        await client.submit(stored)
        await client.submit(stored)
        await client.submit(sign(BOB))
        await client.submit(sign(kind=20_001, content="unheard"))
        await client.query({"kinds": [20_001]})
        await client.submit(sign(kind=20_001, content="heard"))
        await client.send("COUNT", "c", {})
        assert (await client.receive())[0] == "COUNT"
        found = await figures(url)
    expected = {"stored": 1, "duplicate": 1, "blocked": 1, "mute": 1, "ephemeral": 1}
    outcomes = {name: value for name, value in found.items() if name.startswith("relay_events_total") and value}
    assert outcomes == {f'relay_events_total{{outcome="{name}"}}': count for name, count in expected.items()}
    for name, value in {
        "relay_connections": 1,
        "relay_subscriptions": 1,
        "relay_deliveries_total": 1,
        'relay_requests_total{message="REQ"}': 1,
        'relay_requests_total{message="COUNT"}': 1,
        "relay_stored_events": 1,
        "relay_events_waiting": 0,
        "relay_reads_waiting": 0,
        "relay_commit_seconds_count": 1,
        'relay_batch_events_bucket{le="1"}': 1,
    }.items():
        assert found[name] == value, name
    assert found["relay_database_bytes"] > 8_192
    assert found["relay_received_bytes_total"] > 1_000 and found["relay_sent_bytes_total"] > 500


async def test_the_number_of_stored_events_survives_and_follows_deletions(memory_path: Path) -> None:
    settings = settings_in(memory_path)
    async with running_relay(settings) as url, Client(url) as client:
        doomed = sign(content="doomed")
        for event in (
            doomed,
            sign(content="kept"),
            sign(kind=0, content="old"),
            sign(kind=0, created_at=1_760_000_000),
        ):
            assert (await client.submit(event))[0]
        assert (await client.submit(sign(kind=5, tags=[["e", doomed.id]])))[0]
        assert (await figures(url))["relay_stored_events"] == 3
    async with running_relay(settings) as url:
        assert (await figures(url))["relay_stored_events"] == 3


def test_exactly_the_documented_metrics_are_rendered_in_the_standard_form() -> None:
    counts = Counts()
    for value in (0.5, 1.0, 5.0, 1_000.0):
        counts.batch_events.add(value)
    text = render(counts, Live(1, 2, 3, 4, 5, 6)).decode()
    typed = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert sorted(typed) == sorted((metric.name, metric.type) for metric in METRICS)
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .+|[a-z_]+(\{[a-z]+="[^"]+"\})? [0-9.e+-]+', line), line
    assert 'relay_batch_events_bucket{le="1"} 2\nrelay_batch_events_bucket{le="4"} 2' in text
    assert 'relay_batch_events_bucket{le="+Inf"} 4\nrelay_batch_events_sum 1006.5\nrelay_batch_events_count 4' in text
    assert Tally((1.0,)).counts == [0, 0]


@pytest.mark.parametrize(
    ("network", "headers", "status"),
    [
        (Network(), "", 200),
        (Network(), "X-Forwarded-For: 192.0.2.1\n", 403),  # a proxy nobody told us about
        (Network(address_header="X-Real-IP"), "X-Real-IP: 192.0.2.1\n", 403),
        (Network(address_header="X-Real-IP", metrics_readers=("192.0.2.0/24",)), "X-Real-IP: 192.0.2.1\n", 200),
        (Network(address_header="X-Real-IP", metrics_readers=("192.0.2.2",)), "X-Real-IP: 192.0.2.1\n", 403),
        (Network(address_header="X-Real-IP", metrics_readers=("2001:db8::/32",)), "X-Real-IP: 2001:db8::1\n", 200),
        (Network(address_header="X-Real-IP"), "X-Real-IP: nonsense\n", 403),
    ],
)
async def test_the_metrics_are_for_this_machine_and_whom_the_settings_name(
    memory_path: Path, network: Network, headers: str, status: int
) -> None:
    async with running_relay(settings_in(memory_path, network=network)) as url:
        assert (await get(url, "/metrics", headers))[0] == status


async def test_the_page_says_what_the_document_says_and_fetches_nothing(memory_path: Path) -> None:
    identity = Identity(
        name="<script>&", description='"quoted" <b>', contact="mailto:<x>", icon="https://example.org/i"
    )
    settings = settings_in(memory_path, identity=identity, limits=Limits(message_bytes=12_345))
    async with running_relay(settings) as url, Client(url) as client:
        await client.submit(sign(ALICE))
        await client.query({})
        head, body = await request(url, GET.format("/", "Accept: text/html\n"))
    page = body.decode()
    assert "<h1>&lt;script&gt;&amp;</h1>" in page and "&quot;quoted&quot; &lt;b&gt;" in page
    assert "<td>maximum message length</td><td>12,345</td>" in page and "<li>42</li>" in page
    assert "<b>1</b>connections" in page and "<b>1</b>subscriptions" in page and "<b>1</b>events stored" in page
    assert "prefers-color-scheme: dark" in page and "Content-Security-Policy: default-src 'none'" in head
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
