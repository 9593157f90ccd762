"""The tables of nips/*.md that the code itself writes: fields, refusal codes, limits, timeouts."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from relaymesh import settings
from relaymesh.machines import buyer_settlement, client_output, reception, reception_events
from relaymesh.machines.asking import RETRANSMIT_AFTER_MS
from relaymesh.machines.job_settings import ClientJobSettings, NodeJobSettings
from relaymesh.machines.opening_events import OpeningSettings
from relaymesh.machines.reception_events import ReceptionSettings
from relaymesh.machines.session_interface import SessionSettings
from relaymesh.market import pricing
from relaymesh.market.policy import POLICIES, Policy
from relaymesh.protocol import codec, content, frames, handshake, open_request, quote, session_codec
from relaymesh.protocol.refusal import RETRYABLE, RefusalCode
from relaymesh.roles import node
from relaymesh.roles.node import NodeSettings
from relaymesh.units import MAXIMUM_INTEGER
from tests.nips import contents, schemas

# What has a table of its own, and where that table stands.
ELSEWHERE: Final = {
    "PriceRow": "a [price row](RM-01.md#prices)",
    "SettlementTerm": "a [settlement term](RM-03.md#orders)",
    "QuotedTerm": "a [quoted term](RM-03.md#orders)",
    "MeteredUnits": "[units](RM-03.md#metering-record)",
    "StatedStanding": "a [stated standing](RM-04.md#ranking)",
    "Event": "a whole event",
}
_PATTERNS: Final = {
    "^[0-9a-f]{64}$": "32 bytes, hex",
    "^0[23][0-9a-f]{64}$": "33 bytes, hex",
    "^[13456789abcdefghijkmnopqrstuwxyz]{104}$": "65 bytes, zbase32",
    "^wss?://[^\\s]{1,200}$": "`ws://` or `wss://` URL",
    "^38770:[0-9a-f]{64}:[a-z0-9./@-]{1,29}$": "`38770:NODE:LABEL`",
    "^[a-z0-9_./-]{1,40}$": "1 … 40 characters of `[a-z0-9_./-]`",
}
_MISSING: Final = object()


def kind_fields(name: str) -> Callable[[], str]:
    """The field table of one kind's content."""
    found = next(each for each in contents.CONTENTS if each.name == name)
    return lambda: _field_table(schemas.build(found))


def part_fields(name: str, *, within: str) -> Callable[[], str]:
    """The field table of something that stands in the content of several kinds; `within` is one of them."""
    found = next(each for each in contents.CONTENTS if each.name == within)

    def write() -> str:
        schema = schemas.build(found)
        return _field_table({**schema["$defs"][name], "$defs": schema["$defs"]})

    return write


def _field_table(schema: dict[str, Any]) -> str:
    rows = "\n".join(_field_rows(schema, schema.get("$defs", {}), ""))
    return f"| field | value | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _field_rows(schema: dict[str, Any], definitions: dict[str, Any], place: str) -> Iterator[str]:
    for name, part in schema["properties"].items():
        default = part.get("default", _MISSING)
        is_required = name in schema["required"] if "required" in schema else default is _MISSING
        shown = "" if is_required or default is _MISSING else f"`{json.dumps(default)}`"
        below = _named(part)
        if isinstance(default, dict):
            shown = "as below"
        yield f"| `{place}{name}` | {_type(part)} | {shown} | {part['description']} |"
        if below is not None and below not in ELSEWHERE:
            step = "[]." if part.get("type") == "array" else ".LABEL." if "patternProperties" in part else "."
            yield from _field_rows(definitions[below], definitions, f"{place}{name}{step}")


def _named(part: dict[str, Any]) -> str | None:
    """What a field is made of, where that has a name."""
    for inside in (part.get("items", part), *part.get("patternProperties", {}).values()):
        if "$ref" in inside:
            return str(inside["$ref"]).rpartition("/")[2]
    return None


def _type(part: dict[str, Any]) -> str:
    if "anyOf" in part:
        return " or ".join(_type(each) for each in part["anyOf"])
    if "$ref" in part:
        return ELSEWHERE.get(_named(part) or "", "object")
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return " ".join(f"`{value}`" for value in part["enum"])
    match part["type"]:
        case "integer":
            return f"{_number(part['minimum'])} … {_number(part['maximum'])}"
        case "string":
            return _string(part)
        case "array":
            return f"{_span(part.get('minItems', 0), part['maxItems'])} × {_type(part['items'])}"
        case "object" if "patternProperties" in part:
            return f"at most {part['maxProperties']}, by {'label' if _named(part) else 'name'}"
        case "boolean":
            return "`true` `false`"
        case other:
            return str(other)


