"""What a kind promises about storage (NIP-01), and RelayMesh's own kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.nostr.kinds import Kind, is_addressable, is_ephemeral, is_regular, is_replaceable


@given(st.integers(0, 65_535))
def test_every_kind_is_of_exactly_one_sort(kind: int) -> None:
    assert is_regular(kind) + is_replaceable(kind) + is_ephemeral(kind) + is_addressable(kind) == 1


@pytest.mark.parametrize(
    ("kinds", "sort"),
    [
        ((1, 2, 4, 44, 1000, 8770, 9999, 40_000, 65_535), is_regular),
        ((0, 3, 10_000, 10_002, 19_999), is_replaceable),
        ((20_000, 22_242, 28_770, 29_999), is_ephemeral),
        ((30_000, 38_770, 39_999), is_addressable),
    ],
)
def test_the_ranges_of_nip_01(kinds: tuple[int, ...], sort: object) -> None:
    assert callable(sort)
    assert all(sort(kind) for kind in kinds)


def test_state_is_addressable_conversation_ephemeral_and_evidence_regular() -> None:
    for kind in Kind:
        if 38_770 <= kind <= 38_779:
            assert is_addressable(kind)
        if 28_770 <= kind <= 28_779:
            assert is_ephemeral(kind)
        if 8_770 <= kind <= 8_779:
            assert is_regular(kind)


def test_kinds_compare_and_print_as_numbers() -> None:
    kind: int = Kind.OFFER
    assert kind == 38_770
    assert f"{kind}" == "38770"
