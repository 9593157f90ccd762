"""BOLT 11 invoices: what they say and what a payer must refuse in them; the one module that touches `bolt11`.

That library writes them, for the simulated network, and is what our reading is compared with. It does not read here:
it takes 3 to 13 ms of pure Python that holds the interpreter, `relaymesh.protocol.invoice_text` a fiftieth of that.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import anyio.lowlevel
import bolt11
from bolt11.models.features import Feature, FeatureExtra, Features, FeatureState
from bolt11.models.tags import TagChar, Tags

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.ports.lightning import DecodedInvoice
from relaymesh.protocol.invoice_text import InvoiceText, take_apart, to_bytes, to_number
from relaymesh.protocol.payment import find_network_flaw
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp

MAXIMUM_INVOICE_BYTES: Final = 2048
"""Longer texts are refused unread; an invoice of ours has about 300."""

MAXIMUM_DESCRIPTION_BYTES: Final = 639
"""What fits a tagged field (BOLT 11, "Tagged Fields")."""

_INVOICES_CACHED: Final = 1024
_DEFAULT_EXPIRY_SECONDS: Final = 3_600
_DEFAULT_FINAL_CLTV_EXPIRY: Final = 18
_PICO_PER_MSAT: Final = 10
_MSAT_PER_UNIT: Final = {"": 10**11, "m": 10**8, "u": 10**5, "n": 10**2}
_PREFIX: Final = re.compile(r"ln(bcrt|bc|tbs|tb)(?:([1-9][0-9]{0,18})([munp]?))?")
_UNDERSTOOD_REQUIREMENTS: Final = frozenset({8, 14, 16, 24, 36, 48})
"""Even feature bits an invoice may carry (BOLT 9, context 9); any other even bit must fail the payment."""

_FEATURES_OFFERED: Final[dict[Feature | FeatureExtra, FeatureState]] = {
    Feature.var_onion_optin: FeatureState.required,
    Feature.payment_secret: FeatureState.required,
    Feature.basic_mpp: FeatureState.supported,
    Feature.option_route_blinding: FeatureState.supported,
}


@dataclass(frozen=True, slots=True)
class InvoiceFields:
    """All that an invoice says, its signature checked; `DecodedInvoice` is the part that settlement decides on.

    Args:
        bolt11: The text, in lower case.
        network: The currency prefix: `bc`, `tb`, `tbs` or `bcrt`.
        amount_msat: None where the payer is to choose.
        payment_hash: 64 lowercase hex characters.
        payment_secret: 64 lowercase hex characters; a hop must not learn it, so it is never logged.
        payee: The Lightning node that is paid (33 bytes, hex).
        created_at: Unix seconds.
        expiry_seconds: 3600 unless the invoice says otherwise.
        description: None where the payee committed to a hash instead.
        description_hash: 64 lowercase hex characters, or None.
        minimum_final_cltv_expiry: Blocks; 18 unless the invoice says otherwise.
        features: The feature bits as a number.
        signature: R and S, 64 bytes in hex.
    """

    bolt11: str
    network: str
    amount_msat: AmountMsat | None
    payment_hash: str
    payment_secret: str
    payee: str
    created_at: Timestamp
    expiry_seconds: int
    description: str | None
    description_hash: str | None
    minimum_final_cltv_expiry: int
    features: int
    signature: str


@dataclass(frozen=True, slots=True)
class InvoiceDraft:
    """What is to be signed as an invoice; the arguments mean what they mean in `InvoiceFields`."""

    network: str
    amount_msat: AmountMsat | None
    payment_hash: str
    payment_secret: str
    created_at: Timestamp
    expiry_seconds: int
    description: str | None
    description_hash: str | None = None
    minimum_final_cltv_expiry: int = 10


def decode_invoice(text: str) -> DecodedInvoice:
    """Read an invoice that names its amount.

    BOLT 11, "Requirements" of a reader; what a peer sent, so everything wrong with it is the peer's fault.

    Raises:
        RemoteProtocolError: The text is too long, is no invoice, breaks BOLT 11, is wrongly signed, requires a feature
            nobody here understands, or leaves the amount to the payer.
    """
    fields = read_invoice(text)
    if fields.amount_msat is None:
        raise RemoteProtocolError("an invoice must name its amount, this one leaves it to the payer")
    return DecodedInvoice(
        bolt11=fields.bolt11,
        payment_hash=fields.payment_hash,
        amount_msat=fields.amount_msat,
        payee=fields.payee,
        network=fields.network,
        created_at=fields.created_at,
        expires_at=Timestamp(fields.created_at + fields.expiry_seconds),
        description=fields.description or "",
    )


async def decode_invoice_on_loop(text: str) -> DecodedInvoice:
    """`decode_invoice` for those who await it; it takes so little time that a thread would only cost more."""
    await anyio.lowlevel.checkpoint()
    return decode_invoice(text)


def invoice_reader(network: str) -> Callable[[str], Awaitable[DecodedInvoice]]:
    """What reads the invoices that a wallet on this network is to pay, and refuses those of every other.

    Args:
        network: As Core Lightning calls it: `bitcoin`, `testnet`, `signet` or `regtest`.
    """

    async def read(text: str) -> DecodedInvoice:
        invoice = await decode_invoice_on_loop(text)
        flaw = find_network_flaw(invoice, network)
        if flaw is not None:
            raise RemoteProtocolError(flaw)
        return invoice

    return read


def read_invoice(text: str) -> InvoiceFields:
    """Read everything an invoice says, also one that leaves the amount to the payer; raises as `decode_invoice`."""
    _check_length(text)
    if text not in (text.lower(), text.upper()):
        raise RemoteProtocolError("an invoice must be all lower case or all upper case, this one mixes them")
    return _read(text.lower())


def encode_invoice(draft: InvoiceDraft, secret: bytes) -> str:
    """Sign `draft` with the 32-byte secret key of the Lightning node that is to be paid.

    BOLT 11, "Requirements" of a writer.

    Raises:
        LocalProtocolError: The description is too long, or the amount is not positive.
    """
    if draft.amount_msat is not None and draft.amount_msat < 1:
        raise LocalProtocolError(f"an invoice's amount must be at least 1 msat, not {draft.amount_msat}")
    if len((draft.description or "").encode()) > MAXIMUM_DESCRIPTION_BYTES:
        raise LocalProtocolError(f"an invoice's description must have at most {MAXIMUM_DESCRIPTION_BYTES} bytes")
    tags = Tags()
    tags.add(TagChar.payment_secret, draft.payment_secret)
    tags.add(TagChar.payment_hash, draft.payment_hash)
    if draft.description_hash is not None:
        tags.add(TagChar.description_hash, draft.description_hash)
    else:
        tags.add(TagChar.description, draft.description or "")
    tags.add(TagChar.expire_time, draft.expiry_seconds)
    tags.add(TagChar.min_final_cltv_expiry, draft.minimum_final_cltv_expiry)
    tags.add(TagChar.features, Features.from_feature_list(_FEATURES_OFFERED))
    amount = None if draft.amount_msat is None else bolt11.MilliSatoshi(draft.amount_msat)
    unsigned = bolt11.Bolt11(currency=draft.network, date=draft.created_at, tags=tags, amount_msat=amount)
    return str(bolt11.encode(unsigned, secret.hex()))


def find_node_id(secret: bytes) -> str:
    """The id (33 bytes, hex) of the Lightning node with this 32-byte secret key: whom its signatures name as payee."""
    probe = InvoiceDraft("bcrt", None, "00" * 32, "00" * 32, Timestamp(0), 1, "")
    return read_invoice(encode_invoice(probe, secret)).payee


def _check_length(text: str) -> None:
    if len(text) > MAXIMUM_INVOICE_BYTES:
        raise RemoteProtocolError(f"an invoice must have at most {MAXIMUM_INVOICE_BYTES} bytes, this one has more")


@lru_cache(maxsize=_INVOICES_CACHED)
def _read(text: str) -> InvoiceFields:
    network, amount_msat = _read_prefix(text)
    fields = _collect(text, network, amount_msat, take_apart(text))
    _check(fields)
    return fields


def _read_prefix(text: str) -> tuple[str, AmountMsat | None]:
    """The currency and the amount; bolt11 would round a fraction of a millisatoshi away."""
    found = _PREFIX.fullmatch(text.rpartition("1")[0])
    if found is None:
        raise RemoteProtocolError("an invoice must begin with a known network and a whole positive amount, or none")
    network, digits, multiplier = found.groups()
    if digits is None:
        return network, None
    if multiplier == "p":
        amount_msat, rest = divmod(int(digits), _PICO_PER_MSAT)
        if rest:
            raise RemoteProtocolError("an invoice's amount must be whole millisatoshis, this one names a fraction")
    else:
        amount_msat = int(digits) * _MSAT_PER_UNIT[multiplier]
    if amount_msat > MAXIMUM_INTEGER:
        raise RemoteProtocolError("an invoice's amount must be below 2^53 msat, this one is larger")
    return network, AmountMsat(amount_msat)


def _collect(text: str, network: str, amount_msat: AmountMsat | None, read: InvoiceText) -> InvoiceFields:
    """What a payer decides on, of what the text holds; of a description and its hash the first that is there."""
    fields = read.fields
    texts = [letter for letter in fields if letter in "dh"]
    if "p" not in fields or "s" not in fields or not texts or not all(fields.get(letter, b"x") for letter in "xcf"):
        raise RemoteProtocolError("the invoice cannot be read: a field that it must have is missing or empty")
    try:
        description = to_bytes(fields["d"]).decode() if texts[0] == "d" else None
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("the invoice cannot be read: its description is no UTF-8") from error
    return InvoiceFields(
        bolt11=text,
        network=network,
        amount_msat=amount_msat,
        payment_hash=to_bytes(fields["p"]).hex(),
        payment_secret=to_bytes(fields["s"]).hex(),
        payee=read.payee,
        created_at=Timestamp(read.created_at),
        expiry_seconds=to_number(fields["x"]) if "x" in fields else _DEFAULT_EXPIRY_SECONDS,
        description=description,
        description_hash=to_bytes(fields["h"]).hex() if texts[0] == "h" else None,
        minimum_final_cltv_expiry=to_number(fields["c"]) if "c" in fields else _DEFAULT_FINAL_CLTV_EXPIRY,
        features=to_number(fields.get("9", b"")),
        signature=read.signature.hex(),
    )


def _check(fields: InvoiceFields) -> None:
    required = {bit for bit in range(0, fields.features.bit_length(), 2) if fields.features >> bit & 1}
    unknown = required - _UNDERSTOOD_REQUIREMENTS
    if unknown:
        raise RemoteProtocolError(f"the invoice requires feature {min(unknown)}, which nobody here understands")
    if fields.created_at + fields.expiry_seconds > MAXIMUM_INTEGER:
        raise RemoteProtocolError("the invoice's expiry lies beyond what any clock can tell")