def _string(part: dict[str, Any]) -> str:
    if "pattern" in part:
        return _PATTERNS[part["pattern"]]
    return f"{_span(part.get('minLength', 0), part['maxLength'])} characters"


def _span(minimum: int, maximum: int) -> str:
    return f"{minimum} … {maximum}"


def _number(value: int) -> str:
    if value == MAXIMUM_INTEGER:
        return "2^53 − 1"
    zeros = len(str(value)) - len(str(value).rstrip("0"))
    return f"10^{zeros}" if zeros > 3 and value == 10**zeros else f"{value:,}"


# ── codes, limits, timeouts ───────────────────────────────────────────────────────────────────────────────────────


def refusal_codes() -> str:
    """Every refusal code and whether asking again may help."""
    rows = "\n".join(f"| `{code.value}` | {'yes' if RETRYABLE[code] else 'no'} |" for code in RefusalCode)
    return f"| code | `retryable` |\n|---|---|\n{rows}\n"


def market_limits() -> str:
    """The limits of RM-01."""
    return _limits(
        ("plaintext of a sealed message", f"{content.MAXIMUM_PLAINTEXT_BYTES:,} bytes"),
        ("content of any other event", f"{content.MAXIMUM_EVENT_BYTES:,} bytes"),
        ("a 2877x or 3877x event, as JSON", f"{content.MAXIMUM_EVENT_BYTES:,} bytes"),
        (
            "tags of one letter in a 3877x event",
            f"{codec.MAXIMUM_INDEXED_TAGS}, of {codec.MAXIMUM_INDEXED_CHARACTERS} characters each",
        ),
        ("depth of the JSON in either", f"{content.MAXIMUM_DEPTH} levels"),
        ("how far from a 2877x event's `created_at` it is still taken", f"±{codec.CONVERSATION_WINDOW_SECONDS} s"),
        ("how far in the future a 3877x event may lie", f"{codec.STATE_FUTURE_SECONDS} s"),
        (
            "how long a node keeps an answer, and so at most a quote's validity",
            _seconds(reception_events.REMEMBERED_MS),
        ),
        (
            "requests of one key that our node serves in that time",
            str(ReceptionSettings(endpoints=()).requests_per_key),
        ),
        ("reply relays of one request", str(quote.MAXIMUM_REPLY_RELAYS)),
        ("proof of work of an open request, at least", f"{open_request.OPEN_REQUEST_POW_BITS} bits"),
        ("an event that is a quote", f"{quote.MAXIMUM_QUOTE_EVENT_BYTES:,} bytes"),
        ("such an event in a session accept", f"{reception.MAXIMUM_POSTED_QUOTE_BYTES:,} bytes"),
    )


def session_limits() -> str:
    """The limits of RM-02."""
    return _limits(
        ("a greeting", f"{frames.MAXIMUM_GREETING_CHARACTERS} characters"),
        ("the JSON in one frame", f"{frames.MAXIMUM_JSON_BYTES:,} bytes"),
        ("one frame, as sent", f"{frames.MAXIMUM_FRAME_BYTES:,} bytes"),
        ("one message, in PARTs", f"{frames.MAXIMUM_MESSAGE_BYTES:,} bytes, {session_codec.MAXIMUM_PARTS} parts"),
        ("a BOLT 11 invoice", f"{session_codec.MAXIMUM_BOLT11_CHARACTERS:,} characters"),
        ("the reason in a BYE", f"{session_codec.MAXIMUM_REASON_CHARACTERS} characters"),
        ("endpoints in a session accept", str(handshake.MAXIMUM_ENDPOINTS)),
        ("connections of one session, one after the other", f"{SessionSettings().maximum_connections:,}"),
        ("jobs under way in one session", f"{SessionSettings().maximum_jobs:,}"),
        ("tranches of one job", str(pricing.MAXIMUM_TRANCHES)),
        ("credit that our client grants with a JOB", f"{client_output.CREDIT_BYTES:,} bytes"),
    )


