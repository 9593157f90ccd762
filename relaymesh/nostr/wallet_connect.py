"""Nostr Wallet Connect: what a client asks of a wallet, what the wallet answers and tells (NIP-47).

Values and their events, both ways, for the client's side and for the wallet's. Everything is sealed under NIP-44; the
older encryption (NIP-04) authenticates nothing, and is refused in a sentence.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.nostr.event import Event, EventId, PublicKey, Signer, Tags, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.units import Timestamp

NIP44: Final = "nip44_v2"
NIP04: Final = "nip04"

MAXIMUM_INFORMATION_CHARACTERS: Final = 8_192
MAXIMUM_ERROR_CHARACTERS: Final = 300

PAY_INVOICE: Final = "pay_invoice"
MAKE_INVOICE: Final = "make_invoice"
LOOKUP_INVOICE: Final = "lookup_invoice"
LIST_TRANSACTIONS: Final = "list_transactions"
GET_BALANCE: Final = "get_balance"
GET_INFO: Final = "get_info"
MAKE_HOLD_INVOICE: Final = "make_hold_invoice"
SETTLE_HOLD_INVOICE: Final = "settle_hold_invoice"
CANCEL_HOLD_INVOICE: Final = "cancel_hold_invoice"

PAYMENT_RECEIVED: Final = "payment_received"
PAYMENT_SENT: Final = "payment_sent"
HOLD_INVOICE_ACCEPTED: Final = "hold_invoice_accepted"

NOT_FOUND: Final = "NOT_FOUND"
NOT_IMPLEMENTED: Final = "NOT_IMPLEMENTED"
PAYMENT_FAILED: Final = "PAYMENT_FAILED"
UNSUPPORTED_ENCRYPTION: Final = "UNSUPPORTED_ENCRYPTION"
INTERNAL: Final = "INTERNAL"
OTHER: Final = "OTHER"


@dataclass(frozen=True, slots=True)
class WalletAbilities:
    """What a wallet service says that it can do: the info event (NIP-47, "Info Event").

    Args:
        methods: What can be asked.
        notifications: What it tells by itself.
        encryptions: How its messages can be sealed; an event that does not say means NIP-04 alone.
    """

    methods: frozenset[str]
    notifications: frozenset[str] = frozenset()
    encryptions: tuple[str, ...] = (NIP44,)


@dataclass(frozen=True, slots=True)
class WalletRequest:
    """One call: the method and its parameters, which may hold a preimage and so are in no `repr`."""

    method: str
    parameters: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WalletError:
    """Why a wallet did not do what it was asked: a code of NIP-47 and words of its own, cut short."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class WalletResponse:
    """What came of a request: a result or an error, never both; the result may hold a preimage."""

    method: str
    result: dict[str, Any] = field(default_factory=dict, repr=False)
    error: WalletError | None = None


@dataclass(frozen=True, slots=True)
class WalletNotification:
    """What a wallet tells without being asked: its type, and a transaction as in a response."""

    name: str
    transaction: dict[str, Any] = field(repr=False)


def build_abilities(public_key: PublicKey, abilities: WalletAbilities, created_at: Timestamp) -> UnsignedEvent:
    """The info event (13194) of a wallet service."""
    tags: Tags = (("encryption", " ".join(abilities.encryptions)),)
    if abilities.notifications:
        tags += (("notifications", " ".join(sorted(abilities.notifications))),)
    return UnsignedEvent(public_key, created_at, Kind.WALLET_INFORMATION, tags, " ".join(sorted(abilities.methods)))


def read_abilities(event: VerifiedEvent) -> WalletAbilities:
    """What an info event says.

    Raises:
        RemoteProtocolError: It is of another kind or too long.
    """
    _check_kind(event, Kind.WALLET_INFORMATION)
    encryption, notifications = event.tag_value("encryption"), event.tag_value("notifications") or ""
    if len(event.content) + len(encryption or "") + len(notifications) > MAXIMUM_INFORMATION_CHARACTERS:
        raise RemoteProtocolError(f"an info event must have at most {MAXIMUM_INFORMATION_CHARACTERS} characters")
    encryptions = (NIP04,) if encryption is None else tuple(encryption.split())
    return WalletAbilities(frozenset(event.content.split()), frozenset(notifications.split()), encryptions)


def build_request(
    signer: Signer,
    wallet: PublicKey,
    request: WalletRequest,
    *,
    nonce: bytes,
    created_at: Timestamp,
    expires_at: Timestamp,
) -> VerifiedEvent:
    """The signed request (23194), to be ignored by the wallet after `expires_at`; `nonce` is 32 random bytes."""
    content = {"method": request.method, "params": request.parameters}
    tags = (("encryption", NIP44), ("p", wallet), ("expiration", str(expires_at)))
    return _seal(signer, wallet, Kind.WALLET_REQUEST, tags, content, nonce, created_at)


