"""Managing the relay over HTTP (NIP-86): one request in, an answer or a decision out."""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import is_hex_32
from relaymesh_relay.addresses import LOOPBACK, name_address
from relaymesh_relay.moderation import ALLOWED, DENIED, Change, Listing, Moderation
from relaymesh_relay.settings import Settings

RPC_TYPE: Final = "application/nostr+json+rpc"
CONFIGURED: Final = "listed in the relay's settings"
_TEXT_CHARACTERS: Final = 5_000
_HIGHEST_KIND: Final = 65_535


@dataclass(frozen=True, slots=True)
class Desk:
    """What a request is answered from.

    Args:
        configured: What the operator's file says.
        moderation: What administrators decided since.
    """

    configured: Settings
    moderation: Moderation


Outcome = Change | list[Any]
"""A decision, answered with true once it is durable; or what was asked for."""


def perform(body: bytes, desk: Desk) -> Outcome:
    """What one request asks for.

    Raises:
        RemoteProtocolError: It is no request of NIP-86, or one that this relay does not know or grant.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError("the body must be JSON with a method and params") from error
    match request:
        case {"method": str(name), "params": list(parameters)}:
            pass
        case {"method": str(name)} if "params" not in request:
            parameters = []
        case _:
            raise RemoteProtocolError("the body must be an object with a method and a list of params")
    if name == "supportedmethods":
        return list(METHODS)
    method = METHODS.get(name)
    if method is None:
        raise RemoteProtocolError("this method is not known here; supportedmethods lists those that are")
    return method(desk, parameters)


def _parameter(parameters: list[Any], meaning: str, is_right: Callable[[Any], bool]) -> Any:
    if not parameters or not is_right(parameters[0]):
        raise RemoteProtocolError(f"the first parameter must be {meaning}")
    return parameters[0]


def _reason(parameters: list[Any]) -> str:
    reason = parameters[1] if len(parameters) > 1 and parameters[1] is not None else ""
    if not _is_text(reason):
        raise RemoteProtocolError(f"a reason must be a text of at most {_TEXT_CHARACTERS} characters")
    return str(reason)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _TEXT_CHARACTERS


def _put_hex(listing: Listing, meaning: str) -> Callable[[Desk, list[Any]], Outcome]:
    def method(_: Desk, parameters: list[Any]) -> Outcome:
        return Change(listing, _parameter(parameters, meaning, is_hex_32), _reason(parameters))

    return method


def _take_hex(
    listing: Listing, meaning: str, configured: Callable[[Settings], Iterable[str]]
) -> Callable[[Desk, list[Any]], Outcome]:
    def method(desk: Desk, parameters: list[Any]) -> Outcome:
        value = _parameter(parameters, meaning, is_hex_32)
        if value in configured(desk.configured):
            raise RemoteProtocolError(f"this one is {CONFIGURED}; the operator must take it off there")
        return Change(listing, value, None)

    return method


def _show(
    listing: Listing, name: str, configured: Callable[[Settings], Iterable[str]]
) -> Callable[[Desk, list[Any]], Outcome]:
    def method(desk: Desk, _: list[Any]) -> Outcome:
        everything = dict.fromkeys(configured(desk.configured), CONFIGURED) | desk.moderation.entries(listing)
        return [{name: value, "reason": reason} for value, reason in everything.items()]

    return method


def _change_identity(name: str) -> Callable[[Desk, list[Any]], Outcome]:
    def method(_: Desk, parameters: list[Any]) -> Outcome:
        meaning = f"a text of at most {_TEXT_CHARACTERS} characters"
        return Change(Listing.IDENTITY, name, _parameter(parameters, meaning, _is_text))

    return method


def _judge_kind(verdict: str) -> Callable[[Desk, list[Any]], Outcome]:
    def method(_: Desk, parameters: list[Any]) -> Outcome:
        meaning = f"a kind from 0 to {_HIGHEST_KIND}"
        kind = _parameter(parameters, meaning, lambda value: type(value) is int and 0 <= value <= _HIGHEST_KIND)
        return Change(Listing.KIND, str(kind), verdict)

    return method


def _list_allowed_kinds(desk: Desk, _: list[Any]) -> Outcome:
    access = desk.moderation.apply(desk.configured).access
    return sorted(set(access.allowed_kinds) - set(access.denied_kinds))


def _block_address(_: Desk, parameters: list[Any]) -> Outcome:
    address = _address(parameters)
    if name_address(address) == LOOPBACK:
        raise RemoteProtocolError("this machine's own address cannot be blocked")
    return Change(Listing.BLOCKED_ADDRESS, address, _reason(parameters))


def _unblock_address(_: Desk, parameters: list[Any]) -> Outcome:
    return Change(Listing.BLOCKED_ADDRESS, _address(parameters), None)


def _address(parameters: list[Any]) -> str:
    text = _parameter(parameters, "an address", lambda value: isinstance(value, str))
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise RemoteProtocolError("the first parameter must be an IPv4 or IPv6 address") from error


def _nobody(_: Settings) -> Iterable[str]:
    return ()


_KEY: Final = "a public key in 64 lowercase hex characters"
_ID: Final = "an event's id in 64 lowercase hex characters"

METHODS: Final[dict[str, Callable[[Desk, list[Any]], Outcome]]] = {
    "banpubkey": _put_hex(Listing.BANNED_AUTHOR, _KEY),
    "unbanpubkey": _take_hex(Listing.BANNED_AUTHOR, _KEY, lambda settings: settings.access.denied_authors),
    "listbannedpubkeys": _show(Listing.BANNED_AUTHOR, "pubkey", lambda settings: settings.access.denied_authors),
    "allowpubkey": _put_hex(Listing.ALLOWED_AUTHOR, _KEY),
    "unallowpubkey": _take_hex(Listing.ALLOWED_AUTHOR, _KEY, lambda settings: settings.access.members),
    "listallowedpubkeys": _show(Listing.ALLOWED_AUTHOR, "pubkey", lambda settings: settings.access.members),
    "banevent": _put_hex(Listing.BANNED_EVENT, _ID),
    "allowevent": _take_hex(Listing.BANNED_EVENT, _ID, _nobody),
    "listbannedevents": _show(Listing.BANNED_EVENT, "id", _nobody),
    "listeventsneedingmoderation": lambda _desk, _parameters: [],
    "changerelayname": _change_identity("name"),
    "changerelaydescription": _change_identity("description"),
    "changerelayicon": _change_identity("icon"),
    "allowkind": _judge_kind(ALLOWED),
    "disallowkind": _judge_kind(DENIED),
    "listallowedkinds": _list_allowed_kinds,
    "blockip": _block_address,
    "unblockip": _unblock_address,
    "listblockedips": _show(Listing.BLOCKED_ADDRESS, "ip", _nobody),
}
"""Every method of NIP-86 that the relay knows, beside `supportedmethods`; roles it has none."""
