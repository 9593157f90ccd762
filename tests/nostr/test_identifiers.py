"""Identifiers for people: npub, nsec, note, nprofile, nevent, naddr (NIP-19)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynostr.bech32 import Encoding, bech32_encode, convertbits
from pynostr.key import PublicKey as PynostrPublicKey

from relaymesh.errors import LocalProtocolError, UsageError
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.nostr.identifiers import (
    MAXIMUM_CHARACTERS,
    AddressPointer,
    EventPointer,
    ProfilePointer,
    decode_address_pointer,
    decode_bech32,
    decode_event_id,
    decode_event_pointer,
    decode_profile,
    decode_public_key,
    decode_secret_key,
    encode_address_pointer,
    encode_bech32,
    encode_event_id,
    encode_event_pointer,
    encode_profile,
    encode_public_key,
    encode_secret_key,
)
from relaymesh.nostr.keys import CURVE_ORDER, KeyPair
from tests.nostr import strategies

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "nostr" / "nip19.json").read_bytes())
PUBLIC_KEY = PublicKey("3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d")
NPUB = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
EVENT_ID = EventId("a" * 64)

DECODERS: list[Callable[[str], object]] = [
    decode_public_key,
    decode_secret_key,
    decode_event_id,
    decode_profile,
    decode_event_pointer,
    decode_address_pointer,
]

urls = st.lists(strategies.relay_urls, max_size=3).map(tuple)
public_keys = strategies.hex_32.map(PublicKey)
kinds = st.integers(0, 65_535)


def tlv(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(bytes((kind, len(value))) + value for kind, value in fields)


@pytest.mark.parametrize(("public_key", "npub"), VECTORS["npub"].items())
def test_official_public_keys(public_key: str, npub: str) -> None:
    assert encode_public_key(PublicKey(public_key)) == npub
    assert decode_public_key(npub) == public_key


@pytest.mark.parametrize(("secret", "nsec"), VECTORS["nsec"].items())
def test_official_secret_keys(secret: str, nsec: str) -> None:
    assert encode_secret_key(bytes.fromhex(secret)) == nsec
    assert decode_secret_key(nsec).hex() == secret


def test_the_official_profile() -> None:
    vector = VECTORS["nprofile"]
    profile = ProfilePointer(vector["public_key"], tuple(vector["relay_urls"]))
    assert decode_profile(vector["text"]) == profile
    assert encode_profile(profile) == vector["text"]


@given(strategies.hex_32)
def test_keys_and_ids_come_back(value: str) -> None:
    assert decode_public_key(encode_public_key(PublicKey(value))) == value
    assert decode_event_id(encode_event_id(EventId(value))) == value


@given(strategies.key_pairs)
def test_secret_keys_come_back(key_pair: KeyPair) -> None:
    assert decode_secret_key(encode_secret_key(key_pair.reveal_secret())) == key_pair.reveal_secret()


@given(st.builds(ProfilePointer, public_keys, urls))
def test_profiles_come_back(profile: ProfilePointer) -> None:
    assert decode_profile(encode_profile(profile)) == profile


@given(st.builds(EventPointer, strategies.hex_32.map(EventId), urls, st.none() | public_keys, st.none() | kinds))
def test_event_pointers_come_back(pointer: EventPointer) -> None:
    assert decode_event_pointer(encode_event_pointer(pointer)) == pointer


@given(st.builds(AddressPointer, strategies.text.map(lambda value: value[:60]), public_keys, kinds, urls))
def test_address_pointers_come_back(pointer: AddressPointer) -> None:
    assert decode_address_pointer(encode_address_pointer(pointer)) == pointer


def test_keys_that_end_in_zero_keep_their_length_which_pynostr_cuts() -> None:
    ending_in_zero = PublicKey("ab" * 31 + "00")
    assert decode_public_key(encode_public_key(ending_in_zero)) == ending_in_zero
    assert len(PynostrPublicKey.from_npub(encode_public_key(PublicKey("00" * 32))).hex()) == 64
    assert decode_secret_key(encode_secret_key(b"\x01" * 31 + b"\x00")) == b"\x01" * 31 + b"\x00"


def test_a_secret_key_is_no_public_key_though_pynostr_takes_it_for_one() -> None:
    assert PynostrPublicKey.from_npub(NSEC).hex() == decode_secret_key(NSEC).hex()  # the trap
    with pytest.raises(UsageError, match=r"expected a public key .* got a secret key"):
        decode_public_key(NSEC)
    with pytest.raises(UsageError, match=r"expected a secret key .* got a public key"):
        decode_secret_key(NPUB)


def test_each_prefix_is_taken_only_where_it_belongs() -> None:
    texts = [
        NPUB,
        NSEC,
        encode_event_id(EVENT_ID),
        encode_profile(ProfilePointer(PUBLIC_KEY)),
        encode_event_pointer(EventPointer(EVENT_ID)),
        encode_address_pointer(AddressPointer("main", PUBLIC_KEY, 38_770)),
    ]
    for right, decode in enumerate(DECODERS):
        for place, text in enumerate(texts):
            if place == right:
                decode(text)
            else:
                with pytest.raises(UsageError):
                    decode(text)


@pytest.mark.parametrize("text", [PUBLIC_KEY, PUBLIC_KEY.upper(), f"  {PUBLIC_KEY}\n", NPUB, NPUB.upper(), f" {NPUB} "])
def test_a_public_key_is_read_as_hex_or_npub_as_people_paste_it(text: str) -> None:
    assert decode_public_key(text) == PUBLIC_KEY


def test_bare_hex_is_no_secret_key_since_it_may_as_well_be_a_public_one() -> None:
    with pytest.raises(UsageError, match="hex"):
        decode_secret_key(PUBLIC_KEY)


@pytest.mark.parametrize("secret", [bytes(32), CURVE_ORDER.to_bytes(32), b"\xff" * 32], ids=bytes.hex)
def test_a_number_that_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(UsageError, match="curve"):
        decode_secret_key(encode_secret_key(secret))


@given(st.integers(0), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_one_mistyped_character_is_noticed(position: int, character: str) -> None:
    place = len("npub1") + position % (len(NPUB) - len("npub1"))
    mistyped = NPUB[:place] + character + NPUB[place + 1 :]
    if mistyped != NPUB:
        with pytest.raises(UsageError, match="mistyped"):
            decode_public_key(mistyped)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "npub1",
        "npub",
        NPUB[:-1],
        NPUB + "q",
        NPUB[:20] + NPUB[20:].upper(),
        NPUB.replace("1", "l", 1),
        "1" + NPUB,
        PUBLIC_KEY[:-1],
        PUBLIC_KEY + "00",
        "npub1" + "é" * 58,
        "npub1" + chr(0xD800) * 58,
        encode_bech32("npub", bytes(31)),
        encode_bech32("npub", bytes(33)),
        encode_bech32("npub", b""),
        bech32_encode("npub", convertbits(bytes(32), 8, 5), Encoding.BECH32M),
        bech32_encode("npub", [*convertbits(bytes(32), 8, 5)[:-1], 1], Encoding.BECH32),  # a stray bit
        bech32_encode("npub", [*convertbits(bytes(32), 8, 5), 0], Encoding.BECH32),  # a stray character
        bech32_encode("lnbc", convertbits(bytes(32), 8, 5), Encoding.BECH32),
        "q" * (MAXIMUM_CHARACTERS + 1),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_what_is_no_public_key_is_refused_with_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^expected a public key [^\n]*$"):
        decode_public_key(text)


@given(strategies.text_with_surrogates | st.text("1npubsecrofilevtadqz0", max_size=90) | strategies.hex_32)
def test_any_text_is_an_identifier_or_a_usage_error(text: str) -> None:
    for decode in DECODERS:
        try:
            decode(text)
        except UsageError:
            continue


@given(st.sampled_from(["npub", "nsec", "note", "nprofile", "nevent", "naddr"]), st.binary(max_size=120))
def test_any_bytes_under_a_right_checksum_are_an_identifier_or_a_usage_error(prefix: str, data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(encode_bech32(prefix, data))
        except UsageError:
            continue


fields = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from([b"", bytes(4), b"\0\0\x97\x72", bytes(32), b"wss://r", b"\xff"]) | st.binary(),
    ),
    max_size=5,
)


@given(st.sampled_from(["nprofile", "nevent", "naddr"]), fields)
def test_any_fields_are_a_pointer_or_a_usage_error(prefix: str, content: list[tuple[int, bytes]]) -> None:
    for decode in DECODERS[3:]:
        try:
            decode(encode_bech32(prefix, tlv(*((kind, value[:255]) for kind, value in content))))
        except UsageError:
            continue


def test_fields_that_nip_19_does_not_know_are_passed_over() -> None:
    data = tlv((9, b"x"), (0, bytes.fromhex(PUBLIC_KEY)), (2, b"author, of no meaning here"), (255, b""))
    assert decode_profile(encode_bech32("nprofile", data)) == ProfilePointer(PUBLIC_KEY)


@pytest.mark.parametrize(
    ("decode", "prefix", "data"),
    [
        (decode_profile, "nprofile", b""),
        (decode_profile, "nprofile", tlv((0, bytes(31)))),
        (decode_profile, "nprofile", tlv((1, b"wss://r"))),
        (decode_profile, "nprofile", tlv((0, bytes(32))) + b"\x01"),
        (decode_profile, "nprofile", tlv((0, bytes(32))) + b"\x01\x05wss"),
        (decode_profile, "nprofile", tlv((0, bytes(32)), (1, b"wss://\xff"))),
        (decode_event_pointer, "nevent", tlv((0, bytes(33)))),
        (decode_event_pointer, "nevent", tlv((0, bytes(32)), (2, bytes(31)))),
        (decode_event_pointer, "nevent", tlv((0, bytes(32)), (3, bytes(2)))),
        (decode_event_pointer, "nevent", tlv((0, bytes(32)), (3, b"\x00\x01\x00\x00"))),
        (decode_address_pointer, "naddr", tlv((0, b"main"), (2, bytes(32)))),
        (decode_address_pointer, "naddr", tlv((0, b"main"), (3, bytes(4)))),
        (decode_address_pointer, "naddr", tlv((2, bytes(32)), (3, bytes(4)))),
        (decode_address_pointer, "naddr", tlv((0, b"\xff"), (2, bytes(32)), (3, bytes(4)))),
    ],
)
def test_malformed_pointers_are_refused(decode: Callable[[str], object], prefix: str, data: bytes) -> None:
    with pytest.raises(UsageError):
        decode(encode_bech32(prefix, data))


def test_what_does_not_fit_into_an_identifier_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        encode_profile(ProfilePointer(PUBLIC_KEY, ("wss://" + "a" * 250,)))
    with pytest.raises(LocalProtocolError):
        encode_profile(ProfilePointer(PUBLIC_KEY, ("wss://é",)))
    with pytest.raises(LocalProtocolError):
        encode_address_pointer(AddressPointer("é" * 128, PUBLIC_KEY, 38_770))
    with pytest.raises(LocalProtocolError):
        encode_address_pointer(AddressPointer(chr(0xD800), PUBLIC_KEY, 38_770))
    with pytest.raises(LocalProtocolError):
        encode_address_pointer(AddressPointer("main", PUBLIC_KEY, 65_536))
    with pytest.raises(LocalProtocolError):
        encode_event_pointer(EventPointer(EVENT_ID, kind=-1))


def test_no_error_repeats_a_secret_key() -> None:
    hidden = NSEC[len("nsec1") :]
    for decode in (decode_public_key, decode_event_id, decode_profile):
        for text in (NSEC, NSEC[:-1], NSEC + "x", hidden):
            with pytest.raises(UsageError) as error:
                decode(text)
            assert hidden[:20] not in str(error.value)
    with pytest.raises(UsageError) as error:
        decode_secret_key(decode_secret_key(NSEC).hex())
    assert decode_secret_key(NSEC).hex()[:20] not in str(error.value)


def test_bech32_of_another_kind_is_named() -> None:
    with pytest.raises(UsageError, match="encrypted secret key"):
        decode_public_key(encode_bech32("ncryptsec", bytes(91)))
    with pytest.raises(UsageError, match="something unknown"):
        decode_bech32("npub", encode_bech32("nrelay", bytes(32)))
