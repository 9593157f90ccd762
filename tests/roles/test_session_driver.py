"""A session's driver and a peer that keeps talking but takes nothing in."""

import anyio
import pytest

from relaymesh.errors import SessionError
from relaymesh.machines.session_interface import ConnectionOpened, Dial, FrameReceived, SendFrame, SessionEffect
from relaymesh.protocol.session_messages import JobId, SessionMessage
from relaymesh.roles.session_driver import SessionDriver, SessionInput
from relaymesh.units import Instant, Moment
from tests.roles.market import loop_clock

pytestmark = pytest.mark.anyio


class AnsweringMachine:
    """Dials once, and answers every frame with one."""

    def __init__(self) -> None:
        self._effects: list[SessionEffect] = []

    @property
    def is_quiet(self) -> bool:
        return not self._effects

    def start(self, now: Moment) -> None:
        self._effects.append(Dial(1))

    def receive(self, message: SessionInput, now: Moment) -> None:
        if isinstance(message, ConnectionOpened | FrameReceived):
            self._effects.append(SendFrame(1, b"answer"))

    def deadline(self) -> Instant | None:
        return None

    def handle_deadline(self, now: Moment) -> None:
        raise AssertionError("nothing is ever due")

    def effects(self) -> tuple[SessionEffect, ...]:
        effects, self._effects = tuple(self._effects), []
        return effects


class DeafConnection:
    """Says something ten times a second and takes nothing in; waits as long as the port allows."""

    def __init__(self) -> None:
        self.is_closed = False

    async def send(self, *frames: bytes | str) -> None:
        await anyio.sleep(10)
        raise SessionError("the other side took nothing")

    async def receive(self) -> bytes | str:
        await anyio.sleep(0.1)
        return b"question"

    async def aclose(self) -> None:
        self.is_closed = True
        await anyio.sleep(1)


class Deaf:
    """Nobody listens to this session."""

    def session_opened(self, reconnected: bool) -> None: ...

    def session_interrupted(self) -> None: ...

    def message_delivered(self, message: SessionMessage) -> None: ...

    def output_paused(self, job_id: JobId, paused: bool) -> None: ...

    def session_closed(self, reason: str) -> None: ...


async def test_a_peer_that_talks_and_takes_nothing_in_does_not_keep_a_session_from_ending() -> None:
    connection, machine = DeafConnection(), AnsweringMachine()

    async def dial() -> DeafConnection:
        return connection

    driver = SessionDriver(machine, machine.receive, Deaf(), loop_clock, dial)
    begun = anyio.current_time()
    with anyio.move_on_after(1):
        await driver.run()
    assert anyio.current_time() - begun < 2 and connection.is_closed
