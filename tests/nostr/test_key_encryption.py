"""A secret key under a password (NIP-49)."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.nostr import key_encryption
from relaymesh.nostr.identifiers import decode_bech32, encode_bech32
from relaymesh.nostr.key_encryption import (
    ENTROPY_BYTES,
    MAXIMUM_LOG_N,
    KeySecurity,
    decrypt_secret_key,
    encrypt_secret_key,
    hchacha20,
)
from tests.nostr import strategies

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "nostr" / "nip49.json").read_bytes())
SECRET = bytes(31) + b"\x01"
ENTROPY = bytes(range(ENTROPY_BYTES))
ENCRYPTED = encrypt_secret_key(SECRET, "password", ENTROPY, log_n=4)


def test_the_official_key_opens() -> None:
    assert decrypt_secret_key(VECTORS["ncryptsec"], VECTORS["password"]).hex() == VECTORS["secret_key"]


def test_the_official_key_is_made_again_from_its_own_salt_and_nonce() -> None:
    data = decode_bech32("ncryptsec", VECTORS["ncryptsec"])
    again = encrypt_secret_key(
        bytes.fromhex(VECTORS["secret_key"]),
        VECTORS["password"],
        data[2:42],
        log_n=VECTORS["log_n"],
        security=KeySecurity(data[42]),
    )
    assert again == VECTORS["ncryptsec"]


def test_the_subkey_of_the_xchacha_draft() -> None:
    vector = VECTORS["hchacha20"]
    assert hchacha20(bytes.fromhex(vector["key"]), bytes.fromhex(vector["nonce"])).hex() == vector["subkey"]


def test_a_password_is_the_same_however_it_was_typed() -> None:
    typed, normalised = VECTORS["passwords_alike"]
    assert typed != normalised
    assert unicodedata.normalize("NFKC", typed) == normalised
    assert decrypt_secret_key(encrypt_secret_key(SECRET, typed, ENTROPY, log_n=2), normalised) == SECRET


@given(
    st.binary(min_size=32, max_size=32),
    strategies.text,
    st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES),
    st.sampled_from(KeySecurity),
)
def test_what_is_encrypted_opens_again(secret: bytes, password: str, entropy: bytes, security: KeySecurity) -> None:
    text = encrypt_secret_key(secret, password, entropy, log_n=2, security=security)
    assert decrypt_secret_key(text, password) == secret
    assert decrypt_secret_key(f" {text.upper()}\n", password) == secret


def test_the_layout_is_the_one_of_nip_49() -> None:
    data = decode_bech32("ncryptsec", ENCRYPTED)
    assert len(data) == 91
    assert data[0] == 2
    assert data[1] == 4
    assert data[2:42] == ENTROPY
    assert data[42] == KeySecurity.UNKNOWN


@given(st.integers(0, 91 * 8 - 1))
@settings(max_examples=60)
def test_one_flipped_bit_keeps_the_key_shut(bit: int) -> None:
    data = bytearray(decode_bech32("ncryptsec", ENCRYPTED))
    data[bit // 8] ^= 1 << bit % 8
    data[1] = min(data[1], 12)  # a cost that this test can afford; it is wrong all the same
    with pytest.raises(UsageError):
        decrypt_secret_key(encode_bech32("ncryptsec", bytes(data)), "password")


def test_a_wrong_password_is_named_as_one_possibility() -> None:
    with pytest.raises(UsageError, match="password is wrong") as error:
        decrypt_secret_key(ENCRYPTED, "Password")
    assert "Password" not in str(error.value)


@pytest.mark.parametrize("log_n", [0, MAXIMUM_LOG_N + 1, 63, 255])
def test_a_cost_that_would_exhaust_the_machine_is_refused_before_it_is_paid(log_n: int) -> None:
    data = bytearray(decode_bech32("ncryptsec", ENCRYPTED))
    data[1] = log_n
    with pytest.raises(UsageError, match="cost"):
        decrypt_secret_key(encode_bech32("ncryptsec", bytes(data)), "password")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENCRYPTED[:-1],
        encode_bech32("ncryptsec", bytes(90)),
        encode_bech32("ncryptsec", bytes(91)),
        encode_bech32("ncryptsec", b"\x01" + decode_bech32("ncryptsec", ENCRYPTED)[1:]),
        encode_bech32("nsec", SECRET),
    ],
    ids=lambda text: text[:16],
)
def test_what_is_no_encrypted_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        decrypt_secret_key(text, "password")


@given(strategies.text_with_surrogates)
def test_any_text_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        decrypt_secret_key(text, "password")


@pytest.mark.parametrize(
    ("secret", "entropy", "log_n"),
    [
        (SECRET[1:], ENTROPY, 4),
        (SECRET, ENTROPY[1:], 4),
        (SECRET, ENTROPY, 0),
        (SECRET, ENTROPY, MAXIMUM_LOG_N + 1),
    ],
)
def test_wrong_lengths_and_costs_are_our_own_mistake(secret: bytes, entropy: bytes, log_n: int) -> None:
    with pytest.raises(LocalProtocolError):
        encrypt_secret_key(secret, "password", entropy, log_n=log_n)


def test_a_password_that_is_no_text_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError) as error:
        encrypt_secret_key(SECRET, "hidden" + chr(0xD800), ENTROPY, log_n=2)
    assert "hidden" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_machine_without_the_memory_is_told_how_much_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(**parameters: object) -> None:
        raise MemoryError(str(parameters))

    monkeypatch.setattr(key_encryption, "Scrypt", exhaust)
    with pytest.raises(UsageError, match="64 MiB"):
        encrypt_secret_key(SECRET, "password", ENTROPY, log_n=16)
