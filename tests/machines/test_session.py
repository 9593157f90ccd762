"""Both sides of a session together: greeting, messages, credit, keepalive, reconnects, ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.session_interface import (
    Closed,
    EndSession,
    Interrupted,
    JobFinished,
    Opened,
    PauseOutput,
    ResumeOutput,
    SessionEnd,
    SessionSettings,
    SessionState,
)
from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.protocol.session_messages import (
    CreditMessage,
    EndMessage,
    JobMessage,
    MeteringMessage,
    OutputMessage,
    PaidMessage,
    ResumeMessage,
    SessionMessage,
)
from relaymesh.units import Timestamp
from tests.machines.session_builders import Pair, job_id_of, make_job

JOB = make_job()
METERING = MeteringMessage(Event(PublicKey("aa" * 32), Timestamp(1), 8770, (), "{}", EventId("bb" * 32), "cc" * 64))


def _data_bytes(messages: list[SessionMessage]) -> int:
    return sum(len(message.data.encode()) for message in messages if isinstance(message, OutputMessage))


def test_a_session_opens_in_one_round_trip_and_the_client_proves_itself_at_once() -> None:
    pair = Pair().start()
    assert pair.client.state is pair.node.state is SessionState.OPEN
    assert Opened(reconnected=False) in pair.client_said
    assert Opened(reconnected=False) in pair.node_said
    assert [side for side, _ in pair.frames] == ["client", "node", "client", "node"]  # HELLO, READY, PING, PONG


def test_what_the_client_says_before_the_session_is_open_goes_out_with_its_first_frame() -> None:
    pair = Pair()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 100))
    pair.start()
    assert pair.node_got() == [JOB]
    assert len([frame for side, frame in pair.frames if side == "client"]) == 2


def test_messages_of_one_turn_share_a_frame() -> None:
    pair = Pair().start()
    before = len(pair.frames)
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 100), PaidMessage(JOB.job_id, 0))
    assert len(pair.frames) == before + 1
    assert pair.node_got() == [JOB, PaidMessage(JOB.job_id, 0)]


def test_a_message_too_long_for_a_frame_arrives_whole() -> None:
    pair = Pair().start()
    job = make_job(1, body="a" * 500_000)
    pair.client_sends(job)
    assert pair.node_got() == [job]


def test_the_first_output_leaves_at_once_and_later_ones_about_every_20_ms() -> None:
    pair = Pair().start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 1_000))
    before = len(pair.frames)
    pair.node_sends(OutputMessage(JOB.job_id, 0, "first"))
    assert len(pair.frames) == before + 1
    for number in range(1, 6):
        pair.pass_ms(2)
        pair.node_sends(OutputMessage(JOB.job_id, number, "later"))
    assert len(pair.frames) == before + 1
    pair.pass_ms(10)
    assert len(pair.frames) == before + 2
    assert len(pair.client_got()) == 6
    pair.pass_ms(20)
    pair.node_sends(OutputMessage(JOB.job_id, 6, "a slow one"))
    assert len(pair.frames) == before + 3


def test_a_runner_that_is_as_fast_as_frames_may_follow_one_another_waits_for_no_timer() -> None:
    pair = Pair().start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 1_000))
    before = len(pair.frames)
    for number, pause_ms in enumerate((0, 15, 20, 16, 19)):
        pair.pass_ms(pause_ms)
        pair.node_sends(OutputMessage(JOB.job_id, number, "token"))
        assert len(pair.frames) == before + number + 1
    pair.pass_ms(14)
    pair.node_sends(OutputMessage(JOB.job_id, 5, "early"))
    assert len(pair.frames) == before + 5


def test_whatever_is_no_output_takes_the_waiting_output_with_it() -> None:
    pair = Pair().start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 1_000))
    pair.node_sends(OutputMessage(JOB.job_id, 0, "a"))
    pair.node_sends(OutputMessage(JOB.job_id, 1, "b"))
    before = len(pair.frames)
    pair.node_sends(EndMessage(JOB.job_id))
    assert len(pair.frames) == before + 1
    assert pair.client_got()[-2:] == [OutputMessage(JOB.job_id, 1, "b"), EndMessage(JOB.job_id)]


def test_without_coalescing_every_output_leaves_at_once() -> None:
    pair = Pair(SessionSettings(coalesce_ms=0)).start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 1_000))
    before = len(pair.frames)
    for number in range(5):
        pair.node_sends(OutputMessage(JOB.job_id, number, "x"))
    assert len(pair.frames) == before + 5


def test_output_without_credit_waits_and_everything_of_its_job_waits_behind_it() -> None:
    pair = Pair(SessionSettings(coalesce_ms=0)).start()
    other = make_job(1)
    pair.client_sends(JOB, other, CreditMessage(other.job_id, 10))
    pair.node_sends(OutputMessage(JOB.job_id, 0, "four"))
    pair.node_sends(EndMessage(JOB.job_id))
    pair.node_sends(METERING, job_id=JOB.job_id)
    pair.node_sends(OutputMessage(other.job_id, 0, "x"))
    assert pair.client_got() == [OutputMessage(other.job_id, 0, "x")]
    assert pair.node_said.count(PauseOutput(JOB.job_id)) == 1
    pair.client_sends(CreditMessage(JOB.job_id, 3))
    assert len(pair.client_got()) == 1
    pair.client_sends(CreditMessage(JOB.job_id, 1))
    assert pair.client_got()[1:] == [OutputMessage(JOB.job_id, 0, "four"), EndMessage(JOB.job_id), METERING]
    assert ResumeOutput(JOB.job_id) in pair.node_said


def test_credit_is_counted_in_bytes_of_utf_8() -> None:
    pair = Pair(SessionSettings(coalesce_ms=0)).start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 3))
    pair.node_sends(OutputMessage(JOB.job_id, 0, "👋"))
    assert pair.client_got() == []
    pair.client_sends(CreditMessage(JOB.job_id, 1))
    assert pair.client_got() == [OutputMessage(JOB.job_id, 0, "👋")]


def test_output_for_a_job_nobody_asked_for_is_our_own_mistake() -> None:
    pair = Pair().start()
    with pytest.raises(LocalProtocolError):
        pair.node_sends(OutputMessage(job_id_of(9), 0, "x"))


def test_output_that_waits_is_bounded() -> None:
    pair = Pair(SessionSettings(maximum_held_bytes=100)).start()
    pair.client_sends(JOB)
    pair.node_sends(OutputMessage(JOB.job_id, 0, "x" * 100))
    with pytest.raises(LocalProtocolError):
        pair.node_sends(OutputMessage(JOB.job_id, 1, "x"))


def test_credit_for_a_job_that_is_over_is_nothing() -> None:
    pair = Pair().start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 10))
    pair.node.receive(JobFinished(JOB.job_id), pair.now)
    pair.client_sends(CreditMessage(JOB.job_id, 10))
    assert pair.client.state is pair.node.state is SessionState.OPEN


def test_output_of_a_job_that_is_over_for_the_client_is_ignored() -> None:
    pair = Pair(SessionSettings(coalesce_ms=0)).start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 10))
    pair.client.receive(JobFinished(JOB.job_id), pair.now)
    pair.node_sends(OutputMessage(JOB.job_id, 0, "late"))
    assert pair.client_got() == []
    assert pair.client.state is SessionState.OPEN


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("grant"), st.integers(0, 2), st.integers(1, 60)),
            st.tuples(st.just("output"), st.integers(0, 2), st.integers(1, 40)),
            st.tuples(st.just("time"), st.just(0), st.integers(1, 30)),
            st.tuples(st.just("cut"), st.just(0), st.just(0)),
        ),
        max_size=60,
    )
)
def test_the_node_never_sends_beyond_its_credit_whatever_the_order(steps: list[tuple[str, int, int]]) -> None:
    """The client's machine would close the connection; here every byte is counted beside it."""
    pair = Pair().start()
    jobs = [make_job(number) for number in range(3)]
    pair.client_sends(*jobs)
    granted, seen, numbers = [0] * 3, 0, [0] * 3
    for action, job, amount in steps:
        if action == "grant":
            granted[job] += amount
            pair.client_sends(CreditMessage(jobs[job].job_id, amount))
        elif action == "output":
            pair.node_sends(OutputMessage(jobs[job].job_id, numbers[job], "é" * (amount // 2) + "x" * (amount % 2)))
            numbers[job] += 1
        elif action == "time":
            pair.pass_ms(amount)
        else:
            pair.pass_ms(10_000)  # a settled connection, so that cuts do not add up to an end
            pair.cut()
            pair.pass_ms(300)
            granted = [0] * 3
            seen = len(pair.client_got())
        for number, each in enumerate(jobs):
            got = [message for message in pair.client_got()[seen:] if getattr(message, "job_id", None) == each.job_id]
            assert _data_bytes(got) <= granted[number]
        assert pair.client.state is pair.node.state is SessionState.OPEN
    opened = [effect for effect in pair.client_said if isinstance(effect, Opened)]
    assert len(opened) == 1 + sum(action == "cut" for action, _, _ in steps)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 50))
def test_all_output_arrives_in_order_when_credit_keeps_coming(sizes: list[int], grant: int) -> None:
    pair = Pair().start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, grant))
    outputs = [OutputMessage(JOB.job_id, number, "x" * size) for number, size in enumerate(sizes)]
    for output in outputs:
        pair.node_sends(output)
    pair.node_sends(EndMessage(JOB.job_id))
    while pair.client_got()[-1:] != [EndMessage(JOB.job_id)]:
        pair.client_sends(CreditMessage(JOB.job_id, grant))
        pair.pass_ms(20)
    assert pair.client_got()[:-1] == outputs


