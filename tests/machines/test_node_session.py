"""The node's session alone, against clients that replay, forge, take over, flood or stay away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.machines.node_session import NODE_SESSION_TRANSITIONS, NodeSession
from relaymesh.machines.session_interface import (
    CloseConnection,
    Closed,
    ConnectionLost,
    Deliver,
    EndSession,
    FrameReceived,
    HelloReceived,
    Interrupted,
    NodeInput,
    Opened,
    SendFrame,
    SendMessages,
    SessionEffect,
    SessionEnd,
    SessionSettings,
    SessionState,
)
from relaymesh.protocol.frames import Hello, pack_plaintext, parse_ready
from relaymesh.protocol.session_codec import compute_job_id, encode_message
from relaymesh.protocol.session_messages import (
    CreditMessage,
    EndMessage,
    JobId,
    JobMessage,
    OutputMessage,
    PingMessage,
    ResumeMessage,
    SessionId,
    SessionMessage,
)
from tests.machines.session_builders import SESSION, TokenKeys, at_ms, make_job

JOB = make_job()


def _nonces(number: int) -> tuple[bytes, bytes]:
    return bytes([number]) * 32, bytes([100 + number]) * 32


class Node:
    """A node's session whose client is played by the test; connection n uses the nth pair of nonces."""

    def __init__(self, settings: SessionSettings | None = None) -> None:
        self.keys = TokenKeys()
        self.machine = NodeSession(SESSION, self.keys, settings)
        self.now = at_ms(0)
        self.machine.start(self.now)
        self.counters: dict[int, int] = {}

    def tell(self, message: NodeInput) -> tuple[SessionEffect, ...]:
        self.machine.receive(message, self.now)
        return self.machine.effects()

    def turn_to_ms(self, milliseconds: int) -> tuple[SessionEffect, ...]:
        self.now = at_ms(milliseconds)
        self.machine.handle_deadline(self.now)
        return self.machine.effects()

    def hello(self, number: int) -> HelloReceived:
        client_nonce, node_nonce = _nonces(number)
        return HelloReceived(
            number, Hello(SESSION, client_nonce, self.keys.hello_mac(SESSION, client_nonce)), node_nonce
        )

    def frame(self, number: int, *messages: SessionMessage) -> FrameReceived:
        counter = self.counters.get(number, 0)
        self.counters[number] = counter + 1
        cipher = self.keys.connection_ciphers(*_nonces(number)).client_to_node
        plaintext = pack_plaintext([encode_message(message) for message in messages])
        return FrameReceived(number, cipher.seal(counter, plaintext))

    def open(self, number: int = 1) -> "Node":
        self.tell(self.hello(number))
        self.tell(self.frame(number, PingMessage(0)))
        return self


def test_a_proven_hello_is_answered_and_the_first_authentic_frame_opens() -> None:
    node = Node()
    [answer] = node.tell(node.hello(1))
    assert isinstance(answer, SendFrame)
    ready = parse_ready(answer.frame)
    assert ready.mac == node.keys.ready_mac(*_nonces(1))
    assert node.machine.state is SessionState.GREETING
    assert node.tell(node.frame(1, JOB)) == (Opened(reconnected=False), Deliver(JOB))


@pytest.mark.parametrize("forgery", ["mac", "session", "nonce"])
def test_a_forged_hello_costs_only_its_connection_and_burns_no_nonce(forgery: str) -> None:
    node = Node()
    true = node.hello(1)
    hello = {
        "mac": Hello(SESSION, true.hello.client_nonce, bytes(32)),
        "session": Hello(SessionId("00" * 32), true.hello.client_nonce, true.hello.mac),
        "nonce": Hello(SESSION, b"\x63" * 32, true.hello.mac),
    }[forgery]
    assert node.tell(HelloReceived(7, hello, b"\x63" * 32)) == (CloseConnection(7),)
    assert node.machine.state is SessionState.CONNECTING
    assert isinstance(node.tell(true)[0], SendFrame)


def test_a_client_nonce_is_accepted_once() -> None:
    node = Node().open(1)
    replay = HelloReceived(2, node.hello(1).hello, b"\x63" * 32)
    assert node.tell(replay) == (CloseConnection(2),)
    assert node.machine.state is SessionState.OPEN


def test_a_new_connection_takes_over_with_its_first_authentic_frame_and_not_before() -> None:
    node = Node().open(1)
    node.tell(node.hello(2))
    assert node.tell(node.frame(1, JOB)) == (Deliver(JOB),)  # the old one still carries the session
    said = node.tell(node.frame(2, make_job(1)))
    assert said == (CloseConnection(1), Interrupted(), Opened(reconnected=True), Deliver(make_job(1)))
    assert node.tell(node.frame(1, make_job(2))) == ()
    assert node.tell(ConnectionLost(1)) == ()


def test_a_thief_of_a_hello_gets_no_session() -> None:
    """Whoever sends a client's own HELLO first burns its nonce, but has no keys for a single frame."""
    node = Node().open(1)
    node.tell(node.hello(2))
    assert node.tell(FrameReceived(2, b"forged frame")) == (CloseConnection(2),)
    assert node.machine.state is SessionState.OPEN
    assert node.tell(node.frame(1, JOB)) == (Deliver(JOB),)


