"""Signing, verifying and sharing secrets (BIP-340, NIP-01, NIP-44)."""

import csv
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr import keys
from relaymesh.nostr.event import Event, PublicKey, UnsignedEvent, VerifiedEvent, parse_event
from relaymesh.nostr.keys import CURVE_ORDER, KeyPair, SignatureMemory, has_valid_id, is_valid_signature, verify
from relaymesh.units import Timestamp
from tests.nostr import strategies

VECTORS = Path(__file__).parent.parent / "vectors" / "nostr"
ALICE = KeyPair(bytes(31) + b"\x01")
BOB = KeyPair(bytes(31) + b"\x02")


def bip_340() -> Iterator[dict[str, str]]:
    with (VECTORS / "bip340.csv").open() as file:
        yield from csv.DictReader(file)


def make_event(author: KeyPair = ALICE, content: str = "hello") -> UnsignedEvent:
    return UnsignedEvent(author.public_key, Timestamp(1_700_000_000), 1, (("t", "relaymesh"),), content)


def off_the_wire(event: Event) -> Event:
    return parse_event(event.to_json())


@pytest.mark.parametrize("vector", [v for v in bip_340() if len(v["message"]) == 64], ids=lambda v: str(v["index"]))
def test_bip_340_verification_vectors_over_32_bytes(vector: dict[str, str]) -> None:
    valid = is_valid_signature(
        PublicKey(vector["public key"].lower()), bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"])
    )
    assert valid == (vector["verification result"] == "TRUE")


@pytest.mark.parametrize("vector", [v for v in bip_340() if len(v["message"]) != 64], ids=lambda v: str(v["index"]))
def test_bip_340_vectors_over_other_lengths_are_refused_since_nostr_signs_hashes(vector: dict[str, str]) -> None:
    message, signature = bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"])
    assert not is_valid_signature(PublicKey(vector["public key"].lower()), message, signature)
    with pytest.raises(LocalProtocolError):
        KeyPair(bytes.fromhex(vector["secret key"])).sign_digest(message)


@pytest.mark.parametrize("vector", [v for v in bip_340() if v["secret key"]], ids=lambda v: str(v["index"]))
def test_bip_340_secret_keys_give_their_public_keys(vector: dict[str, str]) -> None:
    assert KeyPair(bytes.fromhex(vector["secret key"])).public_key == vector["public key"].lower()