def test_after_a_reconnect_the_jobs_are_told_and_go_on() -> None:
    pair = Pair(SessionSettings(coalesce_ms=0)).start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 10))
    pair.node_sends(OutputMessage(JOB.job_id, 0, "a"))
    pair.pass_ms(15_000)
    pair.cut()
    assert Interrupted() in pair.client_said
    assert Interrupted() in pair.node_said
    pair.node_sends(OutputMessage(JOB.job_id, 1, "lost"))
    pair.client_sends(PaidMessage(JOB.job_id, 0))
    pair.pass_ms(250)
    assert Opened(reconnected=True) in pair.client_said
    assert Opened(reconnected=True) in pair.node_said
    assert pair.client_got() == [OutputMessage(JOB.job_id, 0, "a")]
    assert pair.node_got() == [JOB]  # what was said in between is dropped: the jobs say it again
    pair.client_sends(ResumeMessage(JOB.job_id, 1), CreditMessage(JOB.job_id, 10))
    pair.node_sends(OutputMessage(JOB.job_id, 1, "again"))
    assert pair.client_got()[-1] == OutputMessage(JOB.job_id, 1, "again")


def test_output_held_before_a_resume_is_not_sent_beside_what_is_resent() -> None:
    pair = Pair(SessionSettings(coalesce_ms=0)).start()
    pair.client_sends(JOB)
    pair.pass_ms(15_000)
    pair.cut()
    pair.pass_ms(250)
    pair.node_sends(OutputMessage(JOB.job_id, 1, "too early"))
    pair.client_sends(ResumeMessage(JOB.job_id, 0), CreditMessage(JOB.job_id, 100))
    assert pair.client_got() == []
    assert ResumeOutput(JOB.job_id) in pair.node_said  # the producer was paused, and may go on