def timeouts() -> str:
    """What each side waits for, and how long, unless it is told otherwise."""
    opening, job, session = OpeningSettings(), ClientJobSettings(), SessionSettings()
    at_node, heartbeat = NodeJobSettings(), NodeSettings.__dataclass_fields__["heartbeat_seconds"].default
    reception_settings = ReceptionSettings(endpoints=())
    resend = ", ".join(str(each // 1_000) for each in RETRANSMIT_AFTER_MS)
    redial = " and ".join(_seconds(each) for each in session.redial_after_ms)
    look_ups = f"{buyer_settlement.FIRST_LOOK_UP_MS} ms, doubling to {_seconds(buyer_settlement.LONGEST_LOOK_UP_MS)}"
    return _limits(
        ("client: an answer to 28770 or 28772, before it is sent again", f"{resend} s"),
        ("client: the first quote", _seconds(opening.quote_ms)),
        ("client: more quotes, once there is one", _seconds(opening.patience_ms)),
        ("client: more bids, once there is one", _seconds(opening.auction_ms)),
        ("client: a session accept, before the next quote is taken", _seconds(opening.accept_ms)),
        ("client: a dial", _seconds(session.connect_in_ms)),
        ("client: READY", _seconds(session.ready_in_ms)),
        ("client: before each new dial after a failure; then the session is over", redial),
        (
            "client: the first output, from JOB or payment",
            f"{_seconds(job.first_output_ms)}, or {job.first_output_etas} × `eta_in_ms` if that is longer",
        ),
        ("client: the next output", _seconds(job.idle_ms)),
        ("client: METERING after END, ERROR or CANCEL", _seconds(job.metering_ms)),
        ("client: the wallet's word about a payment in doubt", _seconds(job.doubt_ms)),
        ("client: between look-ups of such a payment", look_ups),
        ("node: a quote's validity", _seconds(reception_settings.quote_validity_ms)),
        ("node: a place for a job", _seconds(settings.Node().queue_seconds * 1_000)),
        ("node: HELLO", f"{node.HELLO_SECONDS} s"),
        ("node: the first authentic frame after READY", _seconds(session.ready_in_ms)),
        ("node: an invoice's expiry", f"{at_node.invoice_expiry_seconds} s"),
        ("node: CREDIT for output that waits for it", _seconds(at_node.credit_ms)),
        ("node: RECEIPT", _seconds(at_node.receipt_ms)),
        ("node: the client's next connection", _seconds(session.reconnect_in_ms)),
        ("node: any message but PING and PONG", _seconds(session.idle_in_ms)),
        ("either: silence before a PING", _seconds(session.ping_after_ms)),
        ("either: PONG", _seconds(session.pong_in_ms)),
        ("node: between two statuses", f"{heartbeat} s"),
        ("everyone: a status's expiration", f"{node.HEARTBEATS_UNTIL_EXPIRY} times that"),
    )


def policies() -> str:
    """The policies that have names, weight by weight."""
    weights = [field.name for field in dataclasses.fields(Policy) if field.name != "name"]
    head = "| weight | " + " | ".join(f"`{name}`" for name in POLICIES) + " |\n"
    rows = [
        f"| `{weight}` | " + " | ".join(f"{getattr(policy, weight):,}" for policy in POLICIES.values()) + " |\n"
        for weight in weights
    ]
    return head + "|---" * (len(POLICIES) + 1) + "|\n" + "".join(rows)


def _limits(*rows: tuple[str, str]) -> str:
    return "| what | how much |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1_000} s" if milliseconds % 1_000 == 0 else f"{milliseconds} ms"


PARTS: Final[dict[str, Callable[[], str]]] = {
    **{f"fields-{each.name}": kind_fields(each.name) for each in contents.CONTENTS},
    "fields-price-row": part_fields("PriceRow", within="offer"),
    "fields-settlement-term": part_fields("SettlementTerm", within="offer"),
    "fields-quoted-term": part_fields("QuotedTerm", within="quote"),
    "fields-stated-standing": part_fields("StatedStanding", within="ranking"),
    "fields-units": part_fields("MeteredUnits", within="metering"),
    "policies": policies,
    "refusal-codes": refusal_codes,
    "limits-market": market_limits,
    "limits-sessions": session_limits,
    "timeouts": timeouts,
}