def read_request(event: VerifiedEvent, signer: Signer) -> WalletRequest:
    """What a client asks of this wallet service; that its author may ask is the caller's affair.

    Raises:
        RemoteProtocolError: It is of another kind, sealed otherwise or for somebody else, or has no method.
    """
    _check_kind(event, Kind.WALLET_REQUEST)
    if event.tag_value("encryption") != NIP44:
        raise RemoteProtocolError(f"a wallet request must be sealed under {NIP44}")
    content = _open(event, signer)
    method, parameters = content.get("method"), content.get("params", {})
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise RemoteProtocolError("a wallet request must have a method and an object of parameters")
    return WalletRequest(method, parameters)


def request_expiry(event: Event) -> int | None:
    """Until when a request may be carried out, in Unix seconds; None where it does not say or says it unreadably."""
    text = event.tag_value("expiration") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 16 else None


def build_response(
    signer: Signer,
    client: PublicKey,
    request_id: EventId,
    response: WalletResponse,
    *,
    nonce: bytes,
    created_at: Timestamp,
) -> VerifiedEvent:
    """The signed response (23195) to one request; `nonce` is 32 random bytes."""
    content: dict[str, Any] = {"result_type": response.method, "error": None, "result": None}
    if response.error is None:
        content["result"] = response.result
    else:
        content["error"] = {"code": response.error.code, "message": response.error.message}
    tags = (("p", client), ("e", request_id))
    return _seal(signer, client, Kind.WALLET_RESPONSE, tags, content, nonce, created_at)


def read_response(event: VerifiedEvent, signer: Signer) -> WalletResponse:
    """What a wallet service answers; which request it answers is its `e` tag.

    Raises:
        RemoteProtocolError: It is of another kind, does not open, or is neither a result nor an error.
    """
    _check_kind(event, Kind.WALLET_RESPONSE)
    content = _open(event, signer)
    method, result, error = content.get("result_type"), content.get("result"), content.get("error")
    if not isinstance(method, str):
        raise RemoteProtocolError("a wallet response must say what it answers")
    if isinstance(error, dict):
        return WalletResponse(method, error=WalletError(str(error.get("code")), _cut(error.get("message"))))
    if error is not None or not isinstance(result, dict):
        raise RemoteProtocolError("a wallet response must hold a result or an error")
    return WalletResponse(method, result)


def build_notification(
    signer: Signer, client: PublicKey, notification: WalletNotification, *, nonce: bytes, created_at: Timestamp
) -> VerifiedEvent:
    """The signed notification (23197); `nonce` is 32 random bytes."""
    content = {"notification_type": notification.name, "notification": notification.transaction}
    return _seal(signer, client, Kind.WALLET_NOTIFICATION, (("p", client),), content, nonce, created_at)


def read_notification(event: VerifiedEvent, signer: Signer) -> WalletNotification:
    """What a wallet service tells.

    Raises:
        RemoteProtocolError: It is of another kind, does not open, or holds no transaction.
    """
    _check_kind(event, Kind.WALLET_NOTIFICATION)
    content = _open(event, signer)
    name, transaction = content.get("notification_type"), content.get("notification")
    if not isinstance(name, str) or not isinstance(transaction, dict):
        raise RemoteProtocolError("a wallet notification must have a type and a transaction")
    return WalletNotification(name, transaction)


def _check_kind(event: Event, kind: Kind) -> None:
    if event.kind != kind:
        raise RemoteProtocolError(f"an event of kind {int(kind)} was expected, not of kind {event.kind}")


def _seal(
    signer: Signer,
    recipient: PublicKey,
    kind: Kind,
    tags: Tags,
    content: dict[str, Any],
    nonce: bytes,
    created_at: Timestamp,
) -> VerifiedEvent:
    try:
        plaintext = orjson.dumps(content).decode()
    except TypeError as error:
        raise LocalProtocolError("a wallet message must be JSON: valid UTF-8, numbers within 64 bits") from error
    sealed = signer.seal(plaintext, recipient, nonce)
    return signer.sign(UnsignedEvent(signer.public_key, created_at, kind, tags, sealed))


def _open(event: VerifiedEvent, signer: Signer) -> dict[str, Any]:
    try:
        content = orjson.loads(signer.open(event.content, event.public_key))
    except orjson.JSONDecodeError:  # without its cause, whose text repeats what was sealed
        content = None
    if not isinstance(content, dict):
        raise RemoteProtocolError("a wallet message must be a JSON object")
    return content


def _cut(words: object) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= MAXIMUM_ERROR_CHARACTERS else text[: MAXIMUM_ERROR_CHARACTERS - 1] + "…"
