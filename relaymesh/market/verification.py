"""Offline verification: everything a receipt, a metering record and their quote prove on their own (RM-03, "Receipt").

No relay, wallet or ledger is asked. What the two parties signed is checked against itself, against each other and,
where the quote is disclosed, against its price. Whether money moved only the two wallets know: a receipt says what the
buyer signed that it paid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.pricing import UNBOUNDED_MSAT, cost_within
from relaymesh.nostr.event import VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import read_plaintext
from relaymesh.protocol.evidence import SignedMetering, Verifier, read_metering
from relaymesh.protocol.evidence_files import DisclosedQuote, PresentedEvidence
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.quote import Quote
from relaymesh.protocol.receipt import Receipt
from relaymesh.units import MILLISECONDS_PER_SECOND, AmountMsat

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What ought to hold, in a few words.
        holds: Whether it does.
        detail: What was found, with its numbers; never text that a party chose.
    """

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """Everything that was checked, in order; where one check makes later ones pointless, they are left out.

    Args:
        checks: At least one.
        unchecked: What nobody can know from what was presented, a sentence each.
        metering: The record, if its signature holds.
        receipt: The receipt, if its signature and the record's hold.
        quote: The quote, if it was disclosed and its signature holds.
    """

    checks: tuple[Check, ...]
    unchecked: tuple[str, ...]
    metering: SignedMetering | None
    receipt: Receipt | None
    quote: Quote | None

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)


@dataclass(slots=True)
class _Checks:
    made: list[Check] = field(default_factory=list)

    def state(self, name: str, holds: bool, detail: str) -> None:
        self.made.append(Check(name, holds, detail))

    def attempt(self, name: str, detail: str, action: Callable[[], ResultT]) -> ResultT | None:
        """Do what raises RemoteProtocolError if it does not hold; None if so."""
        try:
            result = action()
        except RemoteProtocolError as error:
            self.state(name, False, str(error))
            return None
        self.state(name, True, detail)
        return result


def verify_evidence(evidence: PresentedEvidence, verify: Verifier) -> VerificationReport:
    """Check a receipt or a metering record, and its price where the quote is disclosed.

    Args:
        evidence: As presented (`relaymesh.protocol.evidence_files.parse_evidence_text` reads it).
        verify: Checks an event's id and signature.

    Returns:
        The report; whatever is wrong with the evidence is in it and never raised.
    """
    checks, receipt, metering = _Checks(), None, None
    if evidence.event.kind == Kind.RECEIPT:
        receipt, metering = _read_receipt(checks, evidence, verify)
    elif evidence.event.kind == Kind.METERING:
        event = _verify(checks, "the record's signature", evidence, verify)
        metering = None if event is None else _read_metering(checks, event)
    else:
        expected = f"expected kind {int(Kind.RECEIPT)} or {int(Kind.METERING)}"
        checks.state("it is a receipt or a metering record", False, f"{expected}, got {evidence.event.kind}")
    if metering is not None:
        _check_record(checks, metering)
        _check_tranches(checks, metering.record)
        if receipt is not None:
            _check_receipt(checks, receipt, metering.record)
    quote = None if evidence.quote is None else _read_quote(checks, evidence.quote, verify)
    if metering is not None and quote is not None and evidence.quote is not None:
        _check_quote(checks, evidence.quote, quote, metering)
        _check_price(checks, quote.row, metering.record, receipt)
    return VerificationReport(tuple(checks.made), _list_unchecked(receipt, metering, quote), metering, receipt, quote)


def _verify(checks: _Checks, name: str, evidence: PresentedEvidence, verify: Verifier) -> VerifiedEvent | None:
    return checks.attempt(name, "id and signature are its author's", lambda: verify(evidence.event))


def _read_receipt(
    checks: _Checks, evidence: PresentedEvidence, verify: Verifier
) -> tuple[Receipt | None, SignedMetering | None]:
    event = _verify(checks, "the receipt's signature", evidence, verify)
    if event is None:
        return None, None
    content = event.content
    receipt = checks.attempt("the receipt's content", "is well formed", lambda: Receipt.from_text(content))
    if receipt is None:
        return None, None
    embedded = receipt.metering
    record_event = checks.attempt(
        "the record's signature", "id and signature are its author's", lambda: verify(parse_event(embedded))
    )
    metering = None if record_event is None else _read_metering(checks, record_event)
    if metering is None:
        return None, None
    checks.state(
        "the receipt is by the client that the record names",
        event.public_key == metering.client,
        f"receipt by {event.public_key}, record for {metering.client}",
    )
    checks.state(
        "the receipt names its record",
        event.tag_values("p") == (metering.event.public_key,) and event.tag_value("e") == metering.event.id,
        "its p and e tags must be the record's author and id",
    )
    checks.state(
        "the receipt was signed after the record",
        event.created_at >= metering.event.created_at,
        f"receipt at {event.created_at}, record at {metering.event.created_at}",
    )
    return receipt, metering


def _read_metering(checks: _Checks, event: VerifiedEvent) -> SignedMetering | None:
    return checks.attempt("the record's content", "is well formed", lambda: read_metering(event))


def _check_record(checks: _Checks, metering: SignedMetering) -> None:
    """The record's times and counts against each other (RM-03, "Metering record")."""
    record = metering.record
    first = record.first_output_at_ms
    between = () if first is None else (first,)
    # The signature's time has whole seconds.
    signed_at_ms = metering.event.created_at * MILLISECONDS_PER_SECOND + MILLISECONDS_PER_SECOND - 1
    times = (record.started_at_ms, *between, record.finished_at_ms, signed_at_ms)
    checks.state(
        "its times are in order",
        list(times) == sorted(times),
        f"started {times[0]}, first output {first or 'none'}, finished {times[-2]}, signed {times[-1]} (Unix ms)",
    )
    checks.state(
        "no output is counted where none was delivered",
        first is not None or record.units.output_bytes == 0,
        f"{record.units.output_bytes} output bytes, first output {first or 'none'}",
    )
    seconds = _whole_seconds(record.finished_at_ms - record.started_at_ms)
    checks.state(
        "no second is counted that did not pass",
        record.units.seconds <= seconds,
        f"{record.units.seconds} s counted, {seconds} s between start and finish",
    )


