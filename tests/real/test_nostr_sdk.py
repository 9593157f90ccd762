"""Both ways against nostr-sdk, the Rust implementation: what one side makes, the other takes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.nostr.authentication import build_authentication, check_authentication
from relaymesh.nostr.event import Event, EventId, PublicKey, UnsignedEvent, parse_event
from relaymesh.nostr.filters import Filter, parse_filter
from relaymesh.nostr.identifiers import (
    AddressPointer,
    EventPointer,
    ProfilePointer,
    decode_address_pointer,
    decode_event_id,
    decode_event_pointer,
    decode_profile,
    decode_public_key,
    decode_secret_key,
    encode_address_pointer,
    encode_event_id,
    encode_event_pointer,
    encode_profile,
    encode_public_key,
    encode_secret_key,
)
from relaymesh.nostr.key_encryption import decrypt_secret_key, encrypt_secret_key
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.messages import (
    CloseMessage,
    EventMessage,
    OkMessage,
    RequestMessage,
    SubscriptionEvent,
    parse_client_message,
    parse_relay_message,
)
from relaymesh.nostr.proof_of_work import has_proof_of_work, leading_zero_bits, mine
from relaymesh.nostr.relay_information import RelayInformation, RelayLimitation, parse_relay_information
from relaymesh.units import Timestamp
from tests.nostr import strategies
from tests.real.programs import require_module

nostr_sdk = require_module("nostr_sdk")

ALICE = KeyPair(bytes(31) + b"\x01")
BOB = KeyPair(bytes(31) + b"\x02")

points = strategies.key_pairs.map(lambda key_pair: key_pair.public_key)
kinds = st.integers(0, 65_535)
urls = st.lists(st.sampled_from(["wss://r.x.com", "wss://djbas.sadkb.com", "ws://127.0.0.1:7777"]), max_size=3).map(
    tuple
)
addressable_kinds = st.integers(30_000, 39_999)


def rust_keys(key_pair: KeyPair) -> Any:
    return nostr_sdk.Keys(nostr_sdk.SecretKey.from_bytes(key_pair.reveal_secret()))


def rust_public_key(public_key: str) -> Any:
    return nostr_sdk.PublicKey.parse(public_key)


def rust_urls(relay_urls: tuple[str, ...]) -> list[Any]:
    return [nostr_sdk.RelayUrl.parse(url) for url in relay_urls]


def rust_sign(key_pair: KeyPair, event: UnsignedEvent) -> Any:
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(event.kind), event.content)
    builder = builder.tags([nostr_sdk.Tag.parse(list(tag)) for tag in event.tags])
    builder = builder.custom_created_at(nostr_sdk.Timestamp.from_secs(event.created_at))
    return builder.finalize(rust_keys(key_pair))


def python_urls(relay_urls: list[Any]) -> tuple[str, ...]:
    return tuple(str(url) for url in relay_urls)


@given(strategies.key_pairs)
def test_a_secret_key_has_the_same_public_key(key_pair: KeyPair) -> None:
    assert rust_keys(key_pair).public_key().to_hex() == key_pair.public_key


@given(strategies.signed_events())
def test_what_we_sign_verifies_there(event: Event) -> None:
    theirs = nostr_sdk.Event.from_json(json.dumps(event.to_json()))
    assert theirs.verify()
    assert theirs.id().to_hex() == event.id
    assert theirs.content() == event.content
    assert [tuple(tag.to_vec()) for tag in theirs.tags()] == list(event.tags)


@given(strategies.key_pairs.flatmap(lambda key: st.tuples(st.just(key), strategies.unsigned_events(key))))
def test_what_is_signed_there_verifies_here(signed: tuple[KeyPair, UnsignedEvent]) -> None:
    key_pair, unsigned = signed
    ours = parse_event(json.loads(rust_sign(key_pair, unsigned).as_json()))
    verified = verify(ours)
    assert verified.id == unsigned.compute_id()
    assert (verified.tags, verified.content, verified.kind) == (unsigned.tags, unsigned.content, unsigned.kind)


@given(strategies.signed_events(), st.sampled_from(["id", "sig", "content", "created_at"]))
def test_what_was_altered_verifies_on_neither_side(event: Event, field: str) -> None:
    value = event.to_json()
    last = {"0": "1"}.get(str(value[field])[-1:], "0")
    value[field] = value[field] ^ 1 if field == "created_at" else value[field][:-1] + last
    assert not nostr_sdk.Event.from_json(json.dumps(value)).verify()
    with pytest.raises(RemoteProtocolError):
        verify(parse_event(value))


@given(strategies.key_pairs, strategies.key_pairs, strategies.text.filter(bool), st.binary(min_size=32, max_size=32))
def test_what_we_seal_opens_there(one: KeyPair, other: KeyPair, plaintext: str, nonce: bytes) -> None:
    payload = one.seal(plaintext, other.public_key, nonce)
    theirs = nostr_sdk.nip44_decrypt(rust_keys(other).secret_key(), rust_public_key(one.public_key), payload)
    assert theirs == plaintext


@given(strategies.key_pairs, strategies.key_pairs, strategies.text.filter(bool))
def test_what_is_sealed_there_opens_here(one: KeyPair, other: KeyPair, plaintext: str) -> None:
    payload = nostr_sdk.nip44_encrypt(
        rust_keys(one).secret_key(), rust_public_key(other.public_key), plaintext, nostr_sdk.Nip44Version.V2
    )
    assert other.open(payload, one.public_key) == plaintext


@pytest.mark.parametrize("length", [1, 32, 33, 256, 257, 6 * 1024, 65_000])  # theirs ends below 64 KiB
def test_every_length_that_both_know_is_padded_alike(length: int) -> None:
    plaintext = "x" * length
    theirs = nostr_sdk.nip44_encrypt(
        rust_keys(ALICE).secret_key(), rust_public_key(BOB.public_key), plaintext, nostr_sdk.Nip44Version.V2
    )
    ours = ALICE.seal(plaintext, BOB.public_key, bytes(range(32)))
    assert len(theirs) == len(ours)
    assert BOB.open(theirs, ALICE.public_key) == plaintext
    assert nostr_sdk.nip44_decrypt(rust_keys(BOB).secret_key(), rust_public_key(ALICE.public_key), ours) == plaintext


@given(strategies.key_pairs, strategies.hex_32)
def test_keys_and_ids_are_written_alike(key_pair: KeyPair, event_id: str) -> None:
    theirs = rust_keys(key_pair)
    npub, nsec = theirs.public_key().to_bech32(), theirs.secret_key().to_bech32()
    note = nostr_sdk.EventId.parse(event_id).to_bech32()
    assert encode_public_key(key_pair.public_key) == npub
    assert encode_secret_key(key_pair.reveal_secret()) == nsec
    assert encode_event_id(EventId(event_id)) == note
    assert decode_public_key(npub) == key_pair.public_key
    assert decode_secret_key(nsec) == key_pair.reveal_secret()
    assert decode_event_id(note) == event_id


@given(st.builds(ProfilePointer, points, urls))
def test_profiles_are_read_on_both_sides(profile: ProfilePointer) -> None:
    theirs = nostr_sdk.Nip19Profile(rust_public_key(profile.public_key), rust_urls(profile.relay_urls))
    assert decode_profile(theirs.to_bech32()) == profile
    read = nostr_sdk.Nip19Profile.from_bech32(encode_profile(profile))
    assert (read.public_key().to_hex(), python_urls(read.relays())) == (profile.public_key, profile.relay_urls)


@given(st.builds(EventPointer, strategies.hex_32.map(EventId), urls, st.none() | points, st.none() | kinds))
def test_event_pointers_are_read_on_both_sides(pointer: EventPointer) -> None:
    theirs = nostr_sdk.Nip19Event(
        nostr_sdk.EventId.parse(pointer.event_id),
        author=None if pointer.author is None else rust_public_key(pointer.author),
        kind=None if pointer.kind is None else nostr_sdk.Kind(pointer.kind),
        relays=rust_urls(pointer.relay_urls),
    )
    assert decode_event_pointer(theirs.to_bech32()) == pointer
    read = nostr_sdk.Nip19Event.from_bech32(encode_event_pointer(pointer))
    author, kind = read.author(), read.kind()
    assert read.event_id().to_hex() == pointer.event_id
    assert (None if author is None else author.to_hex()) == pointer.author
    assert (None if kind is None else kind.as_u16()) == pointer.kind
    assert python_urls(read.relays()) == pointer.relay_urls


@given(st.builds(AddressPointer, strategies.text.map(lambda value: value[:60]), points, addressable_kinds, urls))
def test_address_pointers_are_read_on_both_sides(pointer: AddressPointer) -> None:
    coordinate = nostr_sdk.Coordinate(nostr_sdk.Kind(pointer.kind), rust_public_key(pointer.author), pointer.identifier)
    theirs = nostr_sdk.Nip19Coordinate(coordinate, rust_urls(pointer.relay_urls))
    assert decode_address_pointer(theirs.to_bech32()) == pointer
    read = nostr_sdk.Nip19Coordinate.from_bech32(encode_address_pointer(pointer))
    assert read.coordinate().identifier() == pointer.identifier
    assert read.coordinate().public_key().to_hex() == pointer.author
    assert read.coordinate().kind().as_u16() == pointer.kind
    assert python_urls(read.relays()) == pointer.relay_urls


def test_a_secret_key_is_no_public_key_on_either_side() -> None:
    nsec = encode_secret_key(ALICE.reveal_secret())
    with pytest.raises(nostr_sdk.NostrSdkError):
        nostr_sdk.PublicKey.parse(nsec)
    with pytest.raises(UsageError):
        decode_public_key(nsec)


@settings(max_examples=5)
@given(strategies.key_pairs, st.text(st.characters(codec="utf-8"), max_size=20))
def test_encrypted_keys_open_on_both_sides(key_pair: KeyPair, password: str) -> None:
    ours = encrypt_secret_key(key_pair.reveal_secret(), password, bytes(range(40)), log_n=10)
    assert nostr_sdk.EncryptedSecretKey.from_bech32(ours).decrypt(password).to_hex() == key_pair.reveal_secret().hex()
    theirs = rust_keys(key_pair).secret_key().encrypt(password).to_bech32()
    assert decrypt_secret_key(theirs, password) == key_pair.reveal_secret()


@settings(max_examples=20)
@given(strategies.unsigned_events(ALICE), st.integers(1, 8))
def test_work_is_counted_alike(event: UnsignedEvent, bits: int) -> None:
    mined = ALICE.sign(mine(event, bits))
    assert nostr_sdk.get_leading_zero_bits(bytes.fromhex(mined.id)) == leading_zero_bits(mined.id) >= bits
    kept = tuple(tag for tag in event.tags if tag[0] != "nonce")
    unsigned = nostr_sdk.UnsignedEvent.from_json(
        json.dumps({**ALICE.sign(replace(event, tags=kept)).to_json(), "id": None})
    )
    theirs = unsigned.mine(nostr_sdk.SingleThreadPow(), bits).sign(rust_keys(ALICE))
    assert has_proof_of_work(verify(parse_event(json.loads(theirs.as_json()))), bits)


hex_values = st.none() | st.lists(strategies.hex_32, min_size=1, max_size=2).map(tuple)
filters = st.builds(
    Filter,
    ids=hex_values,
    authors=st.none() | st.lists(points, min_size=1, max_size=2).map(tuple),
    kinds=st.none() | st.lists(kinds, min_size=1, max_size=2).map(tuple),
    tags=st.lists(
        st.tuples(st.sampled_from("tmd"), st.lists(strategies.text, min_size=1, max_size=2).map(tuple)),
        max_size=2,
        unique_by=lambda tag: tag[0],
    ).map(tuple),
    since=st.none() | st.integers(0, 2**40).map(Timestamp),
    until=st.none() | st.integers(0, 2**40).map(Timestamp),
    limit=st.none() | st.integers(0, 100),
)


def in_no_order(value: dict[str, Any]) -> dict[str, Any]:
    return {name: set(each) if isinstance(each, list) else each for name, each in value.items()}


@given(filters)
def test_filters_are_read_alike(ours: Filter) -> None:
    theirs = json.loads(nostr_sdk.Filter.from_json(json.dumps(ours.to_json())).as_json())
    assert in_no_order(parse_filter(theirs).to_json()) == in_no_order(ours.to_json())


@given(filters, strategies.signed_events(), st.data())
def test_filters_match_alike(some: Filter, event: Event, data: st.DataObject) -> None:
    near = replace(
        some,
        ids=data.draw(st.sampled_from([None, some.ids, (event.id,)])),
        authors=data.draw(st.sampled_from([None, some.authors, (event.public_key,)])),
        kinds=data.draw(st.sampled_from([None, some.kinds, (event.kind,)])),
        tags=data.draw(st.sampled_from([(), some.tags])),
        since=data.draw(st.sampled_from([None, some.since, event.created_at])),
        until=data.draw(st.sampled_from([None, some.until, event.created_at])),
    )
    theirs = nostr_sdk.Filter.from_json(json.dumps(near.to_json()))
    rust_event = nostr_sdk.Event.from_json(json.dumps(event.to_json()))
    assert theirs.match_event(rust_event) == near.matches(event)


@given(strategies.signed_events(), strategies.text, st.booleans())
def test_messages_are_read_alike(event: Event, words: str, accepted: bool) -> None:
    for ours in (EventMessage(event), CloseMessage("s"), RequestMessage("s", (Filter(kinds=(1,)), Filter(limit=1)))):
        assert parse_client_message(nostr_sdk.ClientMessage.from_json(ours.to_text()).as_json()) == ours
    for relayed in (SubscriptionEvent("s", event), OkMessage(event.id, accepted, words)):
        assert parse_relay_message(nostr_sdk.RelayMessage.from_json(relayed.to_text()).as_json()) == relayed


def test_a_relay_information_document_is_read_alike() -> None:
    ours = RelayInformation(
        name="RelayMesh",
        contact_public_key=ALICE.public_key,
        supported_nips=(1, 11, 42),
        limitation=RelayLimitation(max_limit=500, min_pow_difficulty=0, auth_required=False),
    )
    theirs = nostr_sdk.RelayInformationDocument.from_json(json.dumps(ours.to_json()))
    assert theirs.name() == "RelayMesh"
    assert theirs.supported_nips() == [1, 11, 42]
    assert parse_relay_information(theirs.as_json()).limitation == ours.limitation


def test_an_authentication_signed_there_is_taken_here() -> None:
    now = Timestamp(1_700_000_000)
    built = build_authentication(PublicKey(ALICE.public_key), "wss://relay.example.com", "challenge", now)
    event = verify(parse_event(json.loads(rust_sign(ALICE, built).as_json())))
    assert check_authentication(event, ("wss://relay.example.com",), "challenge", now) == ALICE.public_key
