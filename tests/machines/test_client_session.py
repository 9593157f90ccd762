"""The client's session alone, against a node that is late, silent, confused or hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.client_session import CLIENT_SESSION_TRANSITIONS, ClientSession
from relaymesh.machines.session_interface import (
    ClientInput,
    CloseConnection,
    Closed,
    ConnectionLost,
    ConnectionOpened,
    Deliver,
    Dial,
    EndSession,
    FrameReceived,
    Interrupted,
    Opened,
    SendFrame,
    SendMessages,
    SessionEffect,
    SessionEnd,
    SessionState,
)
from relaymesh.protocol.frames import FrameCipher, Ready, pack_plaintext, parse_hello
from relaymesh.protocol.session_codec import encode_message
from relaymesh.protocol.session_messages import (
    ByeMessage,
    CreditMessage,
    EndMessage,
    OutputMessage,
    PartMessage,
    PongMessage,
    SessionMessage,
)
from tests.machines.session_builders import SESSION, TokenKeys, at_ms, make_job

NONCE, NODE_NONCE = b"\x01" * 32, b"\x02" * 32
JOB = make_job()


class Client:
    """A client's session whose node is played by the test."""

    def __init__(self) -> None:
        self.keys = TokenKeys()
        self.machine = ClientSession(SESSION, self.keys)
        self.now = at_ms(0)
        self.machine.start(self.now)
        self.counter = 0
        self.sealer: FrameCipher

    def tell(self, message: ClientInput) -> tuple[SessionEffect, ...]:
        self.machine.receive(message, self.now)
        return self.machine.effects()

    def turn_to_ms(self, milliseconds: int) -> tuple[SessionEffect, ...]:
        self.now = at_ms(milliseconds)
        self.machine.handle_deadline(self.now)
        return self.machine.effects()

    def ready(self) -> str:
        return Ready(NODE_NONCE, self.keys.ready_mac(NONCE, NODE_NONCE)).to_text()

    def open(self) -> "Client":
        self.machine.effects()
        self.tell(ConnectionOpened(1, NONCE))
        self.tell(FrameReceived(1, self.ready()))
        self.sealer = self.keys.connection_ciphers(NONCE, NODE_NONCE).node_to_client
        return self

    def frame(self, *messages: SessionMessage) -> bytes:
        frame = self.sealer.seal(self.counter, pack_plaintext([encode_message(message) for message in messages]))
        self.counter += 1
        return frame


def test_a_start_is_a_dial_and_a_connection_a_hello() -> None:
    client = Client()
    assert client.machine.effects() == (Dial(1),)
    [hello] = client.tell(ConnectionOpened(1, NONCE))
    assert isinstance(hello, SendFrame)
    greeting = parse_hello(hello.frame)
    assert (greeting.session_id, greeting.client_nonce) == (SESSION, NONCE)
    assert greeting.mac == client.keys.hello_mac(SESSION, NONCE)
    assert client.machine.state is SessionState.GREETING


def test_a_late_ready_is_waited_for_5_s_three_times() -> None:
    client = Client()
    client.machine.effects()
    milliseconds = 0
    for number, wait_ms in ((1, 250), (2, 1_000), (3, 0)):
        client.tell(ConnectionOpened(number, NONCE))
        assert client.turn_to_ms(milliseconds + 4_999) == ()
        said = client.turn_to_ms(milliseconds + 5_000)
        assert said[0] == CloseConnection(number)
        milliseconds += 5_000 + wait_ms
        if number < 3:
            assert said[1:] == ()
            assert client.turn_to_ms(milliseconds) == (Dial(number + 1),)
        else:
            assert isinstance(said[-1], Closed) and said[-1].end is SessionEnd.UNREACHABLE
    assert client.keys.is_erased


def test_a_dial_that_takes_too_long_is_given_up_and_its_connection_closed_when_it_comes() -> None:
    client = Client()
    client.machine.effects()
    assert client.turn_to_ms(10_000) == (CloseConnection(1),)
    assert client.tell(ConnectionOpened(1, NONCE)) == (CloseConnection(1),)
    assert client.turn_to_ms(10_250) == (Dial(2),)
    assert client.tell(ConnectionOpened(1, NONCE)) == (CloseConnection(1),)
    assert isinstance(client.tell(ConnectionOpened(2, NONCE))[0], SendFrame)


@pytest.mark.parametrize(
    "frame",
    [
        b"binary",
        "no json",
        Ready(NODE_NONCE, bytes(32)).to_text(),
        Ready(b"\x09" * 32, TokenKeys().ready_mac(NONCE, NODE_NONCE)).to_text(),
        Ready(NODE_NONCE, TokenKeys(b"other").ready_mac(NONCE, NODE_NONCE)).to_text(),
    ],
    ids=["binary", "no json", "no mac", "other nonce", "other keys"],
)
def test_an_unproven_ready_costs_only_the_connection(frame: bytes | str) -> None:
    client = Client()
    client.machine.effects()
    client.tell(ConnectionOpened(1, NONCE))
    assert client.tell(FrameReceived(1, frame)) == (CloseConnection(1),)
    assert client.turn_to_ms(250) == (Dial(2),)


