"""The queue: bounded, fair, and never loses or doubles a ticket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relaymesh.errors import LocalProtocolError
from relaymesh.market.waiting import WaitingQueue
from relaymesh.nostr.event import PublicKey
from tests.market.builders import node


def drain(queue: WaitingQueue[int]) -> list[int]:
    taken = []
    while (ticket := queue.take()) is not None:
        taken.append(ticket)
    return taken


def test_clients_take_turns_however_many_jobs_one_of_them_sends() -> None:
    queue: WaitingQueue[int] = WaitingQueue(limit=10, limit_per_client=4)
    for ticket in (1, 2, 3):
        assert queue.enter(node(1), ticket)
    assert queue.enter(node(2), 4) and queue.enter(node(3), 5)
    assert drain(queue) == [1, 4, 5, 2, 3]


def test_a_queue_is_bounded_for_all_and_for_each() -> None:
    queue: WaitingQueue[int] = WaitingQueue(limit=3, limit_per_client=2)
    assert [queue.enter(node(1), ticket) for ticket in (1, 2, 3)] == [True, True, False]
    assert [queue.enter(node(number), number) for number in (4, 5)] == [True, False]
    assert len(queue) == 3


def test_nobody_waits_where_there_is_no_queue() -> None:
    assert not WaitingQueue[int](0, 1).enter(node(1), 1)


@pytest.mark.parametrize("limits", [(-1, 1), (1, 0)])
def test_limits_that_are_none_are_an_error(limits: tuple[int, int]) -> None:
    with pytest.raises(LocalProtocolError):
        WaitingQueue[int](*limits)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1_000)), unique_by=lambda pair: pair[1], max_size=40))
def test_no_client_is_served_twice_while_another_has_waited_for_its_turn(entries: list[tuple[int, int]]) -> None:
    queue: WaitingQueue[tuple[int, int]] = WaitingQueue(limit=40, limit_per_client=40)
    for client, ticket in entries:
        assert queue.enter(node(client), (client, ticket))
    served: dict[int, int] = {}
    left = {client: sum(each == client for each, _ in entries) for client, _ in entries}
    while (taken := queue.take()) is not None:
        client = taken[0]
        waiting = [other for other, count in left.items() if count and other != client]
        assert all(served.get(client, 0) <= served.get(other, 0) for other in waiting)
        served[client] = served.get(client, 0) + 1
        left[client] -= 1
    assert not any(left.values())


class Queueing(RuleBasedStateMachine):
    """Any order of coming, going and being served, beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: WaitingQueue[int] = WaitingQueue(limit=6, limit_per_client=3)
        self.waiting: list[tuple[PublicKey, int]] = []
        self.next_ticket = 0

    @rule(number=st.integers(1, 4))
    def enter(self, number: int) -> None:
        client = node(number)
        has_room = len(self.waiting) < 6 and sum(each == client for each, _ in self.waiting) < 3
        assert self.queue.enter(client, self.next_ticket) is has_room
        if has_room:
            self.waiting.append((client, self.next_ticket))
        self.next_ticket += 1

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.waiting:
            client, ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
            self.queue.leave(client, ticket)
            self.queue.leave(client, ticket)

    @rule()
    def take(self) -> None:
        ticket = self.queue.take()
        if ticket is None:
            assert not self.waiting
            return
        client = next(each for each, number in self.waiting if number == ticket)
        assert ticket == min(number for each, number in self.waiting if each == client)
        self.waiting.remove((client, ticket))

    @invariant()
    def is_as_long_as_it_should_be(self) -> None:
        assert len(self.queue) == len(self.waiting)


TestQueueing = Queueing.TestCase