def test_a_dead_connection_is_noticed_by_both_sides_and_replaced() -> None:
    pair = Pair().start()
    pair.cut(told=False)
    pair.pass_ms(29_000)
    assert pair.client.state is SessionState.OPEN
    pair.pass_ms(3_000)
    assert Opened(reconnected=True) in pair.client_said
    assert pair.client.state is pair.node.state is SessionState.OPEN


def test_a_silent_session_stays_open_by_ping_and_pong_until_it_is_idle() -> None:
    pair = Pair().start()
    pair.pass_ms(299_000)
    assert pair.client.state is pair.node.state is SessionState.OPEN
    pair.pass_ms(2_000)
    assert pair.node_said[-1] == Closed(SessionEnd.IDLE, "nothing was said for too long")
    assert pair.client_said[-1] == Closed(SessionEnd.PEER_LEFT, "the other side said: idle")
    assert pair.client_keys.is_erased and pair.node_keys.is_erased


@pytest.mark.parametrize("side", ["client", "node"])
def test_the_side_that_ends_a_session_says_goodbye_after_all_it_had_to_say(side: str) -> None:
    pair = Pair().start()
    pair.client_sends(JOB, CreditMessage(JOB.job_id, 10))
    pair.node_sends(OutputMessage(JOB.job_id, 0, "a"), OutputMessage(JOB.job_id, 1, "b"))
    machine = pair.client if side == "client" else pair.node
    machine.receive(EndSession("enough"), pair.now)
    pair.settle()
    assert pair.client.state is pair.node.state is SessionState.CLOSED
    ends = [effect.end for effect in (pair.client_said[-1], pair.node_said[-1]) if isinstance(effect, Closed)]
    assert ends == (
        [SessionEnd.ENDED, SessionEnd.PEER_LEFT] if side == "client" else [SessionEnd.PEER_LEFT, SessionEnd.ENDED]
    )
    assert pair.client_keys.is_erased and pair.node_keys.is_erased
    if side == "node":
        assert len(pair.client_got()) == 2
    assert not pair.wires
    assert pair.client.deadline() is None and pair.node.deadline() is None


def test_a_node_that_cannot_be_reached_is_tried_three_times() -> None:
    pair = Pair()
    pair.is_reachable = False
    pair.start()
    pair.pass_ms(10_000)
    assert isinstance(pair.client_said[-1], Closed)
    assert pair.client_said[-1].end is SessionEnd.UNREACHABLE
    pair.pass_ms(30_000)
    assert isinstance(pair.node_said[-1], Closed)
    assert pair.node_said[-1].end is SessionEnd.DISCONNECTED


def test_a_client_that_does_not_come_back_ends_the_nodes_session_after_30_s() -> None:
    pair = Pair().start()
    pair.is_reachable = False
    pair.cut()
    pair.pass_ms(29_999)
    assert pair.node.state is SessionState.CONNECTING
    pair.pass_ms(1)
    assert pair.node_said[-1] == Closed(SessionEnd.DISCONNECTED, "the client did not come back")


def test_many_jobs_share_a_session() -> None:
    pair = Pair().start()
    jobs = [make_job(number) for number in range(1_000)]
    pair.client_sends(*jobs, *[CreditMessage(job.job_id, 100) for job in jobs])
    assert pair.node_got() == jobs
    for job in jobs:
        pair.node_sends(OutputMessage(job.job_id, 0, "x"))
        pair.node_sends(EndMessage(job.job_id))
    ended = [message for message in pair.client_got() if isinstance(message, EndMessage)]
    assert len(ended) == len(jobs)
    assert all(isinstance(message, JobMessage) for message in pair.node_got())
