"""Refusals on the wire: every code there and back, and nothing that a peer writes gets past the reader's bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.protocol.content import encode_content
from relaymesh.protocol.quote import RefusalMessage
from relaymesh.protocol.refusal import MAXIMUM_REASON_CHARACTERS, RETRYABLE, Refusal, RefusalCode, refuse


@pytest.mark.parametrize("code", RefusalCode)
def test_every_code_travels_there_and_back(code: RefusalCode) -> None:
    refusal = refuse(code, "because")
    assert Refusal.from_wire(refusal.to_wire()) == refusal
    assert refusal.is_retryable is RETRYABLE[code]


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for wire in (text, f"busy:{text}", f"busy: {text}"):
        try:
            refusal = Refusal.from_wire(wire)
        except RemoteProtocolError:
            continue
        assert len(refusal.reason) <= MAXIMUM_REASON_CHARACTERS


@pytest.mark.parametrize("wire", ["busy", "nonsense: why", "", ":", "busy:" + "x" * 201, "BUSY: x"])
def test_what_is_not_code_and_reason_is_refused(wire: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Refusal.from_wire(wire)


@pytest.mark.parametrize("retry_in_ms", [None, 0, 1_500])
def test_a_hint_when_to_ask_again_travels_beside_the_refusal(retry_in_ms: int | None) -> None:
    refusal = refuse(RefusalCode.BUSY, "full", retry_in_ms)
    message = RefusalMessage.from_text(encode_content(RefusalMessage.of(refusal).to_fields()))
    assert message.to_refusal() == refusal and message.retry_in_ms == retry_in_ms


def test_a_reason_is_cut_to_what_travels() -> None:
    assert len(refuse(RefusalCode.INTERNAL, "x" * 500).reason) == MAXIMUM_REASON_CHARACTERS
