"""A client as a stranger would write it: from the text of RM-01, RM-02 and RM-03 alone, without a line of ours.

It imports nothing of RelayMesh, so what it can do with a node proves what the documents say. It is no model for a real
client: it checks what it needs to come through, and no more.
"""

import base64
import hashlib
import hmac
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import coincurve
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Json = dict[str, Any]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def expand(key: bytes, info: bytes) -> bytes:
    """HKDF-Expand to 32 bytes (RFC 5869)."""
    return mac(key, info + b"\x01")


def event_id_of(public: str, created_at: int, kind: int, tags: list[list[str]], content: str) -> bytes:
    fields = [0, public, created_at, kind, tags, content]
    return sha256(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode())


# ── NIP-01 and NIP-44 ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Key:
    """A secret key, with what Nostr does with one."""

    secret: bytes

    @property
    def public(self) -> str:
        return coincurve.PrivateKey(self.secret).public_key.format(compressed=True)[1:].hex()

    def shared_x(self, public: str) -> bytes:
        point = coincurve.PublicKey(b"\x02" + bytes.fromhex(public)).multiply(self.secret)
        return bytes(point.format(compressed=True)[1:])

    def sign(self, kind: int, tags: list[list[str]], content: str, created_at: int) -> Json:
        fields = (self.public, created_at, kind, tags, content)
        event_id = event_id_of(*fields)
        signature = coincurve.PrivateKey(self.secret).sign_schnorr(event_id, bytes(32))
        names = ("pubkey", "created_at", "kind", "tags", "content")
        return {"id": event_id.hex(), "sig": signature.hex(), **dict(zip(names, fields, strict=True))}

    def seal(self, text: str, public: str, nonce: bytes) -> str:
        chacha, chacha_nonce, hmac_key = self._message_keys(public, nonce)
        data = text.encode()
        chunk = max(32, (1 << (len(data) - 1).bit_length()) // 8)
        length = 32 if len(data) <= 32 else chunk * ((len(data) - 1) // chunk + 1)
        ciphertext = stream(chacha, chacha_nonce, len(data).to_bytes(2) + data.ljust(length, b"\0"))
        return base64.b64encode(b"\x02" + nonce + ciphertext + mac(hmac_key, nonce + ciphertext)).decode()

    def open(self, payload: str, public: str) -> str:
        data = base64.b64decode(payload)
        nonce, ciphertext, tag = data[1:33], data[33:-32], data[-32:]
        chacha, chacha_nonce, hmac_key = self._message_keys(public, nonce)
        assert data[0] == 2 and mac(hmac_key, nonce + ciphertext) == tag
        padded = stream(chacha, chacha_nonce, ciphertext)
        return padded[2 : 2 + int.from_bytes(padded[:2])].decode()

    def _message_keys(self, public: str, nonce: bytes) -> tuple[bytes, bytes, bytes]:
        key, block, blocks = mac(b"nip44-v2", self.shared_x(public)), b"", b""
        for number in (1, 2, 3):
            block = mac(key, block + nonce + bytes([number]))
            blocks += block
        return blocks[:32], blocks[32:44], blocks[44:76]


def stream(key: bytes, nonce: bytes, data: bytes) -> bytes:
    return bytes(Cipher(ChaCha20(key, bytes(4) + nonce), None).encryptor().update(data))


def is_genuine(event: Json) -> bool:
    event_id = event_id_of(*(event[name] for name in ("pubkey", "created_at", "kind", "tags", "content")))
    key = coincurve.PublicKeyXOnly(bytes.fromhex(event["pubkey"]))
    return event_id.hex() == event["id"] and bool(key.verify(bytes.fromhex(event["sig"]), event_id))


def tag(event: Json, name: str) -> str:
    return next(str(each[1]) for each in event["tags"] if each[0] == name)


# ── RM-01: the market ─────────────────────────────────────────────────────────────────────────────────────────────


def seal_event(author: Key, kind: int, recipient: str, fields: Json, *, answers: str, now: int, entropy: bytes) -> Json:
    """A sealed message, version 1."""
    plaintext = json.dumps({"v": 1, "salt": entropy[:32].hex(), **fields})
    tags = [["e", answers]] if answers else []
    tags += [["p", recipient], ["x", sha256(plaintext.encode()).hex()], ["expiration", str(now + 60)]]
    return author.sign(kind, tags, author.seal(plaintext, recipient, entropy[32:]), now)


def call_event(author: Key, fields: Json, *, now: int, bits: int) -> Json:
    """An open request, with its proof of work."""
    tags = [["t", "relaymesh"], ["m", fields["model"]], ["j", fields["job_type"]], ["expiration", str(now + 60)]]
    content = json.dumps({"v": 1, **fields})
    for nonce in itertools.count():
        worked = [*tags, ["nonce", str(nonce), str(bits)]]
        if int.from_bytes(event_id_of(author.public, now, 28770, worked, content)) >> (256 - bits) == 0:
            return author.sign(28770, worked, content, now)
    raise AssertionError("there are always more numbers")


def open_event(event: Json, recipient: Key, *, kind: int, answers: str) -> Json:
    assert is_genuine(event) and event["kind"] == kind and tag(event, "e") == answers
    plaintext = recipient.open(event["content"], event["pubkey"])
    assert tag(event, "p") == recipient.public and tag(event, "x") == sha256(plaintext.encode()).hex()
    fields: Json = json.loads(plaintext)
    assert fields["v"] == 1
    return fields


def cost(row: Json, given: int, taken: int) -> int:
    exact = given * int(row["input_msat"]) + taken * int(row["output_msat"])
    return max(int(row["minimum_msat"]), -(-exact // int(row["per"])))


def tranche_price(row: Json, given: int, output: int, size: int, number: int) -> int:
    size = max(size, -(-output // 32))
    before = cost(row, given, min(number * size, output)) if number else 0
    return cost(row, given, min((number + 1) * size, output)) - before


# ── RM-02: a session ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Session:
    """The client's end of one connection."""

    secret: bytes
    session_id: bytes
    nonce: bytes
    sent: int = 0
    received: int = 0
    keys: tuple[bytes, bytes] = field(default=(b"", b""))

    @classmethod
    def agree(
        cls, ephemeral: Key, node: str, request: Json, accept_event: Json, accept: Json, nonce: bytes
    ) -> "Session":
        salt = bytes.fromhex(request["id"] + accept_event["id"])
        secret = ephemeral.shared_x(accept["ephemeral_key"]) + ephemeral.shared_x(node)
        return cls(mac(salt, secret), bytes.fromhex(accept["session_id"]), nonce)

    def hello(self) -> str:
        proof = mac(expand(self.secret, b"relaymesh/1 hello"), self.session_id + self.nonce)
        return json.dumps(["HELLO", self.session_id.hex(), self.nonce.hex(), proof.hex()])

    def ready(self, text: str) -> None:
        kind, node_nonce, proof = json.loads(text)
        nonces = self.nonce + bytes.fromhex(node_nonce)
        assert kind == "READY" and mac(expand(self.secret, b"relaymesh/1 ready"), nonces).hex() == proof
        c2n, n2c = (expand(self.secret, b"relaymesh/1 " + way + nonces) for way in (b"c2n", b"n2c"))
        self.keys = (c2n, n2c)

    def frame(self, *messages: list[Any]) -> bytes:
        text = json.dumps(messages).encode()
        plaintext = len(text).to_bytes(4) + text
        plaintext += bytes(-len(plaintext) % 256)
        self.sent += 1
        return ChaCha20Poly1305(self.keys[0]).encrypt(bytes(4) + (self.sent - 1).to_bytes(8), plaintext, None)

    def messages(self, frame: bytes) -> list[list[Any]]:
        plaintext = ChaCha20Poly1305(self.keys[1]).decrypt(bytes(4) + self.received.to_bytes(8), frame, None)
        self.received += 1
        assert len(plaintext) % 256 == 0
        messages: list[list[Any]] = json.loads(plaintext[4 : 4 + int.from_bytes(plaintext[:4])])
        return messages

    def commitment_key(self, what: bytes, job_id: str) -> bytes:
        return expand(self.secret, b"relaymesh/1 " + what + bytes.fromhex(job_id))


# ── RM-03: sealed delivery ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class SealedTranche:
    """What came of one sealed tranche."""

    leaves: list[bytes] = field(default_factory=list)
    commitment: Json = field(default_factory=dict)

    def check(self, event: Json, node: str, client: str, quote_id: str, job: str, number: int) -> None:
        """Take the commitment, after everything that can be known before it is paid."""
        said: Json = json.loads(event["content"])
        assert is_genuine(event) and event["kind"] == 8774 and event["pubkey"] == node and tag(event, "p") == client
        assert (said["quote_id"], said["job"], said["tranche"]) == (quote_id, job, number)
        assert [sha256(leaf).hex() for leaf in self.leaves] == said["leaf_sha256"]
        assert len(said["leaf_bytes"]) == len(self.leaves) <= 32
        lengths = [len(leaf) - 16 for leaf in self.leaves]
        lengths[-1] -= 1
        assert all(stated <= length for stated, length in zip(said["leaf_bytes"], lengths, strict=True))
        self.commitment = said

    def open(self, preimage: bytes) -> str:
        """The text, with the preimage of the payment; pieces are of no matter to a stranger."""
        said = self.commitment
        assert sha256(preimage).hex() == said["payment_hash"]
        names = bytes.fromhex(said["quote_id"] + said["job"])
        packed = b""
        for place, leaf in enumerate(self.leaves):
            info = b"relaymesh/1 sealed" + said["tranche"].to_bytes(4) + place.to_bytes(4)
            plaintext = ChaCha20Poly1305(expand(mac(names, preimage), info)).decrypt(bytes(12), leaf, None)
            assert len(plaintext.replace(b"\xff", b"")) == said["leaf_bytes"][place]
            packed += plaintext
        assert packed.endswith(b"\xff")
        return "".join(piece.decode() for piece in packed.split(b"\xff"))