def both_libraries(secret: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[KeyPair, KeyPair]:
    preferred = KeyPair(secret)
    with monkeypatch.context() as patch:
        patch.setattr(keys, "secp256k1", None)
        return preferred, KeyPair(secret)


@pytest.mark.parametrize("vector", [v for v in bip_340() if v["secret key"]][:4], ids=lambda v: str(v["index"]))
def test_a_signature_verifies_whichever_library_made_it(
    vector: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = bytes.fromhex(vector["message"])
    for key_pair in both_libraries(bytes.fromhex(vector["secret key"]), monkeypatch):
        signature = key_pair.sign_digest(digest)
        assert len(signature) == 64
        assert is_valid_signature(key_pair.public_key, digest, signature)


def test_where_secp256k1_cannot_be_installed_the_module_loads_and_signs_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "secp256k1", None)
    spec = importlib.util.spec_from_file_location("keys_without_secp256k1", keys.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.secp256k1 is None
    assert module.KeyPair(ALICE.reveal_secret()).sign(make_event()) == ALICE.sign(make_event())


def test_a_signature_depends_on_key_and_digest_alone_whichever_library_makes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (vector,) = (v for v in bip_340() if v["index"] == "0")  # the one whose auxiliary randomness is zero
    for key_pair in both_libraries(bytes.fromhex(vector["secret key"]), monkeypatch):
        assert key_pair.sign_digest(bytes.fromhex(vector["message"])).hex().upper() == vector["signature"]


@given(strategies.signed_events())
def test_what_was_signed_verifies_once_it_is_off_the_wire(event: Event) -> None:
    verified = verify(off_the_wire(event))
    assert isinstance(verified, VerifiedEvent)
    assert verified.to_json() == event.to_json()


def test_what_is_verified_is_not_verified_again() -> None:
    event = ALICE.sign(make_event())
    assert verify(event) is event


def test_a_claimed_id_that_is_not_the_hash_is_refused_though_the_signature_fits_the_hash() -> None:
    event = off_the_wire(ALICE.sign(make_event()))
    for wrong in ("0" * 64, event.id[::-1], ALICE.sign(make_event(content="other")).id):
        lying = parse_event({**event.to_json(), "id": wrong})
        assert not has_valid_id(lying)
        with pytest.raises(RemoteProtocolError, match="id"):
            verify(lying)


def test_an_id_and_signature_over_other_content_are_refused() -> None:
    event, other = ALICE.sign(make_event()).to_json(), ALICE.sign(make_event(content="other")).to_json()
    with pytest.raises(RemoteProtocolError, match="id"):
        verify(parse_event({**event, "content": "other"}))
    with pytest.raises(RemoteProtocolError, match="signature"):
        verify(parse_event({**event, "sig": other["sig"]}))


def test_a_signature_of_somebody_else_is_refused() -> None:
    unsigned = make_event()
    event_id = unsigned.compute_id()
    forged = BOB.sign_digest(bytes.fromhex(event_id)).hex()
    event = parse_event({**ALICE.sign(unsigned).to_json(), "sig": forged})
    with pytest.raises(RemoteProtocolError, match="signature"):
        verify(event)


@given(st.integers(0, 511), st.binary(min_size=32, max_size=32))
def test_one_flipped_bit_breaks_a_signature(bit: int, digest: bytes) -> None:
    signature = bytearray(ALICE.sign_digest(digest))
    signature[bit // 8] ^= 1 << bit % 8
    assert not is_valid_signature(ALICE.public_key, digest, bytes(signature))


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 96, 128])
def test_a_signature_of_another_length_is_no_signature(length: int) -> None:
    digest = bytes(32)
    signature = (ALICE.sign_digest(digest) * 2)[:length]
    assert not is_valid_signature(ALICE.public_key, digest, signature)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_digest_of_another_length_is_neither_signed_nor_verified(length: int) -> None:
    with pytest.raises(LocalProtocolError):
        ALICE.sign_digest(bytes(length))
    assert not is_valid_signature(ALICE.public_key, bytes(length), ALICE.sign_digest(bytes(32)))


@pytest.mark.parametrize("public_key", ["", "00", "zz" * 32, "f" * 64, "0" * 64, ALICE.public_key + "00"])
def test_what_is_no_public_key_signs_nothing_and_shares_no_secret(public_key: str) -> None:
    assert not is_valid_signature(PublicKey(public_key), bytes(32), bytes(64))
    with pytest.raises(RemoteProtocolError):
        ALICE.shared_secret(PublicKey(public_key))


def test_an_event_whose_author_is_no_point_is_refused() -> None:
    unsigned = UnsignedEvent(PublicKey("f" * 64), Timestamp(1), 1, (), "")
    lying = {
        **ALICE.sign(make_event()).to_json(),
        "pubkey": "f" * 64,
        "created_at": 1,
        "kind": 1,
        "tags": [],
        "content": "",
    }
    event = parse_event({**lying, "id": unsigned.compute_id()})
    with pytest.raises(RemoteProtocolError, match="signature"):
        verify(event)


@pytest.mark.parametrize("signature", ["", "zz" * 64, "0" * 126, "0" * 130, "ab cd"])
def test_an_event_made_by_hand_with_a_malformed_signature_is_refused(signature: str) -> None:
    event = ALICE.sign(make_event())
    handmade = replace(off_the_wire(event), signature=signature)
    with pytest.raises(RemoteProtocolError):
        verify(handmade)


def test_an_event_with_a_lone_surrogate_is_refused() -> None:
    value = {**ALICE.sign(make_event()).to_json(), "content": json.loads('"\\ud800"')}
    assert not has_valid_id(parse_event(value))
    with pytest.raises(RemoteProtocolError):
        verify(parse_event(value))


def test_nobody_signs_in_another_name() -> None:
    with pytest.raises(LocalProtocolError, match="author"):
        ALICE.sign(make_event(BOB))


def test_what_nobody_would_accept_is_not_signed() -> None:
    with pytest.raises(LocalProtocolError):
        ALICE.sign(replace(make_event(), kind=65_536))
    with pytest.raises(LocalProtocolError):
        ALICE.sign(replace(make_event(), tags=((),)))
    with pytest.raises(LocalProtocolError):
        ALICE.sign(replace(make_event(), content="\ud800"))


@pytest.mark.parametrize(
    "secret", [b"", bytes(32), bytes(31) + b"", bytes(33), CURVE_ORDER.to_bytes(32), b"\xff" * 32], ids=bytes.hex
)
def test_what_is_no_secret_key_makes_no_key_pair(secret: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        KeyPair(secret)


def test_generated_keys_differ_and_work() -> None:
    first, second = KeyPair.generate(), KeyPair.generate()
    assert first.public_key != second.public_key
    assert verify(off_the_wire(first.sign(make_event(first)))).public_key == first.public_key


def test_a_key_pair_never_shows_its_secret_by_accident() -> None:
    secret = ALICE.reveal_secret().hex()
    assert secret not in repr(ALICE)
    assert secret not in str(ALICE)
    assert secret not in f"{ALICE!s:>200}"
    assert KeyPair(ALICE.reveal_secret()).public_key == ALICE.public_key


@given(strategies.key_pairs, strategies.key_pairs)
def test_both_sides_share_one_secret(one: KeyPair, other: KeyPair) -> None:
    assert one.shared_secret(other.public_key) == other.shared_secret(one.public_key)
    assert len(one.shared_secret(other.public_key)) == 32


@given(strategies.text.filter(bool), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens_for_the_recipient_and_for_the_author_and_for_nobody_else(
    plaintext: str, nonce: bytes
) -> None:
    payload = ALICE.seal(plaintext, BOB.public_key, nonce)
    assert BOB.open(payload, ALICE.public_key) == plaintext
    assert ALICE.open(payload, BOB.public_key) == plaintext
    with pytest.raises(RemoteProtocolError):
        KeyPair(bytes(31) + b"\x03").open(payload, ALICE.public_key)


def test_more_peers_than_are_cached_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_CONVERSATIONS_CACHED", 2)
    alice = KeyPair(ALICE.reveal_secret())
    peers = [KeyPair(bytes(31) + bytes([number])) for number in range(2, 7)]
    for _ in range(2):
        for peer in peers:
            assert peer.open(alice.seal("hi", peer.public_key, bytes(32)), alice.public_key) == "hi"


def test_an_event_met_again_is_not_checked_again_and_another_one_under_its_id_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = SignatureMemory()
    event = off_the_wire(ALICE.sign(make_event()))
    verified = memory.verify(event)
    assert verified == verify(event)
    for forged in (replace(event, content="other"), replace(event, signature="00" * 64)):
        with pytest.raises(RemoteProtocolError):
            memory.verify(forged)
    monkeypatch.setattr(keys, "is_valid_signature", lambda *_: False)
    assert memory.verify(event) == verified
    with pytest.raises(RemoteProtocolError):
        memory.verify(off_the_wire(ALICE.sign(make_event(content="never met"))))


def test_what_was_checked_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SignatureMemory(size=2)
    events = [off_the_wire(ALICE.sign(make_event(content=f"{number}"))) for number in range(6)]
    for event in events:
        memory.verify(event)
    checked: list[str] = []

    def count(event: Event) -> VerifiedEvent:
        checked.append(event.content)
        return verify(event)

    monkeypatch.setattr(keys, "verify", count)
    for event in reversed(events):
        memory.verify(event)
    assert checked == ["1", "0"]
