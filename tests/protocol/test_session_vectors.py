"""`nips/vectors/session.json`: what another implementation of RM-02 can check its key schedule and frames against.

Every value is computed a second time here, from the specification and the `cryptography` library, without the code
under test. Run this file as a program to write the vectors anew.
"""

import json
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from relaymesh.nostr.event import EventId
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.frames import Hello, Ready, split_into_frames, unpack_plaintext
from relaymesh.protocol.key_schedule import derive_session_secrets
from relaymesh.protocol.session_codec import compute_job_id, encode_message, parse_message
from relaymesh.protocol.session_messages import (
    CreditMessage,
    EndMessage,
    JobMessage,
    OutputMessage,
    PingMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import AmountMsat

VECTORS = Path(__file__).parents[2] / "nips" / "vectors" / "session.json"

CLIENT_EPHEMERAL, NODE_EPHEMERAL, NODE = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
REQUEST_ID, ACCEPT_ID = EventId("a1" * 32), EventId("a2" * 32)
SESSION_ID = SessionId("a3" * 32)
CLIENT_NONCE, NODE_NONCE, JOB_NONCE = bytes([0xB1]) * 32, bytes([0xB2]) * 32, bytes([0xB3]) * 32


def _frames() -> list[tuple[str, int, list[SessionMessage]]]:
    job_id = compute_job_id(SESSION_ID, JOB_NONCE)
    job = JobMessage(
        job_id, JOB_NONCE.hex(), EventId("a4" * 32), "tiny", "chat", '{"messages":[]}', 64, AmountMsat(1_000)
    )
    outputs: list[SessionMessage] = [OutputMessage(job_id, 0, "Grüße"), OutputMessage(job_id, 1, " 👋\n")]
    return [
        ("client_to_node", 0, [job, CreditMessage(job_id, 262_144)]),
        ("client_to_node", 1, [PingMessage(1)]),
        ("node_to_client", 0, outputs),
        ("node_to_client", 1, [OutputMessage(job_id, 2, "x" * 300), EndMessage(job_id)]),
    ]


def build_vectors() -> dict[str, Any]:
    """The vectors, by the code under test."""
    client, node_ephemeral, node = KeyPair(CLIENT_EPHEMERAL), KeyPair(NODE_EPHEMERAL), KeyPair(NODE)
    ephemeral_x = client.shared_secret(node_ephemeral.public_key)
    static_x = client.shared_secret(node.public_key)
    secrets = derive_session_secrets(REQUEST_ID, ACCEPT_ID, ephemeral_x, static_x)
    job_id = compute_job_id(SESSION_ID, JOB_NONCE)
    hello = Hello(SESSION_ID, CLIENT_NONCE, secrets.hello_mac(SESSION_ID, CLIENT_NONCE))
    ready = Ready(NODE_NONCE, secrets.ready_mac(CLIENT_NONCE, NODE_NONCE))
    ciphers = secrets.connection_ciphers(CLIENT_NONCE, NODE_NONCE)
    frames = []
    for direction, counter, messages in _frames():
        [plaintext] = split_into_frames(map(encode_message, messages))
        cipher = ciphers.client_to_node if direction == "client_to_node" else ciphers.node_to_client
        frames.append(
            {
                "direction": direction,
                "counter": counter,
                "messages": [message.to_json() for message in messages],
                "plaintext": plaintext.hex(),
                "frame": cipher.seal(counter, plaintext).hex(),
            }
        )
    return {
        "inputs": {
            "client_ephemeral_secret_key": CLIENT_EPHEMERAL.hex(),
            "client_ephemeral_public_key": client.public_key,
            "node_ephemeral_secret_key": NODE_EPHEMERAL.hex(),
            "node_ephemeral_public_key": node_ephemeral.public_key,
            "node_secret_key": NODE.hex(),
            "node_public_key": node.public_key,
            "session_request_id": REQUEST_ID,
            "session_accept_id": ACCEPT_ID,
            "session_id": SESSION_ID,
            "client_nonce": CLIENT_NONCE.hex(),
            "node_nonce": NODE_NONCE.hex(),
            "job_nonce": JOB_NONCE.hex(),
        },
        "ephemeral_x": ephemeral_x.hex(),
        "static_x": static_x.hex(),
        "job_id": job_id,
        "hello": hello.to_text(),
        "ready": ready.to_text(),
        "commitment_keys": {
            what: secrets.commitment_key(what, job_id).hex() for what in ("prompt", "output", "payment")
        },
        "frames": frames,
    }


def _expand(key: bytes, info: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), 32, info).derive(key)


def _mac(key: bytes, message: bytes) -> str:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(message)
    return mac.finalize().hex()


def test_the_vectors_are_what_the_code_computes() -> None:
    assert orjson.loads(VECTORS.read_bytes()) == orjson.loads(orjson.dumps(build_vectors()))


def test_the_vectors_follow_from_the_specification() -> None:
    vectors = orjson.loads(VECTORS.read_bytes())
    inputs = {name: bytes.fromhex(value) for name, value in vectors["inputs"].items()}
    salt = inputs["session_request_id"] + inputs["session_accept_id"]
    secret = bytes.fromhex(vectors["ephemeral_x"] + vectors["static_x"])
    pseudo_random_key = HKDF.extract(hashes.SHA256(), salt, secret)
    nonces = inputs["client_nonce"] + inputs["node_nonce"]
    hello_mac = _mac(_expand(pseudo_random_key, b"relaymesh/1 hello"), inputs["session_id"] + inputs["client_nonce"])
    ready_mac = _mac(_expand(pseudo_random_key, b"relaymesh/1 ready"), nonces)
    assert orjson.loads(vectors["hello"]) == ["HELLO", SESSION_ID, CLIENT_NONCE.hex(), hello_mac]
    assert orjson.loads(vectors["ready"]) == ["READY", NODE_NONCE.hex(), ready_mac]
    for what, key in vectors["commitment_keys"].items():
        info = b"relaymesh/1 " + what.encode() + bytes.fromhex(vectors["job_id"])
        assert _expand(pseudo_random_key, info).hex() == key
    labels = {"client_to_node": b"relaymesh/1 c2n", "node_to_client": b"relaymesh/1 n2c"}
    for frame in vectors["frames"]:
        key = _expand(pseudo_random_key, labels[frame["direction"]] + nonces)
        nonce = bytes(4) + frame["counter"].to_bytes(8)
        plaintext = ChaCha20Poly1305(key).decrypt(nonce, bytes.fromhex(frame["frame"]), None)
        assert plaintext.hex() == frame["plaintext"]
        length = int.from_bytes(plaintext[:4])
        assert len(plaintext) % 256 == 0 and set(plaintext[4 + length :]) <= {0}
        assert json.loads(plaintext[4 : 4 + length]) == frame["messages"]
        assert unpack_plaintext(plaintext) == list(map(parse_message, frame["messages"]))


if __name__ == "__main__":
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    VECTORS.write_text(json.dumps(build_vectors(), indent=1, ensure_ascii=False) + "\n")
    print(VECTORS, "written")
