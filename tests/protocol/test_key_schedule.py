"""The key schedule: the same on both sides, different for everything else, gone when the session ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import EventId
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.frames import SessionKeys
from relaymesh.protocol.key_schedule import SessionSecrets, derive_session_secrets
from relaymesh.protocol.session_messages import JobId, SessionId

REQUEST, ACCEPT = EventId("01" * 32), EventId("02" * 32)
SESSION = SessionId("03" * 32)
CLIENT_NONCE, NODE_NONCE = b"\x04" * 32, b"\x05" * 32
JOB = JobId("06" * 32)


def _secrets(ephemeral_x: bytes = b"\x07" * 32, static_x: bytes = b"\x08" * 32) -> SessionSecrets:
    return derive_session_secrets(REQUEST, ACCEPT, ephemeral_x, static_x)


def test_both_sides_derive_the_same_keys_from_their_own_halves() -> None:
    client_ephemeral, node_ephemeral, node = (KeyPair(bytes([number]) * 32) for number in (11, 12, 13))
    client = _secrets(
        client_ephemeral.shared_secret(node_ephemeral.public_key), client_ephemeral.shared_secret(node.public_key)
    )
    answer = _secrets(
        node_ephemeral.shared_secret(client_ephemeral.public_key), node.shared_secret(client_ephemeral.public_key)
    )
    assert client.hello_mac(SESSION, CLIENT_NONCE) == answer.hello_mac(SESSION, CLIENT_NONCE)
    sealed = client.connection_ciphers(CLIENT_NONCE, NODE_NONCE).client_to_node.seal(0, b"x" * 256)
    assert answer.connection_ciphers(CLIENT_NONCE, NODE_NONCE).client_to_node.open(0, sealed) == b"x" * 256


@pytest.mark.parametrize(
    "other",
    [
        derive_session_secrets(EventId("09" * 32), ACCEPT, b"\x07" * 32, b"\x08" * 32),
        derive_session_secrets(REQUEST, EventId("09" * 32), b"\x07" * 32, b"\x08" * 32),
        derive_session_secrets(REQUEST, ACCEPT, b"\x09" * 32, b"\x08" * 32),
        derive_session_secrets(REQUEST, ACCEPT, b"\x07" * 32, b"\x09" * 32),
        derive_session_secrets(ACCEPT, REQUEST, b"\x07" * 32, b"\x08" * 32),
        derive_session_secrets(REQUEST, ACCEPT, b"\x08" * 32, b"\x07" * 32),
    ],
    ids=["request", "accept", "ephemeral", "static", "ids swapped", "secrets swapped"],
)
def test_every_input_changes_the_keys(other: SessionSecrets) -> None:
    mine = _secrets()
    assert mine.hello_mac(SESSION, CLIENT_NONCE) != other.hello_mac(SESSION, CLIENT_NONCE)
    assert mine.ready_mac(CLIENT_NONCE, NODE_NONCE) != other.ready_mac(CLIENT_NONCE, NODE_NONCE)
    sealed = mine.connection_ciphers(CLIENT_NONCE, NODE_NONCE).client_to_node.seal(0, b"x" * 256)
    with pytest.raises(RemoteProtocolError):
        other.connection_ciphers(CLIENT_NONCE, NODE_NONCE).client_to_node.open(0, sealed)


def test_a_frame_opens_only_in_its_direction_on_its_connection_at_its_place() -> None:
    ciphers = _secrets().connection_ciphers(CLIENT_NONCE, NODE_NONCE)
    frame = ciphers.client_to_node.seal(5, b"x" * 256)
    assert ciphers.client_to_node.open(5, frame) == b"x" * 256
    elsewhere = _secrets().connection_ciphers(CLIENT_NONCE, b"\x09" * 32)
    for cipher, counter in (
        (ciphers.client_to_node, 4),
        (ciphers.client_to_node, 6),
        (ciphers.node_to_client, 5),
        (elsewhere.client_to_node, 5),
    ):
        with pytest.raises(RemoteProtocolError):
            cipher.open(counter, frame)


@given(st.binary(max_size=600))
def test_random_frames_are_never_authentic(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        _secrets().connection_ciphers(CLIENT_NONCE, NODE_NONCE).client_to_node.open(0, frame)


@given(st.integers(0, 271), st.integers(1, 255))
def test_a_frame_with_one_byte_changed_is_not_authentic(position: int, change: int) -> None:
    cipher = _secrets().connection_ciphers(CLIENT_NONCE, NODE_NONCE).client_to_node
    frame = bytearray(cipher.seal(0, bytes(256)))
    frame[position] ^= change
    with pytest.raises(RemoteProtocolError):
        cipher.open(0, bytes(frame))


def test_macs_are_compared_whole() -> None:
    secrets = _secrets()
    mac = secrets.hello_mac(SESSION, CLIENT_NONCE)
    assert secrets.is_same_mac(mac, bytes(mac))
    assert not secrets.is_same_mac(mac, mac[:-1])
    assert not secrets.is_same_mac(mac, mac[:-1] + bytes([mac[-1] ^ 1]))


def test_commitment_keys_differ_by_purpose_and_by_job() -> None:
    secrets = _secrets()
    keys = {
        secrets.commitment_key(what, job) for what in ("prompt", "output", "payment") for job in (JOB, JobId("00" * 32))
    }
    assert len(keys) == 6


def test_erased_secrets_give_nothing_and_show_nothing() -> None:
    secrets: SessionKeys = _secrets()
    assert "08" not in repr(secrets)
    secrets.erase()
    for use in (
        lambda: secrets.hello_mac(SESSION, CLIENT_NONCE),
        lambda: secrets.ready_mac(CLIENT_NONCE, NODE_NONCE),
        lambda: secrets.connection_ciphers(CLIENT_NONCE, NODE_NONCE),
    ):
        with pytest.raises(LocalProtocolError):
            use()


def test_secrets_of_another_length_are_our_own_mistake() -> None:
    for make in (
        lambda: _secrets(ephemeral_x=b"short"),
        lambda: _secrets(static_x=b"short"),
        lambda: SessionSecrets(b"short"),
        lambda: _secrets().connection_ciphers(b"short", NODE_NONCE),
    ):
        with pytest.raises(LocalProtocolError):
            make()