def test_a_frame_is_accepted_once() -> None:
    client = Client().open()
    client.tell(SendMessages((JOB, CreditMessage(JOB.job_id, 100))))
    frame = client.frame(OutputMessage(JOB.job_id, 0, "x"))
    assert client.tell(FrameReceived(1, frame)) == (Deliver(OutputMessage(JOB.job_id, 0, "x")),)
    assert client.tell(FrameReceived(1, frame)) == (CloseConnection(1), Interrupted())
    assert client.machine.state is SessionState.CONNECTING


def test_a_frame_left_out_is_noticed() -> None:
    client = Client().open()
    client.frame(PongMessage(1))
    assert CloseConnection(1) in client.tell(FrameReceived(1, client.frame(PongMessage(2))))


@pytest.mark.parametrize(
    "message",
    [JOB, CreditMessage(JOB.job_id, 1), PartMessage(0, 1, 2, "x")],
    ids=lambda message: type(message).__name__,
)
def test_what_a_node_may_not_say_costs_the_connection(message: SessionMessage) -> None:
    client = Client().open()
    assert CloseConnection(1) in client.tell(FrameReceived(1, client.frame(message)))


def test_a_node_that_sends_more_than_was_granted_loses_the_connection() -> None:
    client = Client().open()
    client.tell(SendMessages((JOB, CreditMessage(JOB.job_id, 2), CreditMessage(JOB.job_id, 2))))
    assert client.tell(FrameReceived(1, client.frame(OutputMessage(JOB.job_id, 0, "four")))) != ()
    said = client.tell(FrameReceived(1, client.frame(OutputMessage(JOB.job_id, 1, "é"))))
    assert said == (CloseConnection(1), Interrupted())


def test_output_after_the_end_is_ignored() -> None:
    client = Client().open()
    client.tell(SendMessages((JOB, CreditMessage(JOB.job_id, 100))))
    client.tell(FrameReceived(1, client.frame(EndMessage(JOB.job_id))))
    assert client.tell(FrameReceived(1, client.frame(OutputMessage(JOB.job_id, 0, "late")))) == ()


@given(st.binary(max_size=600) | st.text(max_size=100))
def test_random_frames_cost_the_connection_and_nothing_else(frame: bytes | str) -> None:
    client = Client().open()
    assert client.tell(FrameReceived(1, frame)) == (CloseConnection(1), Interrupted())
    assert client.turn_to_ms(250) == (Dial(2),)


def test_frames_of_a_connection_that_is_gone_are_ignored() -> None:
    client = Client().open()
    frame = client.frame(PongMessage(1))
    client.tell(ConnectionLost(1))
    assert client.tell(FrameReceived(1, frame)) == ()
    client.turn_to_ms(250)
    assert client.tell(FrameReceived(1, frame)) == ()
    assert client.tell(ConnectionLost(1)) == ()


def test_connections_that_break_again_and_again_end_the_session_but_good_ones_in_between_do_not() -> None:
    client = Client().open()
    milliseconds = 0
    for number in range(2, 12):
        milliseconds += 10_000
        client.now = at_ms(milliseconds)
        client.tell(ConnectionLost(number - 1))
        milliseconds += 250
        assert client.turn_to_ms(milliseconds) == (Dial(number),)
        client.tell(ConnectionOpened(number, NONCE))
        assert Opened(reconnected=True) in client.tell(FrameReceived(number, client.ready()))
    client.tell(ConnectionLost(11))  # at once: the second try after the last good connection
    assert client.turn_to_ms(milliseconds + 1_000) == (Dial(12),)
    client.tell(ConnectionOpened(12, NONCE))
    client.tell(FrameReceived(12, client.ready()))
    said = client.tell(ConnectionLost(12))
    assert isinstance(said[-1], Closed) and said[-1].end is SessionEnd.UNREACHABLE


def test_after_a_goodbye_nothing_is_delivered_and_nothing_revives_the_session() -> None:
    client = Client().open()
    client.tell(SendMessages((JOB, CreditMessage(JOB.job_id, 100))))
    said = client.tell(FrameReceived(1, client.frame(ByeMessage("going"), OutputMessage(JOB.job_id, 0, "x"))))
    assert said == (CloseConnection(1), Closed(SessionEnd.PEER_LEFT, "the other side said: going"))
    for late in (
        ConnectionLost(1),
        FrameReceived(1, b""),
        SendMessages((JOB,)),
        EndSession("again"),
    ):
        assert client.tell(late) == ()
    assert client.tell(ConnectionOpened(2, NONCE)) == (CloseConnection(2),)
    assert client.machine.deadline() is None


@pytest.mark.parametrize("stage", ["connecting", "greeting", "waiting"])
def test_a_session_can_be_ended_before_it_is_open(stage: str) -> None:
    client = Client()
    client.machine.effects()
    if stage == "greeting":
        client.tell(ConnectionOpened(1, NONCE))
    elif stage == "waiting":
        client.tell(ConnectionLost(1))
    said = client.tell(EndSession("changed my mind"))
    assert said[-1] == Closed(SessionEnd.ENDED, "changed my mind")
    assert (CloseConnection(1) in said) is (stage != "waiting")
    assert client.machine.deadline() is None


def test_the_table_refuses_what_it_lacks_and_draws_itself() -> None:
    with pytest.raises(LocalProtocolError):
        CLIENT_SESSION_TRANSITIONS.move(SessionState.CLOSED, "ready", SessionState.OPEN)
    assert "CLOSED --> [*]" in CLIENT_SESSION_TRANSITIONS.diagram()
