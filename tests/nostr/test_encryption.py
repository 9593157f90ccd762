"""Sealing and opening (NIP-44 version 2)."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.encryption import (
    MAXIMUM_PLAINTEXT_BYTES,
    decrypt,
    derive_conversation_key,
    derive_message_keys,
    encrypt,
    padded_length,
)
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.keys import KeyPair
from tests.nostr import strategies

VECTORS = Path(__file__).parent.parent / "vectors" / "nostr"
OFFICIAL = (VECTORS / "nip44.vectors.json").read_bytes()
VALID: dict[str, Any] = json.loads(OFFICIAL)["v2"]["valid"]
INVALID: dict[str, Any] = json.loads(OFFICIAL)["v2"]["invalid"]
EXTENDED: dict[str, Any] = json.loads((VECTORS / "nip44-extended.json").read_bytes())

KEY = bytes.fromhex(EXTENDED["conversation_key"])
NONCE = bytes.fromhex(EXTENDED["nonce"])


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def conversation_key(secret: str, public_key: str) -> str:
    shared = KeyPair(bytes.fromhex(secret)).shared_secret(PublicKey(public_key))
    return derive_conversation_key(shared).hex()


def public_key(secret: str) -> str:
    return KeyPair(bytes.fromhex(secret)).public_key


def seal_padded(padded: bytes, version: int = 2) -> str:
    """A payload whose MAC is right, around padding that may be wrong."""
    keys = derive_message_keys(KEY, NONCE)
    cipher = Cipher(ChaCha20(keys.chacha_key, bytes(4) + keys.chacha_nonce), mode=None)
    ciphertext = cipher.encryptor().update(padded)
    mac = hmac.digest(keys.hmac_key, NONCE + ciphertext, "sha256")
    return base64.b64encode(bytes([version]) + NONCE + ciphertext + mac).decode()


def test_the_official_vectors_are_the_ones_whose_checksum_nip_44_prints() -> None:
    expected = "269ed0f69e4c192512cc779e78c555090cebc7c785b609e338a62afc3ce25040"
    assert hashlib.sha256(OFFICIAL).hexdigest() == expected


@pytest.mark.parametrize("vector", VALID["get_conversation_key"], ids=lambda v: v["sec1"][:8])
def test_official_conversation_keys(vector: dict[str, str]) -> None:
    assert conversation_key(vector["sec1"], vector["pub2"]) == vector["conversation_key"]


@pytest.mark.parametrize("vector", INVALID["get_conversation_key"], ids=lambda v: v["note"])
def test_official_keys_that_have_no_conversation(vector: dict[str, str]) -> None:
    with pytest.raises((LocalProtocolError, RemoteProtocolError)):
        conversation_key(vector["sec1"], vector["pub2"])


@pytest.mark.parametrize("vector", VALID["get_message_keys"]["keys"], ids=lambda v: v["nonce"][:8])
def test_official_message_keys(vector: dict[str, str]) -> None:
    keys = derive_message_keys(
        bytes.fromhex(VALID["get_message_keys"]["conversation_key"]), bytes.fromhex(vector["nonce"])
    )
    assert keys.chacha_key.hex() == vector["chacha_key"]
    assert keys.chacha_nonce.hex() == vector["chacha_nonce"]
    assert keys.hmac_key.hex() == vector["hmac_key"]


@pytest.mark.parametrize(("length", "padded"), VALID["calc_padded_len"])
def test_official_padded_lengths(length: int, padded: int) -> None:
    assert padded_length(length) == padded


@pytest.mark.parametrize("vector", VALID["encrypt_decrypt"], ids=lambda v: v["nonce"][:8])
def test_official_conversations(vector: dict[str, str]) -> None:
    key = vector["conversation_key"]
    assert conversation_key(vector["sec1"], public_key(vector["sec2"])) == key
    assert conversation_key(vector["sec2"], public_key(vector["sec1"])) == key
    assert encrypt(vector["plaintext"], bytes.fromhex(key), bytes.fromhex(vector["nonce"])) == vector["payload"]
    assert decrypt(vector["payload"], bytes.fromhex(key)) == vector["plaintext"]


@pytest.mark.parametrize("vector", VALID["encrypt_decrypt_long_msg"], ids=lambda v: v["nonce"][:8])
def test_official_long_messages(vector: dict[str, Any]) -> None:
    plaintext = vector["pattern"] * vector["repeat"]
    assert sha256(plaintext) == vector["plaintext_sha256"]
    payload = encrypt(plaintext, bytes.fromhex(vector["conversation_key"]), bytes.fromhex(vector["nonce"]))
    assert sha256(payload) == vector["payload_sha256"]
    assert decrypt(payload, bytes.fromhex(vector["conversation_key"])) == plaintext


@pytest.mark.parametrize("vector", EXTENDED["payloads"], ids=lambda v: str(v["plaintext_len"]))
def test_official_messages_around_the_extended_length_prefix(vector: dict[str, Any]) -> None:
    plaintext = EXTENDED["character"] * vector["plaintext_len"]
    assert sha256(plaintext) == vector["plaintext_sha256"]
    assert padded_length(vector["plaintext_len"]) == vector["padded_len"]
    payload = encrypt(plaintext, KEY, NONCE)
    assert sha256(payload) == vector["payload_sha256"]
    assert decrypt(payload, KEY) == plaintext


@pytest.mark.parametrize("length", INVALID["encrypt_msg_lengths"])
def test_official_impossible_lengths_but_those_that_the_extended_prefix_made_possible(length: int) -> None:
    if 65_536 <= length <= MAXIMUM_PLAINTEXT_BYTES:  # since 2026-06; the official file is older
        assert decrypt(encrypt("x" * length, KEY, NONCE), KEY) == "x" * length
    else:
        with pytest.raises(LocalProtocolError):
            encrypt("x" * length, KEY, NONCE)


@pytest.mark.parametrize("vector", INVALID["decrypt"], ids=lambda v: v["note"])
def test_official_payloads_that_do_not_open(vector: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError):
        decrypt(vector["payload"], bytes.fromhex(vector["conversation_key"]))


@given(strategies.text.filter(bool), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens_again(plaintext: str, key: bytes, nonce: bytes) -> None:
    assert decrypt(encrypt(plaintext, key, nonce), key) == plaintext


@given(st.sampled_from([1, 31, 32, 33, 64, 65, 256, 257, 320, 321, 1024, 65_535, 65_536, 65_537, 131_073]))
def test_every_step_of_the_padding_opens_again(length: int) -> None:
    assert decrypt(encrypt("x" * length, KEY, NONCE), KEY) == "x" * length


def test_the_longest_plaintext_opens_again_and_one_byte_more_is_refused_both_ways() -> None:
    longest = "x" * MAXIMUM_PLAINTEXT_BYTES
    assert decrypt(encrypt(longest, KEY, NONCE), KEY) == longest
    with pytest.raises(LocalProtocolError):
        encrypt(longest + "x", KEY, NONCE)
    length = MAXIMUM_PLAINTEXT_BYTES + 1
    padded = b"\0\0" + length.to_bytes(4) + bytes(padded_length(length)).replace(b"\0", b"x")
    with pytest.raises(RemoteProtocolError, match="characters"):
        decrypt(seal_padded(padded), KEY)


def test_length_is_counted_in_bytes_of_utf_8() -> None:
    assert len(encrypt("é" * 16, KEY, NONCE)) == len(encrypt("x" * 32, KEY, NONCE))
    assert len(encrypt("é" * 17, KEY, NONCE)) == len(encrypt("x" * 33, KEY, NONCE))


@given(st.integers(1, MAXIMUM_PLAINTEXT_BYTES * 4))
def test_padding_never_shrinks_and_wastes_less_than_a_quarter(length: int) -> None:
    padded = padded_length(length)
    assert padded >= length
    assert padded % 32 == 0
    assert padded <= padded_length(length + 1)
    assert padded - length < max(32, length / 4)


@given(st.integers(0), st.binary(min_size=1, max_size=1))
def test_one_changed_character_closes_the_payload(position: int, character: bytes) -> None:
    payload = encrypt("hello", KEY, NONCE)
    place = position % len(payload)
    changed = payload[:place] + chr(character[0]) + payload[place + 1 :]
    if changed != payload:
        with pytest.raises(RemoteProtocolError):
            decrypt(changed, KEY)


@pytest.mark.parametrize(
    "padded",
    [
        b"\0\0" + bytes(32),  # length 0
        b"\0\0" + (32).to_bytes(4) + b"x" * 32,  # a short length in the long prefix
        b"\0\0" + (65_535).to_bytes(4) + b"x" * 65_536,
        b"\0\0\xff\xff\xff\xff" + bytes(32),  # far longer than what is there
        b"\0\x21" + b"x" * 32,  # longer than what is there by one
        b"\0\x01" + b"x" + bytes(63),  # padded by more than the scheme does
        b"\0\x01" + b"x" + bytes(30),
        b"\0\x21" + b"x" * 33 + bytes(30),
    ],
    ids=lambda padded: padded[:8].hex(),
)
def test_padding_that_the_scheme_does_not_make_is_refused(padded: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decrypt(seal_padded(padded), KEY)


def test_the_forger_of_these_tests_makes_payloads_that_open_when_they_are_right() -> None:
    assert decrypt(seal_padded(b"\0\x01" + b"x" + bytes(31)), KEY) == "x"


def test_what_opens_to_invalid_utf_8_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        decrypt(seal_padded(b"\0\x01" + b"\xff" + bytes(31)), KEY)


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_another_version_is_named(version: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"version is {version}"):
        decrypt(seal_padded(b"\0\x01" + b"x" + bytes(31), version), KEY)


def test_a_hash_sign_means_a_version_to_come() -> None:
    with pytest.raises(RemoteProtocolError, match="version"):
        decrypt("#" + encrypt("x", KEY, NONCE), KEY)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda payload: payload + "\n",
        lambda payload: payload[:76] + "\n" + payload[76:],
        lambda payload: " " + payload,
        lambda payload: payload + "====",
        lambda payload: payload.rstrip("=")[:-1],
        lambda payload: payload.replace(payload[40], "-"),
        lambda payload: "=" * len(payload),
        lambda payload: "é" * len(payload),
        lambda payload: chr(0xD800) * len(payload),
        lambda payload: payload[:131],
    ],
)
def test_what_is_no_strict_base64_is_refused(spoil: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        decrypt(spoil(encrypt("x", KEY, NONCE)), KEY)


@given(strategies.text_with_surrogates | st.text("ABCDabcd0189+/=", min_size=130, max_size=300))
def test_any_text_opens_or_is_a_remote_error(payload: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decrypt(payload, KEY)


@pytest.mark.parametrize(("key", "nonce"), [(bytes(31), NONCE), (bytes(33), NONCE), (KEY, bytes(31)), (KEY, b"")])
def test_keys_and_nonces_of_another_length_are_refused(key: bytes, nonce: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encrypt("x", key, nonce)


def test_a_lone_surrogate_is_not_sealed() -> None:
    with pytest.raises(LocalProtocolError, match="surrogates"):
        encrypt(chr(0xD800), KEY, NONCE)


def test_no_error_repeats_what_was_sealed() -> None:
    secret = "the prompt nobody may see"
    for spoiled in (secret * 10, encrypt(secret, KEY, NONCE)[:-4] + "AAA="):
        with pytest.raises(RemoteProtocolError) as error:
            decrypt(spoiled, KEY)
        assert secret not in str(error.value)
    with pytest.raises(LocalProtocolError) as local:
        encrypt(secret + chr(0xD800), KEY, NONCE)
    assert secret not in str(local.value)