def _check_tranches(checks: _Checks, record: MeteringRecord) -> None:
    """The record's money (RM-03, "Metering record")."""
    total = sum(tranche.msat for tranche in record.tranches)
    checks.state(
        "its tranches add up to the charge",
        total == record.charged_msat,
        f"{len(record.tranches)} tranches of {total} msat together, charged {record.charged_msat} msat",
    )
    checks.state(
        "the charge is within the job's limit",
        record.charged_msat <= record.max_msat,
        f"charged {record.charged_msat} msat, limit {record.max_msat} msat",
    )
    used = [f"{tranche.units_used} of {tranche.units_paid}" for tranche in record.tranches]
    checks.state(
        "no tranche delivers more than was paid",
        all(tranche.units_used <= tranche.units_paid for tranche in record.tranches),
        f"used of paid units: {', '.join(used) or 'no tranche'}",
    )


def _check_receipt(checks: _Checks, receipt: Receipt, record: MeteringRecord) -> None:
    """The buyer's own count against the node's record (RM-03, "Receipt")."""
    ours, theirs = receipt.units, record.units
    checks.state(
        "paid is what was charged",
        receipt.paid_msat == record.charged_msat,
        f"paid {receipt.paid_msat} msat, charged {record.charged_msat} msat",
    )
    checks.state(
        "both counted the same input bytes",
        ours.input_bytes == theirs.input_bytes,
        f"buyer {ours.input_bytes}, node {theirs.input_bytes}",
    )
    checks.state(
        "both counted the same output bytes",
        ours.output_bytes == theirs.output_bytes,
        f"buyer {ours.output_bytes}, node {theirs.output_bytes}",
    )
    checks.state(
        "both saw the same outcome",
        receipt.outcome == record.status,
        f"buyer {receipt.outcome}, node {record.status}",
    )


def _read_quote(checks: _Checks, disclosed: DisclosedQuote, verify: Verifier) -> Quote | None:
    event = checks.attempt(
        "the quote's signature", "id and signature are its author's", lambda: verify(disclosed.event)
    )
    if event is None:
        return None
    return checks.attempt(
        "the quote's plaintext",
        "is what its event commits to, and is well formed",
        lambda: _open_quote(event, disclosed.plaintext),
    )


def _open_quote(event: VerifiedEvent, plaintext: str) -> Quote:
    message = read_plaintext(event, plaintext)
    if not isinstance(message, Quote):
        raise RemoteProtocolError(f"expected a quote (kind {int(Kind.QUOTE)}) of this version, got kind {event.kind}")
    return message


def _check_quote(checks: _Checks, disclosed: DisclosedQuote, quote: Quote, metering: SignedMetering) -> None:
    """Whether this is the quote that the record must keep to."""
    event, record = disclosed.event, metering.record
    checks.state(
        "the record cites this quote", record.quote_id == event.id, f"record cites {record.quote_id}, quote {event.id}"
    )
    checks.state(
        "the node that made the record made the quote",
        event.public_key == metering.event.public_key,
        f"quote by {event.public_key}, record by {metering.event.public_key}",
    )
    checks.state(
        "the quote was made to this client",
        event.tag_values("p") == (metering.client,),
        f"record for {metering.client}",
    )
    checks.state(
        "the job is of the quoted model and type",
        record.model == quote.row.model and record.job_type in quote.row.job_types,
        f"job type {record.job_type}, quoted {', '.join(quote.row.job_types)}",
    )


def _check_price(checks: _Checks, row: PriceRow, record: MeteringRecord, receipt: Receipt | None) -> None:
    """The charge against the quoted price (RM-01, "Prices")."""
    units = record.billable_units(row.unit)
    charged = record.charged_msat
    if max(units) > MAXIMUM_QUANTITY:
        is_within, price = False, f"exceed the protocol's {MAXIMUM_QUANTITY}"
    else:
        # A stranger's units may cost more than fits a number: all that is asked is whether less would have done.
        is_within = charged == 0 or cost_within(row, *units, AmountMsat(charged - 1)) is None
        exact = cost_within(row, *units, UNBOUNDED_MSAT)
        price = "cost more than any amount" if exact is None else f"cost {exact} msat"
    checks.state(
        "the charge is within the quoted price",
        is_within,
        f"charged {charged} msat; {units[0]} input and {units[1]} output units ({row.unit}) {price}",
    )
    if row.unit == "second" and receipt is not None:
        waited = _whole_seconds(receipt.total_in_ms)
        checks.state(
            "no more seconds are charged than the buyer waited",
            record.units.seconds <= waited,
            f"{record.units.seconds} s counted, the buyer waited {waited} s",
        )


def _list_unchecked(receipt: Receipt | None, metering: SignedMetering | None, quote: Quote | None) -> tuple[str, ...]:
    if metering is None:
        return ()
    found = []
    if receipt is None:
        found.append("whether the buyer agrees: a metering record alone is the node's word")
    if quote is None:
        found.append("whether the price was kept: that needs the quote and its plaintext")
    elif quote.row.unit == "token":
        found.append("how many tokens there were: token counts are the node's word")
    return tuple(found)


def _whole_seconds(milliseconds: int) -> int:
    return max(-(-milliseconds // MILLISECONDS_PER_SECOND), 0)
