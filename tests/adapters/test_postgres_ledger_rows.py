"""Values survive PostgreSQL's narrower types, and prefixes stay prefixes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.adapters.postgres_ledger_rows import as_row, as_text, as_values, key_columns
from relaymesh.nostr.event import PublicKey

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\\0"), max_size=8)


@given(st.tuples(TEXTS, st.integers(-(2**63), 2**63 - 1), st.none() | st.binary(max_size=4)))
def test_a_row_comes_back_and_holds_no_zero_character_there(row: tuple[str, int, bytes | None]) -> None:
    values = as_values(row)
    assert as_row(values) == row
    assert "\x00" not in values[0]


@given(TEXTS, TEXTS)
def test_what_begins_with_a_text_does_so_there_too_and_nothing_else(beginning: str, text: str) -> None:
    assert as_text(beginning + text).startswith(as_text(beginning))
    assert as_text(text).startswith(as_text(beginning)) == text.startswith(beginning) or beginning.endswith("\\")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        as_values(("text", number))


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        as_values(("\ud800",))


def test_keys_become_columns() -> None:
    client = PublicKey("c1" * 32)
    assert key_columns([("client", client, "a"), ("node", client, "b\x00")]) == (
        ["client", "node"],
        [client, client],
        ["a", "b\\0"],
    )
    assert key_columns([]) == ([], [], [])
