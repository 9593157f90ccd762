"""Fraud, decided offline: whether a proof proves its claim, by what the accused itself signed (RM-05, "Fraud proof").

One pure function. It asks no relay, wallet or clock, and what it cannot decide it does not hold proven: an honest node
cannot be framed, whoever recombines its events.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.pricing import UNBOUNDED_MSAT, cost_within, is_no_dearer
from relaymesh.nostr.event import EventId, PublicKey, VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.tags import read_expiration
from relaymesh.protocol.codec import read_offer, read_plaintext
from relaymesh.protocol.content import check_content
from relaymesh.protocol.evidence import SignedMetering, Verifier, read_metering
from relaymesh.protocol.fields import MAXIMUM_QUANTITY
from relaymesh.protocol.fraud_proof import FraudClaim, FraudProof
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.quote import Quote
from relaymesh.protocol.sealed_commitment import SignedCommitment, read_sealed_commitment
from relaymesh.protocol.sealed_leaves import read_leaf
from relaymesh.protocol.slash import slash_key
from relaymesh.units import MAXIMUM_INTEGER

Figures = tuple[tuple[str, int], ...]
_STATEMENTS: Final[Mapping[int, str]] = MappingProxyType(
    {
        Kind.OFFER: "offers of one label and seq",
        Kind.METERING: "records of one job",
        Kind.SEALED_COMMITMENT: "commitments to one tranche",
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a fraud proof comes to.

    Args:
        is_proven: Whether the accused broke its promise, beyond doubt.
        claim: What it is accused of.
        accused: Who.
        sentence: Why it is proven, or why not; never text that a party chose.
        figures: The numbers that decided, by name.
        evidence: The ids of the evidence, sorted.
        key: What its slash is known by: the same evidence never slashes twice. Empty when nothing is proven.
    """

    is_proven: bool
    claim: FraudClaim
    accused: PublicKey
    sentence: str
    figures: Figures = ()
    evidence: tuple[EventId, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Finding:
    is_proven: bool
    sentence: str
    figures: Figures = ()


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The evidence of one proof, every event verified and by the accused."""

    proof: FraudProof
    events: tuple[VerifiedEvent, ...]

    def of_kinds(self, *kinds: Kind) -> tuple[VerifiedEvent, ...]:
        """The events, in the order of these kinds; RemoteProtocolError unless there is exactly one of each."""
        found = {event.kind: event for event in self.events}
        if len(self.events) != len(kinds) or set(found) != set(kinds):
            names = " and ".join(str(int(kind)) for kind in kinds)
            raise RemoteProtocolError(f"{self.proof.claim} needs exactly one event of each of the kinds {names}")
        return tuple(found[kind] for kind in kinds)

    def quote(self, event: VerifiedEvent) -> Quote:
        """What a sealed quote says, by the plaintext that its `x` tag commits to."""
        plaintext = next(
            each.plaintext for each, other in zip(self.proof.evidence, self.events, strict=True) if other is event
        )
        if plaintext is None:
            raise RemoteProtocolError("a quote proves nothing without its plaintext")
        message = read_plaintext(event, plaintext)
        if not isinstance(message, Quote):
            raise RemoteProtocolError("the plaintext is no quote of this version")
        return message


def decide(proof: FraudProof, verify: Verifier) -> Verdict:
    """Whether a fraud proof proves its claim, from nothing but what it embeds (RM-05, "Fraud proof").

    Args:
        proof: As it was read from an 8772, or as somebody is about to publish it.
        verify: Checks an event's id and signature.

    Returns:
        The verdict; evidence that cannot be read, was not signed by the accused or leaves room for doubt proves
        nothing, and the sentence says so. Nothing is raised.
    """
    try:
        evidence = _verify_evidence(proof, verify)
        finding = _CLAIMS[proof.claim](evidence)
    except RemoteProtocolError as error:
        return Verdict(False, proof.claim, proof.accused, str(error))
    ids = tuple(sorted(event.id for event in evidence.events))
    key = slash_key(proof.claim, proof.accused, ids) if finding.is_proven else ""
    return Verdict(finding.is_proven, proof.claim, proof.accused, finding.sentence, finding.figures, ids, key)


def _verify_evidence(proof: FraudProof, verify: Verifier) -> _Evidence:
    events = tuple(verify(parse_event(each.event)) for each in proof.evidence)
    if any(event.public_key != proof.accused for event in events):
        raise RemoteProtocolError("all evidence must be signed by the accused")
    return _Evidence(proof, events)


# ── price-over-quote ──────────────────────────────────────────────────────────────────────────────────────────────


def _decide_price(evidence: _Evidence) -> _Finding:
    """RM-05: "the record charges more than the quoted row allows, or more than the job's own limit"."""
    if any(event.kind == Kind.SEALED_COMMITMENT for event in evidence.events):
        return _decide_tranche_price(evidence)
    quote_event, record_event = evidence.of_kinds(Kind.QUOTE, Kind.METERING)
    quote, record = evidence.quote(quote_event), read_metering(record_event).record
    if record.quote_id != quote_event.id:
        raise RemoteProtocolError("the record cites another quote")
    charged = ("charged_msat", int(record.charged_msat))
    if record.charged_msat > record.max_msat:
        sentence = f"charged {charged[1]} msat, above the job's limit of {record.max_msat} msat"
        return _Finding(True, sentence, (charged, ("max_msat", int(record.max_msat))))
    if _has_lost_its_counts(record, quote.row):
        return _Finding(False, "the record of an interrupted job has no token counts to price", (charged,))
    input_units, output_units = _clamped_units(record, quote.row)
    price = cost_within(quote.row, input_units, output_units, UNBOUNDED_MSAT)
    figures = (
        charged,
        ("cost_msat", MAXIMUM_INTEGER if price is None else int(price)),
        ("input_units", input_units),
        ("output_units", output_units),
    )
    if price is None or record.charged_msat <= price:
        return _Finding(False, f"charged {charged[1]} msat, within the quoted price of what was counted", figures)
    units = f"{input_units} input and {output_units} output units"
    return _Finding(True, f"charged {charged[1]} msat for {units} that cost {price} msat as quoted", figures)


def _decide_tranche_price(evidence: _Evidence) -> _Finding:
    """RM-05: "a later tranche costs more than its output does at the quoted rate".

    Rounding up once for the job and once more for this tranche alone can only make the bound larger, and so does a
    minimum that the earlier tranches have paid for. The first tranche includes the input, of which it does not tell.
    """
    quote_event, event = evidence.of_kinds(Kind.QUOTE, Kind.SEALED_COMMITMENT)
    row, commitment = evidence.quote(quote_event).row, read_sealed_commitment(event).commitment
    if commitment.quote_id != quote_event.id:
        raise RemoteProtocolError("the commitment cites another quote")
    if commitment.tranche == 0:
        return _Finding(False, "the first tranche includes the input, which a commitment does not count")
    units = sum(commitment.leaf_bytes) if row.unit == "byte" else commitment.units
    most = -(-units * row.output_msat // row.per)
    figures = (("msat", int(commitment.msat)), ("cost_msat", min(most, MAXIMUM_INTEGER)), ("output_units", units))
    if commitment.msat <= most:
        return _Finding(False, f"the tranche costs {commitment.msat} msat, within the quoted price", figures)
    return _Finding(
        True, f"{commitment.msat} msat for a tranche of {units} units that cost {most} msat as quoted", figures
    )


def _has_lost_its_counts(record: MeteringRecord, row: PriceRow) -> bool:
    """What a crash leaves: the node charges what was prepaid, and the count of input tokens is gone (RM-03, "Wallets").

    Only tokens are lost; the input's bytes are in the ledger, and seconds and jobs have no input.
    """
    return row.unit == "token" and record.first_output_at_ms is None and record.units.input_tokens == 0


def _clamped_units(record: MeteringRecord, row: PriceRow) -> tuple[int, int]:
    input_units, output_units = record.billable_units(row.unit)
    return min(input_units, MAXIMUM_QUANTITY), min(output_units, MAXIMUM_QUANTITY)


# ── quote-over-offer ──────────────────────────────────────────────────────────────────────────────────────────────


def _decide_quote(evidence: _Evidence) -> _Finding:
    """RM-05: "no row of the offer has the quoted row's model, job types, unit and identity at this price or above"."""
    quote_event, offer_event = evidence.of_kinds(Kind.QUOTE, Kind.OFFER)
    quote, offer = evidence.quote(quote_event), read_offer(offer_event).offer
    if quote.offer_id != offer_event.id:
        raise RemoteProtocolError("the quote cites another offer")
    expiration = read_expiration(offer_event)
    ends_at = offer.valid_until if expiration is None else min(offer.valid_until, expiration)
    if ends_at <= quote_event.created_at:
        return _Finding(False, f"the offer had ended at {ends_at}, before the quote of {quote_event.created_at}")
    same = tuple(row for row in offer.rows if _is_same_article(quote.row, row))
    figures = (
        ("quoted_input_msat", int(quote.row.input_msat)),
        ("quoted_output_msat", int(quote.row.output_msat)),
        ("quoted_per", quote.row.per),
        ("quoted_minimum_msat", int(quote.row.minimum_msat)),
        ("rows_of_this_model", len(same)),
    )
    if not same:
        return _Finding(True, "the quoted row is of a model, job type, unit or identity that the offer lacks", figures)
    if any(is_no_dearer(quote.row, row) for row in same):
        return _Finding(False, "the quoted price is within the offered one", figures)
    return _Finding(True, f"the quoted price is above each of the {len(same)} offered for it", figures)


def _is_same_article(quoted: PriceRow, offered: PriceRow) -> bool:
    return (quoted.model, quoted.unit, quoted.identity) == (offered.model, offered.unit, offered.identity) and set(
        quoted.job_types
    ) <= set(offered.job_types)


# ── equivocation ──────────────────────────────────────────────────────────────────────────────────────────────────


def _decide_equivocation(evidence: _Evidence) -> _Finding:
    """RM-05: "two statements about one thing that differ"."""
    if len(evidence.events) != 2 or evidence.events[0].id == evidence.events[1].id:
        raise RemoteProtocolError("equivocation needs exactly two different events")
    first, second = evidence.events
    if {first.kind, second.kind} == {Kind.OFFER}:
        _compare_offers(first, second)
    elif {first.kind, second.kind} == {Kind.METERING}:
        _compare_records(read_metering(first), read_metering(second))
    elif {first.kind, second.kind} == {Kind.SEALED_COMMITMENT}:
        _compare_commitments(read_sealed_commitment(first), read_sealed_commitment(second))
    elif {first.kind, second.kind} == {Kind.METERING, Kind.SEALED_COMMITMENT}:
        record, commitment = sorted(evidence.events, key=lambda event: event.kind)
        return _compare_amounts(read_metering(record), read_sealed_commitment(commitment))
    else:
        raise RemoteProtocolError("equivocation needs two offers, two records, two commitments, or one of each")
    if _canonical(first.content) == _canonical(second.content):
        return _Finding(False, "the two events say the same: the later is a republication")
    return _Finding(True, f"two {_STATEMENTS[first.kind]} say different things", (("kind", first.kind),))


def _compare_offers(first: VerifiedEvent, second: VerifiedEvent) -> None:
    one, other = read_offer(first), read_offer(second)
    if one.label != other.label:
        raise RemoteProtocolError("the two offers have different labels")
    if one.offer.seq != other.offer.seq:
        raise RemoteProtocolError(f"the two offers have different seq: {one.offer.seq} and {other.offer.seq}")


def _compare_records(one: SignedMetering, other: SignedMetering) -> None:
    if one.record.job != other.record.job:
        raise RemoteProtocolError("the two records are of different jobs")
    # A job id is made from what a client chooses: another client, or another session, may bring the same again.
    if (one.client, one.record.session) != (other.client, other.record.session):
        raise RemoteProtocolError("the two records are for different clients or sessions")


def _compare_commitments(one: SignedCommitment, other: SignedCommitment) -> None:
    first, second = one.commitment, other.commitment
    if (first.job, first.tranche) != (second.job, second.tranche):
        raise RemoteProtocolError("the two commitments are to different jobs or tranches")
    # As with records: one quote serves one session of one client, so that this is one tranche and no other.
    if (one.client, first.quote_id) != (other.client, second.quote_id):
        raise RemoteProtocolError("the two commitments are for different clients or quotes")


def _compare_amounts(metering: SignedMetering, signed: SignedCommitment) -> _Finding:
    """RM-05: "a commitment and the record of its job that tell different amounts of its tranche"."""
    record, commitment = metering.record, signed.commitment
    if (metering.client, record.job, record.quote_id) != (signed.client, commitment.job, commitment.quote_id):
        raise RemoteProtocolError("the record and the commitment are of different clients, jobs or quotes")
    if commitment.tranche >= len(record.tranches):
        return _Finding(False, "the record knows no such tranche: it may have been paid later, or never")
    recorded = record.tranches[commitment.tranche]
    figures = (
        ("tranche", commitment.tranche),
        ("msat", int(commitment.msat)),
        ("recorded_msat", int(recorded.msat)),
        ("units", commitment.units),
        ("recorded_units", recorded.units_paid),
    )
    if (recorded.msat, recorded.units_paid) == (commitment.msat, commitment.units):
        return _Finding(False, "the record tells the amount that was committed to", figures)
    committed = f"committed to {commitment.units} units for {commitment.msat} msat as tranche {commitment.tranche}"
    return _Finding(True, f"{committed}, recorded {recorded.units_paid} for {recorded.msat} msat", figures)


def _canonical(content: str) -> bytes:
    """The content as one text for one meaning: what differs in layout or order of keys does not differ."""
    return orjson.dumps(check_content(content), option=orjson.OPT_SORT_KEYS)


# ── bad-ciphertext ────────────────────────────────────────────────────────────────────────────────────────────────


def _decide_ciphertext(evidence: _Evidence) -> _Finding:
    """RM-05: "the leaf is the one that was committed to, and is not what was vouched for"."""
    (event,) = evidence.of_kinds(Kind.SEALED_COMMITMENT)
    commitment, leaf = read_sealed_commitment(event).commitment, evidence.proof.leaf
    if leaf is None:
        raise RemoteProtocolError("bad-ciphertext needs the leaf that is bad")
    secret, ciphertext = bytes.fromhex(leaf.preimage), leaf.ciphertext_bytes()
    if hashlib.sha256(secret).hexdigest() != commitment.payment_hash:
        raise RemoteProtocolError("the preimage is not that of the payment hash")
    if leaf.index >= len(commitment.leaf_sha256):
        raise RemoteProtocolError("the tranche has no such leaf")
    if hashlib.sha256(ciphertext).hexdigest() != commitment.leaf_sha256[leaf.index]:
        raise RemoteProtocolError("the ciphertext is not the leaf that was committed to")
    figures = (("leaf", leaf.index), ("tranche", commitment.tranche), ("ciphertext_bytes", len(ciphertext)))
    try:
        read_leaf(secret, commitment, leaf.index, ciphertext)
    except RemoteProtocolError as error:
        return _Finding(True, str(error), figures)
    return _Finding(False, f"leaf {leaf.index} opens to what was committed to", figures)


_CLAIMS: Final[Mapping[FraudClaim, Callable[[_Evidence], _Finding]]] = MappingProxyType(
    {
        "price-over-quote": _decide_price,
        "quote-over-offer": _decide_quote,
        "equivocation": _decide_equivocation,
        "bad-ciphertext": _decide_ciphertext,
    }
)
