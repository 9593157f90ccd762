"""Pieces of output go into leaves and come out as they went in; a leaf that is anything else is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.protocol.sealed_commitment import MAXIMUM_LEAF_BYTES, MAXIMUM_LEAVES
from relaymesh.protocol.sealed_leaves import (
    MAXIMUM_SEALED_TRANCHE_BYTES,
    bound_units,
    count_text,
    open_leaves,
    pack_leaves,
    packed_bytes,
    read_leaf,
)
from tests.market.fraud_builders import SECRET
from tests.protocol.sealed_builders import sealed

AWKWARD = ("é", "🤝" * 3_000, "\x00", "ÿ", "\U0010ffff", "a" * 8_191, "€" * 2_731, '{"delta":{}}')


@given(st.lists(st.one_of(st.text(), st.sampled_from(AWKWARD)), min_size=1))
def test_pieces_come_out_as_they_went_in(pieces: list[str]) -> None:
    whole = tuple(piece for piece in pieces if piece)
    if not whole or sum(map(packed_bytes, whole)) > MAXIMUM_SEALED_TRANCHE_BYTES:
        return
    plaintexts = pack_leaves(pieces)
    assert all(1 <= len(each) <= MAXIMUM_LEAF_BYTES for each in plaintexts)
    assert sum(map(count_text, plaintexts)) == len("".join(whole).encode())
    for each in plaintexts:
        each.replace(b"\xff", b"").decode()  # no character is cut
    assert open_leaves(*sealed(*plaintexts), SECRET) == whole


@pytest.mark.parametrize("character", ["a", "é", "€", "🤝"])
@pytest.mark.parametrize("shift", range(5))
def test_what_is_promised_to_fit_fits_wherever_it_must_be_cut(character: str, shift: int) -> None:
    room = MAXIMUM_SEALED_TRANCHE_BYTES - 2 * (shift + 1)
    first, rest = "x" * shift, character * (room // len(character.encode()))
    assert MAXIMUM_SEALED_TRANCHE_BYTES - 8 < packed_bytes(first) + packed_bytes(rest) <= MAXIMUM_SEALED_TRANCHE_BYTES
    plaintexts = pack_leaves((first, rest))
    assert len(plaintexts) <= MAXIMUM_LEAVES
    assert "".join(open_leaves(*sealed(*plaintexts), SECRET)) == first + rest


def test_nothing_too_much_and_no_unicode_are_not_sealed() -> None:
    for pieces in ((), ("", ""), ("x" * (MAXIMUM_LEAVES * MAXIMUM_LEAF_BYTES),), ("\ud83e",)):
        with pytest.raises(LocalProtocolError, match="sealed"):
            pack_leaves(pieces)
    assert len(pack_leaves(("x" * (MAXIMUM_LEAVES * MAXIMUM_LEAF_BYTES - 1),))) == MAXIMUM_LEAVES


@pytest.mark.parametrize(
    ("plaintexts", "lengths", "sentence"),
    [
        ((b"one\xff", b"tw\xc3\xff"), (3, 3), "leaf 1 opens and is not UTF-8"),
        ((b"on\xc3", b"x\xff"), (3, 1), "leaf 0 opens and is not UTF-8"),
        ((b"\xed\xa0\x80\xff",), (3,), "leaf 0 opens and is not UTF-8"),
        ((b"\xc0\x80\xff",), (2,), "leaf 0 opens and is not UTF-8"),
        ((b"c\xc3\xff\xa9\xff",), (3,), "leaf 0 opens and is not UTF-8"),
        ((b"one\xff", b"two\xff"), (3, 2), "leaf 1 holds 3 bytes of text where 2 were stated"),
        ((b"\xff\xff\xff\xff",), (3,), "leaf 0 holds 0 bytes of text where 3 were stated"),
        ((b"one\xff", b"two"), (3, 2), "leaf 1 holds 3 bytes"),
        ((b"one\xff", b"\xfftwo"), (3, 3), "leaf 1 is the tranche's last and breaks off"),
    ],
)
def test_a_leaf_that_is_not_what_was_vouched_for_is_named(
    plaintexts: tuple[bytes, ...], lengths: tuple[int, ...], sentence: str
) -> None:
    commitment, leaves = sealed(*plaintexts, lengths=lengths)
    with pytest.raises(RemoteProtocolError, match=sentence):
        open_leaves(commitment, leaves, SECRET)
    bad = int(sentence.split()[1])
    for place, leaf in enumerate(leaves):  # and it is that leaf alone
        if place == bad:
            with pytest.raises(RemoteProtocolError, match=sentence):
                read_leaf(SECRET, commitment, place, leaf)
        else:
            read_leaf(SECRET, commitment, place, leaf)


def test_pieces_without_text_are_none() -> None:
    assert open_leaves(*sealed(b"\xffone\xff\xff", b"\xfftwo\xff"), SECRET) == ("one", "two")


def test_leaves_are_opened_only_whole_and_with_their_preimage() -> None:
    commitment, leaves = sealed(b"one\xff", b"two\xff")
    wrong = (
        (leaves, bytes(32), "preimage"),
        (leaves[:1], SECRET, "has 2 leaves, and 1"),
        ((*leaves, b"x" * 20), SECRET, "has 2 leaves, and 3"),
        (leaves[::-1], SECRET, "leaf 0 is not the one"),
    )
    for given_leaves, preimage, sentence in wrong:
        with pytest.raises(RemoteProtocolError, match=sentence):
            open_leaves(commitment, given_leaves, preimage)


@pytest.mark.parametrize(
    ("unit", "units", "most"), [("byte", 9, 5), ("byte", 1, 5), ("token", 9, 5), ("token", 4, 4), ("job", 1, 1)]
)
def test_a_tranche_is_sold_as_no_more_than_its_text_can_be(unit: str, units: int, most: int) -> None:
    assert bound_units(unit, units, 5) == most  # type: ignore[arg-type]  # parametrized strings
