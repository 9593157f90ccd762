"""NIP-47's messages: each comes back as it was sent, none opens for anybody else, and what is broken is said to be."""

from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import EventId, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.wallet_connect import (
    MAXIMUM_ERROR_CHARACTERS,
    NIP04,
    NIP44,
    WalletAbilities,
    WalletError,
    WalletNotification,
    WalletRequest,
    WalletResponse,
    build_abilities,
    build_notification,
    build_request,
    build_response,
    read_abilities,
    read_notification,
    read_request,
    read_response,
    request_expiry,
)
from relaymesh.units import Timestamp

CLIENT, WALLET, STRANGER = KeyPair(b"\x01" * 32), KeyPair(b"\x02" * 32), KeyPair(b"\x03" * 32)
NONCE = b"\x09" * 32
NOW = Timestamp(1_750_000_000)
PREIMAGE = "ab" * 32

VALUES = st.dictionaries(st.text(max_size=8), st.integers(0, 2**53 - 1) | st.text(max_size=20) | st.none(), max_size=4)


def _request(request: WalletRequest) -> VerifiedEvent:
    return build_request(
        CLIENT, WALLET.public_key, request, nonce=NONCE, created_at=NOW, expires_at=Timestamp(NOW + 30)
    )


def _from_wallet(kind: Kind, content: object) -> VerifiedEvent:
    plaintext = content if isinstance(content, str) else orjson.dumps(content).decode()
    sealed = WALLET.seal(plaintext, CLIENT.public_key, NONCE)
    return WALLET.sign(UnsignedEvent(WALLET.public_key, NOW, kind, (), sealed))


def test_the_info_event_of_the_nip_s_appendix_is_read() -> None:
    tags = (("encryption", "nip44_v2 nip04"), ("notifications", "payment_received payment_sent"))
    content = "pay_invoice get_balance notifications"
    event = WALLET.sign(UnsignedEvent(WALLET.public_key, NOW, 13_194, tags, content))
    assert read_abilities(event) == WalletAbilities(
        frozenset({"pay_invoice", "get_balance", "notifications"}),
        frozenset({"payment_received", "payment_sent"}),
        (NIP44, NIP04),
    )


def test_an_info_event_without_the_tag_means_the_older_encryption() -> None:
    event = WALLET.sign(UnsignedEvent(WALLET.public_key, NOW, 13_194, (), "pay_invoice"))
    assert read_abilities(event).encryptions == (NIP04,)


def test_abilities_come_back_as_they_were_published() -> None:
    abilities = WalletAbilities(frozenset({"a", "b"}), frozenset({"c"}), (NIP44,))
    assert read_abilities(WALLET.sign(build_abilities(WALLET.public_key, abilities, NOW))) == abilities


@given(st.text(max_size=12), VALUES)
def test_a_request_opens_for_the_wallet_alone(method: str, parameters: dict[str, object]) -> None:
    request = WalletRequest(method, parameters)
    event = verify(_request(request))
    assert read_request(event, WALLET) == request
    assert (event.kind, event.tag_values("p"), request_expiry(event)) == (23_194, (WALLET.public_key,), NOW + 30)
    with pytest.raises(RemoteProtocolError):
        read_request(event, STRANGER)


@given(VALUES)
def test_a_response_comes_back_as_it_was_sent(result: dict[str, object]) -> None:
    asked = EventId("cd" * 32)
    for response in (WalletResponse("pay_invoice", result), WalletResponse("x", error=WalletError("OTHER", "no"))):
        event = build_response(WALLET, CLIENT.public_key, asked, response, nonce=NONCE, created_at=NOW)
        assert read_response(verify(event), CLIENT) == response
        assert (event.kind, event.tag_values("e"), event.tag_values("p")) == (23_195, (asked,), (CLIENT.public_key,))


def test_a_notification_comes_back_as_it_was_sent() -> None:
    told = WalletNotification("payment_received", {"payment_hash": "00" * 32})
    event = build_notification(WALLET, CLIENT.public_key, told, nonce=NONCE, created_at=NOW)
    assert event.kind == 23_197
    assert read_notification(verify(event), CLIENT) == told


@pytest.mark.parametrize(
    "content",
    [
        " ",
        "nothing",
        "[]",
        "1",
        '{"result_type": 1, "result": {}}',
        '{"result_type": "x"}',
        '{"result_type": "x", "error": 1}',
    ],
)
def test_a_response_that_answers_nothing_is_refused(content: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_response(_from_wallet(Kind.WALLET_RESPONSE, content), CLIENT)


def test_a_request_under_the_older_encryption_is_refused() -> None:
    event = CLIENT.sign(UnsignedEvent(CLIENT.public_key, NOW, 23_194, (("p", WALLET.public_key),), "x?iv=y"))
    with pytest.raises(RemoteProtocolError, match="nip44_v2"):
        read_request(event, WALLET)


@pytest.mark.parametrize("reader", [read_request, read_response, read_notification, read_abilities])
def test_an_event_of_another_kind_is_refused(reader: Callable[..., object]) -> None:
    event = WALLET.sign(UnsignedEvent(WALLET.public_key, NOW, 1, (), ""))
    with pytest.raises(RemoteProtocolError, match="kind 1"):
        reader(event) if reader is read_abilities else reader(event, CLIENT)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "²", "9" * 17])
def test_an_unreadable_expiry_is_none(text: str) -> None:
    event = CLIENT.sign(UnsignedEvent(CLIENT.public_key, NOW, 23_194, (("expiration", text),), ""))
    assert request_expiry(event) is None


def test_a_long_complaint_is_cut_and_set_in_one_line() -> None:
    content = {"result_type": "x", "error": {"code": "OTHER", "message": "a\nb " * 1_000}}
    error = read_response(_from_wallet(Kind.WALLET_RESPONSE, content), CLIENT).error
    assert error is not None
    assert len(error.message) == MAXIMUM_ERROR_CHARACTERS and "\n" not in error.message


def test_no_preimage_shows_in_what_is_printed_or_complained_about() -> None:
    values = (
        WalletRequest("settle_hold_invoice", {"preimage": PREIMAGE}),
        WalletResponse("pay_invoice", {"preimage": PREIMAGE}),
        WalletNotification("payment_sent", {"preimage": PREIMAGE}),
    )
    assert PREIMAGE not in repr(values)
    with pytest.raises(RemoteProtocolError) as broken:
        read_response(_from_wallet(Kind.WALLET_RESPONSE, f'{{"preimage": "{PREIMAGE}"'), CLIENT)
    assert PREIMAGE not in str(broken.value) + repr(broken.value.__cause__) + repr(broken.value.__context__)
