"""What is encrypted at rest opens with its key, at its place, and unaltered; nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.adapters.ledger_encryption import LedgerCipher
from relaymesh.errors import LedgerError, LocalProtocolError

KEY, SALT = b"\x01" * 32, b"\x02" * 32
CIPHER = LedgerCipher(KEY, SALT)


@given(st.binary(max_size=300))
def test_what_is_sealed_opens_at_its_place(plaintext: bytes) -> None:
    assert CIPHER.open(CIPHER.seal(plaintext, "job", "body", 1), "job", "body", 1) == plaintext


def test_the_same_value_never_looks_the_same() -> None:
    sealed = {CIPHER.seal(b"value", "job") for _ in range(100)}
    assert len({value[:12] for value in sealed}) == 100


@pytest.mark.parametrize("place", [("job", "body", 2), ("job", "body"), ("jobbody", 1), ("job", "body", "1"), ()])
def test_it_opens_at_no_other_place(place: tuple[str | int, ...]) -> None:
    with pytest.raises(LedgerError, match="does not open"):
        CIPHER.open(CIPHER.seal(b"value", "job", "body", 1), *place)


@pytest.mark.parametrize("other", [LedgerCipher(b"\x03" * 32, SALT), LedgerCipher(KEY, b"\x03" * 32)])
def test_it_opens_under_no_other_key_or_salt(other: LedgerCipher) -> None:
    with pytest.raises(LedgerError, match="does not open"):
        other.open(CIPHER.seal(b"value"))


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_an_altered_value_does_not_open(position: int, difference: int) -> None:
    sealed = bytearray(CIPHER.seal(b"value"))
    sealed[position % len(sealed)] ^= difference
    with pytest.raises(LedgerError):
        CIPHER.open(bytes(sealed))


@given(st.binary(max_size=40))
def test_arbitrary_bytes_do_not_open(sealed: bytes) -> None:
    with pytest.raises(LedgerError):
        CIPHER.open(sealed)


def test_a_short_key_is_refused_and_no_key_is_shown() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        LedgerCipher(b"short", SALT)
    assert "0101" not in repr(CIPHER) and "x01" not in repr(CIPHER)
