"""One spelling for each relay."""

import pytest
from hypothesis import given

from relaymesh.errors import UsageError
from relaymesh.nostr.relay_urls import MAXIMUM_URL_CHARACTERS, normalise_relay_url
from tests.nostr import strategies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wss://relay.example.com", "wss://relay.example.com"),
        ("wss://relay.example.com/", "wss://relay.example.com"),
        ("WSS://Relay.Example.COM:443/", "wss://relay.example.com"),
        ("ws://relay.example.com:80", "ws://relay.example.com"),
        ("wss://relay.example.com:80", "wss://relay.example.com:80"),
        ("ws://127.0.0.1:7777//", "ws://127.0.0.1:7777"),
        ("ws://[::1]:7777/Path/", "ws://[::1]:7777/Path"),
        ("wss://a.b/Inbox?Key=1#part", "wss://a.b/Inbox?Key=1"),
        ("ws://localhost:0080", "ws://localhost"),
    ],
)
def test_urls_are_brought_to_one_spelling(text: str, expected: str) -> None:
    assert normalise_relay_url(text) == expected


@given(strategies.relay_urls)
def test_a_normalised_url_stays_as_it_is(url: str) -> None:
    once = normalise_relay_url(url)
    assert normalise_relay_url(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "",
        "relay.example.com",
        "http://relay.example.com",
        "wss:relay.example.com",
        "wss://",
        "wss:///path",
        "wss://:443",
        "wss://user@relay.example.com",
        "wss://user:password@relay.example.com",
        "wss://relay.example.com:port",
        "wss://relay.example.com:0",
        "wss://relay.example.com:65536",
        "wss://relay.example.com:999999",
        "wss://-relay",
        "wss://relay-",
        "wss://re lay",
        "wss://relay\n",
        "wss://relay/\x7f",
        "wss://rélay",
        "wss://[::1",
        "wss://[relay]",
        "wss://a/" + "b" * MAXIMUM_URL_CHARACTERS,
        " wss://relay.example.com",
    ],
)
def test_what_is_no_relay_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^expected a relay URL"):
        normalise_relay_url(text)


@given(strategies.text_with_surrogates)
def test_any_text_is_a_relay_url_or_a_usage_error(text: str) -> None:
    for candidate in (text, f"wss://{text}", f"ws://relay{text}", f"ws://relay/{text}"):
        try:
            normalise_relay_url(candidate)
        except UsageError:
            continue


def test_a_url_of_pathological_length_is_refused_at_once() -> None:
    with pytest.raises(UsageError):
        normalise_relay_url("wss://" + "a-." * 1_000_000)
