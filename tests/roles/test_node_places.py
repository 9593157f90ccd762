"""A node's places: taken, waited for in turn, given back, and never more of them than there are."""

import anyio
import pytest

from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.roles.node_places import Place, Places
from tests.roles.market import loop_clock

pytestmark = pytest.mark.anyio
ONE, TWO, THREE = (PublicKey(digit * 64) for digit in "123")


def ask(places: Places, client: PublicKey) -> Place:
    place = places.ask(client)
    assert isinstance(place, Place), place
    return place


async def outcome_of(places: Places, place: Place, served: list[Place]) -> None:
    if await places.wait(place) is None:
        served.append(place)
        await anyio.sleep(1)
    places.leave(place)


async def test_places_are_given_to_those_who_wait_each_client_in_its_turn() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    first = ask(places, ONE)
    waiting = [ask(places, client) for client in (ONE, ONE, TWO, THREE)]
    served: list[Place] = []
    async with anyio.create_task_group() as tasks:
        for place in (first, *waiting):
            tasks.start_soon(outcome_of, places, place, served)
    assert [place.client for place in served] == [ONE, ONE, TWO, THREE, ONE]
    assert places.running == places.load().queue == 0


async def test_whoever_finds_neither_place_nor_room_is_told_when_to_come_back() -> None:
    places = Places(1, loop_clock, queue_limit=1)
    ask(places, ONE)
    ask(places, TWO)
    refusal = places.ask(THREE)
    assert isinstance(refusal, Refusal) and refusal.code is RefusalCode.BUSY
    assert refusal.retry_in_ms == 2_000, "two jobs before it, of a second each"


async def test_one_client_cannot_fill_the_queue() -> None:
    places = Places(1, loop_clock, queue_limit=8, queue_limit_per_client=2)
    answers = [places.ask(ONE) for _ in range(5)]
    assert [isinstance(answer, Refusal) for answer in answers] == [False, False, False, True, True]
    assert isinstance(places.ask(TWO), Place)


async def test_a_job_waits_only_so_long_and_is_then_told_that_the_node_is_busy() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    ask(places, ONE)
    began = anyio.current_time()
    waiting = ask(places, TWO)
    refusal = await places.wait(waiting)
    places.leave(waiting)
    assert refusal is not None and refusal.code is RefusalCode.BUSY and refusal.retry_in_ms is not None
    assert anyio.current_time() - began == pytest.approx(5)
    assert places.load().queue == 0 and places.running == 1


async def test_a_node_that_drains_says_so_to_those_who_wait_and_to_those_who_come() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    ask(places, ONE)
    waiting = ask(places, TWO)
    places.drain()
    refusals = [await places.wait(waiting), places.ask(THREE)]
    assert [each.code for each in refusals if isinstance(each, Refusal)] == [RefusalCode.DRAINING] * 2


async def test_a_job_that_is_given_up_leaves_its_turn_to_the_next() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    running, first, second = ask(places, ONE), ask(places, TWO), ask(places, THREE)
    places.give_up(first, "not wanted any more")
    places.leave(running)
    refusal = await places.wait(first)
    assert refusal is not None and refusal.code is RefusalCode.CANCELLED
    assert await places.wait(second) is None and places.running == 1


async def test_a_wait_that_is_cancelled_gives_back_what_it_got_in_the_same_moment() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    running, waiting = ask(places, ONE), ask(places, TWO)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outcome_of, places, waiting, [])
        await anyio.sleep(0.1)
        places.leave(running)
        tasks.cancel_scope.cancel()
    places.leave(waiting)
    assert places.running == 0


async def test_how_long_jobs_take_is_learnt_from_jobs() -> None:
    places = Places(1, loop_clock, queue_limit=0)
    for _ in range(40):
        place = ask(places, ONE)
        await anyio.sleep(5)
        places.leave(place)
    assert 4_800 <= places.load().service_ms <= 5_000


async def test_whoever_watches_the_load_hears_of_every_change() -> None:
    places = Places(1, loop_clock, queue_limit=1)
    rooms = [places.room]
    for client in (ONE, TWO):
        changed = places.changed
        ask(places, client)
        assert changed.is_set()
        rooms.append(places.room)
    assert rooms == [(True, True), (False, True), (False, False)]


# ── places that are only lent until the first payment ────────────────────────────────────────────────────────────────


async def test_who_does_not_pay_in_time_gives_the_place_to_the_next() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    unpaid, next_one = ask(places, ONE), ask(places, TWO)
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(places.lend, unpaid)
        assert await places.wait(next_one) is None
    assert anyio.current_time() - began == pytest.approx(3)
    assert unpaid.began_at is None and places.running == 1
    places.leave(unpaid)
    places.leave(next_one)
    assert places.running == 0 and places.load().free == 1


async def test_a_job_that_runs_keeps_its_place() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    running = ask(places, ONE)
    await places.keep(running)
    await places.lend(running)
    assert running.began_at is not None and places.load().free == 0


async def test_who_pays_late_has_the_first_place_that_comes_free() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    late, running = ask(places, ONE), ask(places, TWO)
    await places.lend(late)
    await places.keep(running)
    queued = ask(places, THREE)
    order: list[Place] = []

    async def keep() -> None:
        await places.keep(late)
        order.append(late)
        places.leave(late)

    async def wait() -> None:
        assert await places.wait(queued) is None
        order.append(queued)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(keep)
        await anyio.sleep(1)
        assert order == [] and places.running == 1
        places.leave(running)
    assert order == [late, queued] and places.running == 1


async def test_who_pays_late_and_goes_before_there_is_a_place_leaves_nothing_behind() -> None:
    places = Places(1, loop_clock, queue_limit=8)
    late, running = ask(places, ONE), ask(places, TWO)
    await places.lend(late)
    await places.keep(running)
    with anyio.move_on_after(1):
        await places.keep(late)
    places.leave(late)
    places.leave(running)
    assert places.running == 0 and isinstance(places.ask(THREE), Place)
    assert places.running == 1


async def test_only_so_many_jobs_of_a_key_and_of_all_wait_for_their_first_payment() -> None:
    places = Places(3, loop_clock, unpaid_limit=3, unpaid_limit_per_client=2)
    for client in (ONE, ONE):
        await places.lend(ask(places, client))
    refusal = places.ask(ONE)
    assert isinstance(refusal, Refusal) and refusal.code is RefusalCode.PAYMENT_REQUIRED
    other = ask(places, TWO)
    await places.lend(other)
    assert isinstance(places.ask(THREE), Refusal), "of all clients together"
    places.leave(other)
    assert isinstance(places.ask(THREE), Place)


async def test_where_no_more_may_wait_a_place_is_kept_and_not_lost() -> None:
    places = Places(2, loop_clock, unpaid_limit=1)
    first, second = ask(places, ONE), ask(places, TWO)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(places.lend, first)
        tasks.start_soon(places.lend, second)
    assert (first.began_at is None) != (second.began_at is None)
    assert places.running == 1
