"""What fraud proofs are made of: one node's offers, quotes, records and leaves, honest or not, really signed."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from relaymesh.nostr.event import EventId, VerifiedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.codec import build_offer, seal_message
from relaymesh.protocol.evidence import build_metering
from relaymesh.protocol.evidence_files import DisclosedQuote
from relaymesh.protocol.fraud_proof import DisclosedLeaf, Disclosure, FraudClaim, FraudProof, accuse
from relaymesh.protocol.metering import MeteredUnits
from relaymesh.protocol.offer import Offer, PriceRow, SettlementTerm
from relaymesh.protocol.quote import Quote, QuotedTerm
from relaymesh.protocol.sealed_commitment import SealedCommitment, build_sealed_commitment, seal_leaf
from relaymesh.protocol.sealed_leaves import count_text
from relaymesh.units import AmountMsat, Timestamp
from tests.market import evidence_builders
from tests.market.evidence_builders import CLIENT, NODE, ROW, STRANGER, make_tranche

NOW: Final = Timestamp(1_790_000_000)
SECRET: Final = bytes(range(32))
QUOTE_ID, JOB = "0a" * 32, "0b" * 32
TEXTS: Final = (b"Sold sealed, \xffopened", b" by the preimage.\xff")


def offer(
    *rows: PriceRow,
    author: KeyPair = NODE,
    label: str = "main",
    seq: int = NOW,
    valid_until: int = NOW + 3_600,
    at: int = NOW,
    expiration: int | None = None,
    pow_bits: int = 0,
) -> VerifiedEvent:
    """A published offer of these rows, of `ROW` if there are none."""
    said = Offer(
        seq=seq,
        valid_until=Timestamp(valid_until),
        ln_pubkey="02" + "ab" * 32,
        pow_bits=pow_bits,
        settlement=(SettlementTerm(order="prepay"),),
        rows=rows or (ROW,),
    )
    unsigned = build_offer(said, label, author.public_key, Timestamp(at))
    if expiration is not None:
        unsigned = _tagged(unsigned, ("expiration", str(expiration)))
    return author.sign(unsigned)


def _tagged(unsigned: Any, tag: tuple[str, str]) -> Any:
    return type(unsigned)(
        unsigned.public_key, unsigned.created_at, unsigned.kind, (*unsigned.tags, tag), unsigned.content
    )


def quote(
    offered: VerifiedEvent,
    row: PriceRow = ROW,
    *,
    author: KeyPair = NODE,
    at: int = NOW + 10,
    max_msat: int | None = 5_000,
    entropy: bytes = bytes(range(64)),
) -> Disclosure:
    """A quote of this row on this offer, with its plaintext."""
    said = Quote(
        request_id=EventId("aa" * 32),
        offer_id=offered.id,
        offer_seq=1,
        row=row,
        estimated_msat=AmountMsat(500),
        max_msat=None if max_msat is None else AmountMsat(max_msat),
        settlement=(
            QuotedTerm(order="prepay", exposure_buyer_msat=AmountMsat(1_000), exposure_node_msat=AmountMsat(0)),
        ),
        valid_until_ms=(at + 60) * 1_000,
        eta_in_ms=500,
    )
    unsigned = seal_message(
        said,
        author=author.public_key,
        signer=author,
        recipient=CLIENT.public_key,
        answers=said.request_id,
        created_at=Timestamp(at),
        entropy=entropy,
    )
    return Disclosure(author.sign(unsigned), CLIENT.open(unsigned.content, author.public_key))


def record(
    quoted: Disclosure, *, author: KeyPair = NODE, client: KeyPair = CLIENT, at: int = NOW + 20, **changes: Any
) -> VerifiedEvent:
    """The record of an honest job of 340 msat under `ROW`, with changes."""
    said = evidence_builders.make_record(DisclosedQuote(quoted.event, quoted.plaintext or ""), **changes)
    unsigned = build_metering(said, author=author.public_key, client=client.public_key, created_at=Timestamp(at))
    return author.sign(unsigned)


def units(**changes: int) -> MeteredUnits:
    """Units of a record, 0 but for these."""
    names = ("input_tokens", "output_tokens", "input_bytes", "output_bytes", "seconds", "jobs")
    return MeteredUnits(**{**dict.fromkeys(names, 0), **changes})


def leaves(
    texts: tuple[bytes, ...] = TEXTS, *, job: str = JOB, tranche: int = 1, quote_id: str = QUOTE_ID
) -> tuple[bytes, ...]:
    """The leaves of a tranche as an honest node seals them."""
    return tuple(seal_leaf(SECRET, (quote_id, job), tranche, place, text) for place, text in enumerate(texts))


def commit(
    ciphertexts: tuple[bytes, ...],
    *,
    author: KeyPair = NODE,
    client: KeyPair = CLIENT,
    at: int = NOW,
    texts: tuple[bytes, ...] = TEXTS,
    **changes: Any,
) -> VerifiedEvent:
    """The 8774 for these leaves, of these texts as it says, whether they open to them or not."""
    said: dict[str, Any] = {
        "quote_id": QUOTE_ID,
        "job": JOB,
        "tranche": 1,
        "payment_hash": hashlib.sha256(SECRET).hexdigest(),
        "leaf_sha256": tuple(hashlib.sha256(each).hexdigest() for each in ciphertexts),
        "leaf_bytes": tuple(count_text(each) for each in texts[: len(ciphertexts)]),
        "units": 36,
        "msat": AmountMsat(720),
    }
    commitment = SealedCommitment.model_validate({**said, **changes})
    return author.sign(
        build_sealed_commitment(
            commitment, author=author.public_key, client=client.public_key, created_at=Timestamp(at)
        )
    )


def accuse_of_leaf(commitment: VerifiedEvent, index: int, ciphertext: bytes, secret: bytes = SECRET) -> FraudProof:
    """The proof that this leaf is bad, whether it is or not."""
    leaf = DisclosedLeaf(index=index, ciphertext=base64.b64encode(ciphertext).decode(), preimage=secret.hex())
    return accuse("bad-ciphertext", Disclosure(commitment), leaf=leaf)


@dataclass(frozen=True, slots=True)
class FraudCase:
    """One proof and what it comes to."""

    what: str
    proof: FraudProof
    is_proven: bool


def _price_cases() -> list[FraudCase]:
    offered = offer()
    quoted = quote(offered)
    other = quote(offered, at=NOW + 11)
    tokens = quote(offered, ROW.model_copy(update={"unit": "token", "minimum_msat": AmountMsat(100)}))
    by_second = quote(offered, ROW.model_copy(update={"unit": "second", "input_msat": AmountMsat(0)}))
    crashed: dict[str, Any] = {
        "first_output_at_ms": None,
        "status": "failed",
        "tranches": (make_tranche(340, 1_000, 0),),
    }
    claims = (
        ("charged one millisatoshi above the price", quoted, record(quoted, charged_msat=341), True),
        ("charged to the millisatoshi what it costs", quoted, record(quoted), False),
        ("charged within the price, above the job's limit", quoted, record(quoted, max_msat=339), True),
        ("charged as much as the job's limit", quoted, record(quoted, max_msat=340), False),
        (
            "paid for more than was delivered: a tranche has the price of its invoice",
            quoted,
            record(quoted, units=units(input_bytes=1_000, output_bytes=3, jobs=1)),
            False,
        ),
        (
            "delivered more than was paid for",
            quoted,
            record(quoted, tranches=(make_tranche(340, 1, 1),)),
            False,
        ),
        (
            "charged for units that no count may have",
            quote(offered, ROW.model_copy(update={"per": 1_000_000, "output_msat": AmountMsat(1)})),
            None,
            True,
        ),
        ("a record that cites another quote", other, record(quoted, charged_msat=341), False),
        ("another plaintext", Disclosure(quoted.event, other.plaintext), record(quoted, charged_msat=341), False),
        ("no plaintext", Disclosure(quoted.event), record(quoted, charged_msat=341), False),
        ("a record of somebody else", quoted, record(quoted, author=STRANGER, charged_msat=341), False),
        ("a quote of somebody else", quote(offered, author=STRANGER), None, False),
        ("what a crash leaves of a job in tokens", tokens, record(tokens, units=units(), **crashed), False),
        (
            "a job in tokens that counts its input, and none of its output",
            tokens,
            record(tokens, units=units(input_tokens=1), **crashed),
            True,
        ),
        (
            "a job in tokens that counts output, and no input",
            tokens,
            record(tokens, units=units(output_tokens=1), tranches=(make_tranche(340, 1, 1),)),
            True,
        ),
        ("what a crash leaves of a job in bytes", quoted, record(quoted, units=units(), **crashed), True),
        (
            "more seconds than passed are not this claim",
            by_second,
            record(by_second, units=units(seconds=9_000), charged_msat=340),
            False,
        ),
    )
    found = []
    for what, disclosed, metering, is_proven in claims:
        event = metering
        if event is None and disclosed.event.public_key == NODE.public_key:
            many = (make_tranche(2_000, 10**9, 0), make_tranche(3_000, 10**9, 0))
            event = record(disclosed, charged_msat=1_001, units=units(), tranches=many)
        elif event is None:
            event = record(disclosed, charged_msat=341)
        proof = accuse("price-over-quote", disclosed, Disclosure(event))
        proof = proof.model_copy(update={"accused": NODE.public_key})
        found.append(FraudCase(what, proof, is_proven))
    return found


def _offer_cases() -> list[FraudCase]:
    def row(**changes: Any) -> PriceRow:
        return ROW.model_copy(update=changes)

    def case(what: str, is_proven: bool, quoted: PriceRow, *offered: PriceRow, at: int = NOW + 10, **more: Any) -> None:
        event = offer(*offered, **more)
        proof = accuse("quote-over-offer", quote(event, quoted, at=at), Disclosure(event))
        found.append(FraudCase(what, proof, is_proven))

    found: list[FraudCase] = []
    case("the row as it was offered", False, ROW)
    case("a higher rate for input", True, row(input_msat=41))
    case("a higher rate for output", True, row(output_msat=121))
    case("a higher minimum", True, row(minimum_msat=1))
    case("the same rates, told per another number", False, row(per=500, input_msat=20, output_msat=60))
    case("a higher rate, told per another number", True, row(per=3, input_msat=0, output_msat=1))
    case("a lower price", False, row(input_msat=1, output_msat=1))
    case("another model", True, row(model="another"))
    case("another job type", True, row(job_types=("embedding",)))
    case("another unit", True, row(unit="token"))
    case("another identity", True, row(identity=ROW.identity.model_copy(update={"quantization": "q2_k"})))
    case("another limit, which is no price", False, row(output_limit=1, capabilities=()))
    case("the dearer of two rows for one model", False, row(output_msat=200), ROW, row(output_msat=200))
    case("above both rows, below their sum", True, row(input_msat=50, output_msat=200), row(input_msat=50), ROW)
    mixed = (row(input_msat=50, output_msat=100), row(input_msat=10, output_msat=200))
    case("each rate within some row, both within none", True, row(input_msat=50, output_msat=200), *mixed)
    case("one of the job types", False, ROW, row(job_types=("chat", "completion")))
    case("after the offer ended", False, row(input_msat=41), at=NOW + 3_600)
    case("in the offer's last second", True, row(input_msat=41), at=NOW + 3_599)
    case("after the offer expired", False, row(input_msat=41), expiration=NOW + 10)
    one, other = offer(), offer(row(input_msat=1), at=NOW + 1, seq=NOW + 1)
    mismatched = accuse("quote-over-offer", quote(one), Disclosure(other))
    found.append(FraudCase("another offer than the quote cites", mismatched, False))
    theirs = offer(row(input_msat=1), author=STRANGER)
    mismatched = accuse("quote-over-offer", quote(theirs), Disclosure(theirs))
    found.append(FraudCase("an offer of somebody else", mismatched, False))
    return found


def _equivocation_cases() -> list[FraudCase]:
    def case(what: str, is_proven: bool, *events: VerifiedEvent) -> None:
        found.append(FraudCase(what, accuse("equivocation", *map(Disclosure, events)), is_proven))

    found: list[FraudCase] = []
    one, dearer = offer(), ROW.model_copy(update={"output_msat": AmountMsat(121)})
    case("two prices under one seq", True, one, offer(dearer))
    case("two prices under one seq, the later first", True, offer(dearer, at=NOW + 5), one)
    case("a republication", False, one, offer(at=NOW + 600))
    case("a renewal", False, one, offer(dearer, seq=NOW + 1))
    case("two labels", False, one, offer(dearer, label="main/2"))
    case("two authors", False, one, offer(dearer, author=STRANGER))
    case("one event twice", False, one, one)
    case("one event alone", False, one)
    quoted = quote(one)
    case("two records of one job", True, record(quoted), record(quoted, charged_msat=341))
    case("one record, signed twice", False, record(quoted), record(quoted, at=NOW + 30))
    case("records of two jobs", False, record(quoted), record(quoted, job="0c" * 32))
    case("one job id, brought by two clients", False, record(quoted), record(quoted, client=STRANGER, max_msat=1_000))
    case("one job id, brought to two sessions", False, record(quoted), record(quoted, session="5f" * 32))
    case("an offer and a record", False, one, record(quoted))
    two_quotes = accuse("equivocation", quoted, quote(one, dearer))
    found.append(FraudCase("two quotes, which may differ", two_quotes, False))
    return found


def _leaf_cases() -> list[FraudCase]:
    good, bad = leaves(), (leaves()[0], b"\x00" * 40)
    honest, cheating = commit(good), commit(bad)
    elsewhere = commit(leaves(job="0c" * 32))  # and says that it is for `JOB`
    found = [
        FraudCase("a leaf that does not open", accuse_of_leaf(cheating, 1, bad[1]), True),
        FraudCase("a leaf that is too short to open", accuse_of_leaf(commit((b"",)), 0, b""), True),
        FraudCase("a leaf sealed for another job", accuse_of_leaf(elsewhere, 0, leaves(job="0c" * 32)[0]), True),
        FraudCase("the leaf beside it, which opens", accuse_of_leaf(cheating, 0, bad[0]), False),
        FraudCase("a leaf that opens", accuse_of_leaf(honest, 1, good[1]), False),
        FraudCase("another preimage", accuse_of_leaf(honest, 1, good[1], bytes(32)), False),
        FraudCase("another ciphertext", accuse_of_leaf(honest, 1, b"\x00" * 40), False),
        FraudCase("the right leaf at the wrong place", accuse_of_leaf(honest, 0, good[1]), False),
        FraudCase("a place that is none", accuse_of_leaf(honest, 2, good[1]), False),
        FraudCase("no leaf", accuse("bad-ciphertext", Disclosure(honest)), False),
    ]
    texts: tuple[tuple[str, tuple[bytes, ...], tuple[int, ...], bool], ...] = (
        ("a leaf with less text than was stated", (b"one\xff", b"two\xff"), (3, 4), True),
        ("a leaf with more text than was stated", (b"one\xff", b"two\xff"), (3, 2), True),
        ("a leaf whose text ends pieces only", (b"one\xff", b"\xff\xff\xff\xff"), (3, 3), True),
        ("a leaf that is not UTF-8", (b"one\xff", b"\xc3\xff"), (3, 1), True),
        ("a leaf that is cut within a character", (b"\xc3", b"\xa9\xff"), (1, 1), True),
        ("a last leaf whose last piece does not end", (b"one\xff", b"two"), (3, 3), True),
        ("a piece that goes on in the last leaf", (b"one", b"two\xff"), (3, 3), False),
        ("pieces without text, which are none", (b"one\xff", b"\xfftwo\xff\xff"), (3, 3), False),
    )
    for what, plaintexts, stated, is_proven in texts:
        sealed = leaves(plaintexts)
        proof = accuse_of_leaf(commit(sealed, leaf_bytes=stated), 1, sealed[1])
        found.append(FraudCase(what, proof, is_proven))
    return found


def _tranche_cases() -> list[FraudCase]:
    """Commitments against the quote, the record and each other; a later tranche of 36 bytes costs 5 msat."""

    def case(what: str, is_proven: bool, claim: FraudClaim, *evidence: Disclosure) -> None:
        found.append(FraudCase(what, accuse(claim, *evidence), is_proven))

    def said(under: Disclosure | None = None, **changes: Any) -> Disclosure:
        fields = {"quote_id": (under or quoted).event.id, "msat": 5, **changes}
        return Disclosure(commit(leaves(), texts=(b"x" * 18, b"x" * 18), **fields))

    found: list[FraudCase] = []
    quoted = quote(offer())
    by_token = quote(offer(), ROW.model_copy(update={"unit": "token", "minimum_msat": AmountMsat(100)}))
    case("a tranche one millisatoshi above its price", True, "price-over-quote", quoted, said(msat=6))
    case("a tranche at its price, rounded up", False, "price-over-quote", quoted, said())
    case("a tranche of fewer bytes than it is sold as", True, "price-over-quote", quoted, said(units=50, msat=6))
    case("the first tranche, which includes the input", False, "price-over-quote", quoted, said(tranche=0, msat=6))
    case(
        "a tranche in tokens, at the price of its units",
        False,
        "price-over-quote",
        by_token,
        said(by_token, units=50, msat=6),
    )
    case("a tranche in tokens, above it", True, "price-over-quote", by_token, said(by_token, units=50, msat=7))
    case("a commitment that cites another quote", False, "price-over-quote", quoted, said(quote_id=QUOTE_ID, msat=6))
    case("a tranche without its quote's plaintext", False, "price-over-quote", Disclosure(quoted.event), said(msat=6))
    case("two commitments to one tranche", True, "equivocation", said(), said(msat=4))
    case("one tranche under two payment hashes", True, "equivocation", said(), said(payment_hash="0d" * 32))
    case("one commitment, signed twice", False, "equivocation", said(), said(at=NOW + 9))
    case("commitments to two tranches", False, "equivocation", said(), said(tranche=2))
    case("commitments to two jobs", False, "equivocation", said(), said(job="0c" * 32))
    case("commitments to two clients", False, "equivocation", said(), said(client=STRANGER, msat=4))
    case("commitments under two quotes", False, "equivocation", said(), said(quote_id=QUOTE_ID))
    recorded = Disclosure(record(quoted))  # its tranche 1 was of 120 msat
    case("a record that tells another amount", True, "equivocation", recorded, said(msat=119, units=1_000))
    case("a record that tells other units", True, "equivocation", recorded, said(msat=120, units=999))
    case("a record that tells the same", False, "equivocation", said(msat=120, units=1_000), recorded)
    case("a record without the tranche", False, "equivocation", recorded, said(tranche=2))
    case("a record of another job", False, "equivocation", recorded, said(job="0c" * 32))
    case("a record for another client", False, "equivocation", recorded, said(client=STRANGER))
    case("a record under another quote", False, "equivocation", recorded, said(quote_id=QUOTE_ID))
    return found


@cache
def cases() -> tuple[FraudCase, ...]:
    """Each claim, proven and not, with everything that decides between the two."""
    return (*_price_cases(), *_offer_cases(), *_equivocation_cases(), *_leaf_cases(), *_tranche_cases())
