"""Places over arbitrary comings and goings: never more jobs run than may, nobody who paid is passed, nothing leaks."""

from dataclasses import dataclass
from typing import Final

import anyio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.refusal import Refusal
from relaymesh.roles.node_places import Place, Places
from tests.roles.market import loop_clock

CLIENTS: Final = tuple(PublicKey(digit * 64) for digit in "1234")


@dataclass(frozen=True, slots=True)
class Visit:
    """One job: who sends it and when, when it is paid after its place is there (never: None), how long it runs."""

    client: int
    comes_ms: int
    pays_ms: int | None
    runs_ms: int
    leaves_ms: int


VISITS: Final = st.lists(
    st.builds(
        Visit,
        st.integers(0, 3),
        st.integers(0, 10_000),
        st.none() | st.integers(0, 8_000),
        st.integers(0, 4_000),
        st.integers(0, 20_000),
    ),
    max_size=12,
)


class Node:
    """Serves visits as a node serves jobs, and looks at every step whether too many run."""

    def __init__(self, maximum_jobs: int) -> None:
        self.places = Places(
            maximum_jobs, loop_clock, queue_limit=4, queue_limit_per_client=2, unpaid_limit=4, unpaid_limit_per_client=2
        )
        self.busy = self.served = 0
        self.waiting: list[int] = []

    async def visit(self, visit: Visit) -> None:
        await anyio.sleep(visit.comes_ms / 1_000)
        place = self.places.ask(CLIENTS[visit.client])
        if isinstance(place, Refusal):
            return
        with anyio.move_on_after(visit.leaves_ms / 1_000):
            if await self.places.wait(place) is None:
                await self._serve(place, visit)
        self.places.leave(place)
        self.places.leave(place)  # the runner's end and the job's

    async def _serve(self, place: Place, visit: Visit) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.places.lend, place)
            if visit.pays_ms is None:
                await anyio.sleep(60)
            else:
                await anyio.sleep(visit.pays_ms / 1_000)
                await self.places.keep(place)
                self.busy += 1
                try:
                    assert self.busy <= self.places.running <= self.places.maximum_jobs
                    await anyio.sleep(visit.runs_ms / 1_000)
                    self.served += 1
                finally:
                    self.busy -= 1
            tasks.cancel_scope.cancel()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), VISITS)
def test_never_more_jobs_run_than_may_and_every_place_comes_back(maximum_jobs: int, visits: list[Visit]) -> None:
    async def play() -> None:
        node = Node(maximum_jobs)
        async with anyio.create_task_group() as tasks:
            for visit in visits:
                tasks.start_soon(node.visit, visit)
        load = node.places.load()
        assert (node.busy, node.places.running, load.free, load.queue) == (0, 0, maximum_jobs, 0)
        asked = [node.places.ask(client) for client in CLIENTS[:maximum_jobs]]
        assert all(isinstance(place, Place) and place.began_at is not None for place in asked), "nobody is left waiting"

    clock = trio.testing.MockClock(autojump_threshold=0.0)
    clock.jump(3_600)
    anyio.run(play, backend="trio", backend_options={"clock": clock})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 2_000))
def test_however_many_do_not_pay_whoever_does_is_served_within_seconds(idle: list[int], comes_ms: int) -> None:
    async def play() -> None:
        node = Node(1)
        async with anyio.create_task_group() as tasks:
            for client in idle[:4]:
                tasks.start_soon(node.visit, Visit(client, 0, None, 0, 60_000))
            await anyio.sleep(0.001 + comes_ms / 1_000)
            began, payer = anyio.current_time(), Visit(3, 0, 200, 100, 60_000)
            while node.served == 0:
                await node.visit(payer)
                await anyio.sleep(0.25)  # on the virtual clock: the client asks again
            assert anyio.current_time() - began <= 13, "three seconds for each of at most four places before it"
            tasks.cancel_scope.cancel()

    clock = trio.testing.MockClock(autojump_threshold=0.0)
    clock.jump(3_600)
    anyio.run(play, backend="trio", backend_options={"clock": clock})