def test_a_greeting_that_leads_to_nothing_is_dropped_after_5_s() -> None:
    node = Node()
    node.tell(node.hello(1))
    assert node.turn_to_ms(4_999) == ()
    assert node.turn_to_ms(5_000) == (CloseConnection(1),)
    assert node.machine.state is SessionState.CONNECTING


def test_of_several_greetings_the_last_one_counts() -> None:
    node = Node()
    node.tell(node.hello(1))
    said = node.tell(node.hello(2))
    assert said[0] == CloseConnection(1)
    assert node.tell(node.frame(1, JOB)) == ()
    assert Deliver(JOB) in node.tell(node.frame(2, JOB))


def test_when_the_open_connection_breaks_while_another_greets_the_session_waits_for_that_one() -> None:
    node = Node().open(1)
    node.tell(node.hello(2))
    assert node.tell(ConnectionLost(1)) == (Interrupted(),)
    assert node.machine.state is SessionState.GREETING
    assert node.tell(node.frame(2, JOB)) == (Opened(reconnected=True), Deliver(JOB))


def test_the_number_of_connections_in_a_session_is_bounded() -> None:
    node = Node(SessionSettings(maximum_connections=3))
    for number in (1, 2, 3):
        node.open(number)
    assert node.tell(node.hello(4)) == (CloseConnection(4),)
    assert node.machine.state is SessionState.OPEN


def test_a_replayed_frame_costs_the_connection() -> None:
    node = Node().open(1)
    frame = node.frame(1, JOB)
    node.tell(frame)
    assert node.tell(frame) == (CloseConnection(1), Interrupted())
    assert node.machine.state is SessionState.CONNECTING


@given(st.binary(max_size=600) | st.text(max_size=100))
def test_random_frames_cost_the_connection_and_nothing_else(frame: bytes | str) -> None:
    node = Node().open(1)
    assert node.tell(FrameReceived(1, frame)) == (CloseConnection(1), Interrupted())
    assert Deliver(JOB) in node.open(2).tell(node.frame(2, JOB))


@pytest.mark.parametrize(
    "message", [OutputMessage(JOB.job_id, 0, "x"), EndMessage(JOB.job_id)], ids=lambda message: type(message).__name__
)
def test_what_a_client_may_not_say_costs_the_connection(message: SessionMessage) -> None:
    node = Node().open(1)
    assert CloseConnection(1) in node.tell(node.frame(1, message))


def test_a_job_whose_id_is_not_its_own_hash_costs_the_connection() -> None:
    stolen = JobMessage(
        JobId("00" * 32), JOB.client_nonce, JOB.quote_id, JOB.model, JOB.job_type, "{}", 64, JOB.max_msat
    )
    node = Node().open(1)
    assert CloseConnection(1) in node.tell(node.frame(1, stolen))


def test_a_job_made_in_an_earlier_session_keeps_its_id() -> None:
    earlier = SessionId("77" * 32)
    job_id = compute_job_id(earlier, bytes.fromhex(JOB.client_nonce))
    resent = JobMessage(
        job_id, JOB.client_nonce, JOB.quote_id, JOB.model, JOB.job_type, JOB.body, 64, JOB.max_msat, earlier
    )
    node = Node().open(1)
    assert node.tell(node.frame(1, resent)) == (Deliver(resent),)


def test_a_flood_of_jobs_costs_the_connection() -> None:
    node = Node(SessionSettings(maximum_jobs=3)).open(1)
    node.tell(node.frame(1, *[make_job(number) for number in range(3)]))
    assert node.machine.state is SessionState.OPEN
    assert CloseConnection(1) in node.tell(node.frame(1, ResumeMessage(make_job(9).job_id, 0)))


def test_a_grant_is_void_on_the_next_connection() -> None:
    node = Node().open(1)
    node.tell(node.frame(1, JOB, CreditMessage(JOB.job_id, 1_000)))
    node.open(2)
    said = node.tell(SendMessages((OutputMessage(JOB.job_id, 0, "x"),)))
    assert not [effect for effect in said if isinstance(effect, SendFrame)]


def test_a_session_that_ended_answers_nobody() -> None:
    node = Node().open(1)
    node.tell(node.hello(2))
    said = node.tell(EndSession("closing time"))
    assert said[1:] == (CloseConnection(1), CloseConnection(2), Closed(SessionEnd.ENDED, "closing time"))
    assert node.keys.is_erased
    cipher = TokenKeys().connection_ciphers(*_nonces(2)).client_to_node
    late = cipher.seal(0, pack_plaintext([encode_message(JOB)]))
    assert node.tell(FrameReceived(2, late)) == ()
    hello = Hello(SESSION, b"\x05" * 32, bytes(32))
    assert node.tell(HelloReceived(5, hello, b"\x06" * 32)) == (CloseConnection(5),)
    assert node.tell(ConnectionLost(1)) == ()
    assert node.machine.deadline() is None


def test_a_client_that_never_comes_is_waited_for_30_s() -> None:
    node = Node()
    assert node.turn_to_ms(29_999) == ()
    said = node.turn_to_ms(30_000)
    assert said == (Closed(SessionEnd.DISCONNECTED, "the client did not come back"),)


def test_the_table_draws_itself() -> None:
    assert "OPEN --> CLOSED: idle" in NODE_SESSION_TRANSITIONS.diagram()
