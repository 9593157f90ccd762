"""One honest job with all its evidence, and the means to sign it again after something in it was changed."""

import json
from dataclasses import dataclass, replace
from typing import Any

from relaymesh.nostr.event import Event, EventId, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.codec import seal_message
from relaymesh.protocol.evidence import build_metering, build_receipt, read_metering
from relaymesh.protocol.evidence_files import DisclosedQuote, PresentedEvidence
from relaymesh.protocol.metering import MeteredTranche, MeteredUnits, MeteringRecord
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.quote import Quote, QuotedTerm
from relaymesh.protocol.receipt import Receipt
from relaymesh.units import AmountMsat, Timestamp

NODE, CLIENT, STRANGER = KeyPair(b"\x21" * 32), KeyPair(b"\x22" * 32), KeyPair(b"\x23" * 32)
REQUEST_ID = EventId("aa" * 32)
STARTED_AT_MS = 1_790_000_000_250

ROW = PriceRow(
    model="llama-3.1-8b-instruct",
    job_types=("chat",),
    unit="byte",
    per=1_000,
    input_msat=AmountMsat(40),
    output_msat=AmountMsat(120),
    minimum_msat=AmountMsat(0),
    context_limit=0,
    output_limit=4_096,
)


def make_quote(row: PriceRow = ROW, *, author: KeyPair = NODE, client: KeyPair = CLIENT) -> DisclosedQuote:
    """A quote for this row, sealed by its author to the client, disclosed."""
    exposure = AmountMsat(1_000)
    quote = Quote(
        request_id=REQUEST_ID,
        offer_id=EventId("0f" * 32),
        offer_seq=1,
        row=row,
        estimated_msat=AmountMsat(500),
        max_msat=AmountMsat(5_000),
        settlement=(QuotedTerm(order="prepay", exposure_buyer_msat=exposure, exposure_node_msat=AmountMsat(0)),),
        valid_until_ms=STARTED_AT_MS + 60_000,
        eta_in_ms=500,
    )
    unsigned = seal_message(
        quote,
        author=author.public_key,
        signer=author,
        recipient=client.public_key,
        answers=REQUEST_ID,
        created_at=Timestamp(1_790_000_000),
        entropy=bytes(range(64)),
    )
    return DisclosedQuote(author.sign(unsigned), client.open(unsigned.content, author.public_key))


def make_record(quote: DisclosedQuote, **changes: Any) -> MeteringRecord:
    """What the node says of an honest job under `ROW`: 1,000 bytes in, 2,500 out, 40 + 300 msat in two tranches."""
    record = MeteringRecord(
        job="0b" * 32,
        session="5e" * 32,
        quote_id=quote.event.id,
        model=ROW.model,
        job_type="chat",
        status="ok",
        error="stop",
        started_at_ms=STARTED_AT_MS,
        first_output_at_ms=STARTED_AT_MS + 300,
        finished_at_ms=STARTED_AT_MS + 2_600,
        units=MeteredUnits(
            input_tokens=240, output_tokens=610, input_bytes=1_000, output_bytes=2_500, seconds=3, jobs=1
        ),
        tokenizer="llama.cpp",
        prompt_commitment="c0" * 32,
        output_commitment="c1" * 32,
        max_msat=AmountMsat(5_000),
        charged_msat=AmountMsat(340),
        tranches=(make_tranche(220, 1_500, 1_500), make_tranche(120, 1_000, 1_000)),
    )
    return record.model_copy(update=changes)


def make_tranche(msat: int, units_paid: int, units_used: int) -> MeteredTranche:
    """A paid tranche."""
    return MeteredTranche(
        payment_commitment="ca" * 32, msat=AmountMsat(msat), units_paid=units_paid, units_used=units_used
    )


@dataclass(frozen=True)
class Case:
    """Evidence of one job before it is signed; `receipt_changes` are changes to the receipt's content."""

    quote: DisclosedQuote
    record: MeteringRecord
    receipt_changes: dict[str, Any]
    signed_at: Timestamp = Timestamp(1_790_000_003)
    received_at: Timestamp = Timestamp(1_790_000_004)
    node: KeyPair = NODE
    client: KeyPair = CLIENT
    signs_receipt: KeyPair = CLIENT

    def metering(self) -> VerifiedEvent:
        """The record as the node signed it."""
        author, client = self.node.public_key, self.client.public_key
        return self.node.sign(build_metering(self.record, author=author, client=client, created_at=self.signed_at))

    def receipt(self) -> VerifiedEvent:
        """The receipt as the buyer signed it, whatever its changes make of it."""
        metering = read_metering(self.metering())
        receipt = Receipt(
            metering=metering.event.to_json(),
            outcome=self.record.status,
            units=self.record.units.model_copy(update={"input_tokens": 0, "output_tokens": 0}),
            first_output_in_ms=350,
            total_in_ms=2_700,
            paid_msat=self.record.charged_msat,
        )
        unsigned = build_receipt(receipt, metering, self.received_at)
        content = json.dumps({**json.loads(unsigned.content), **self.receipt_changes})
        return self.signs_receipt.sign(replace(unsigned, content=content, public_key=self.signs_receipt.public_key))

    def presented(self, *, with_quote: bool = True) -> PresentedEvidence:
        """The receipt, with the quote or without."""
        return PresentedEvidence(self.receipt(), self.quote if with_quote else None)


def make_case(**changes: Any) -> Case:
    """An honest case with these changes to the record, and to the case itself where they name one of its parts."""
    parts = {name: changes.pop(name) for name in list(changes) if name in Case.__dataclass_fields__}
    quote = parts.pop("quote", make_quote())
    return Case(quote, make_record(quote, **changes), parts.pop("receipt_changes", {}), **parts)


def sign_content(key: KeyPair, kind: int, tags: tuple[tuple[str, ...], ...], content: str) -> VerifiedEvent:
    """Any event at all, properly signed."""
    return key.sign(UnsignedEvent(key.public_key, Timestamp(1_790_000_000), kind, tags, content))


def as_event(event: Event, **changes: Any) -> Event:
    """The event as it comes off a file, with changes: nothing about it is verified."""
    fields = {name: getattr(event, name) for name in Event.__dataclass_fields__}
    return Event(**{**fields, **changes})
