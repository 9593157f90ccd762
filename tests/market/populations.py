"""Populations for the tests of reputation: receipts of many keys about one node, told with token signatures."""

from dataclasses import dataclass, replace
from typing import Any

from relaymesh.market.outcomes import JobKey, Outcome, Result
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.assertion import Assertion, Observations, SignedAssertion, build_assertion_event, read_assertion
from relaymesh.protocol.evidence import SignedReceipt, build_metering, build_receipt, read_metering, read_receipt
from relaymesh.protocol.metering import JobStatus, MeteredTranche, MeteredUnits, MeteringRecord
from relaymesh.protocol.receipt import Receipt
from relaymesh.units import AmountMsat, Timestamp
from tests.market.builders import NOW, sign

SELLER = PublicKey("5e" * 32)
FRIEND, OTHER_FRIEND = PublicKey("f1" * 32), PublicKey("f2" * 32)


def client(number: int) -> PublicKey:
    """The session key of client `number`."""
    return PublicKey("c0" + number.to_bytes(31).hex())


def as_verified(event: Any) -> Any:
    """Token signatures: an event is taken as its author's."""
    return sign(event)


@dataclass(frozen=True)
class Job:
    """One job as both sides sign for it."""

    number: int = 0
    node: PublicKey = SELLER
    at: int = NOW
    outcome: JobStatus = "ok"
    status: JobStatus = "ok"
    error: str | None = "stop"
    job_id: str | None = None
    first_output_ms: int | None = 300
    total_ms: int = 2_300
    output_bytes: int = 2_000
    paid_msat: int = 1_000

    def metering(self) -> MeteringRecord:
        """What the node says."""
        return MeteringRecord(
            job=self.job_id or self.number.to_bytes(32).hex(),
            session="5e" * 32,
            quote_id=EventId("0a" * 32),
            model="tiny",
            job_type="chat",
            status=self.status,
            error=self.error,
            started_at_ms=self.at * 1_000,
            first_output_at_ms=None,
            finished_at_ms=self.at * 1_000 + self.total_ms,
            units=self.units(),
            tokenizer=None,
            prompt_commitment="c0" * 32,
            output_commitment="c1" * 32,
            max_msat=AmountMsat(10_000),
            charged_msat=AmountMsat(self.paid_msat),
            tranches=(
                MeteredTranche(
                    payment_commitment="ca" * 32, msat=AmountMsat(self.paid_msat), units_paid=1, units_used=1
                ),
            ),
        )

    def units(self) -> MeteredUnits:
        """What was counted."""
        return MeteredUnits(
            input_tokens=0, output_tokens=0, input_bytes=10, output_bytes=self.output_bytes, seconds=3, jobs=1
        )

    def receipt(self) -> SignedReceipt:
        """The buyer's receipt around the node's record."""
        buyer = client(self.number)
        made = build_metering(self.metering(), author=self.node, client=buyer, created_at=Timestamp(self.at))
        metering = read_metering(sign(made))
        said = Receipt(
            metering=metering.event.to_json(),
            outcome=self.outcome,
            units=self.units(),
            first_output_in_ms=self.first_output_ms,
            total_in_ms=self.total_ms,
            paid_msat=AmountMsat(self.paid_msat),
        )
        return read_receipt(sign(build_receipt(said, metering, Timestamp(self.at))), as_verified)


GOOD = Job()
BAD = Job(outcome="failed", status="failed", error="runner-failed: it broke", first_output_ms=None, output_bytes=0)


def receipts(kind: Job, count: int, *, first: int = 0, **changes: Any) -> list[SignedReceipt]:
    """So many receipts of this kind, each by a key of its own about a job of its own."""
    return [replace(kind, number=number, **changes).receipt() for number in range(first, first + count)]


def own(result: Result, number: int = 0, at: int = NOW, **changes: Any) -> Outcome:
    """An outcome of the reader's own."""
    return Outcome(JobKey(b"own%13d" % number), Timestamp(at), result, model="tiny", **changes)


def assertion(
    author: PublicKey, cited: list[SignedReceipt], *, subject: PublicKey = SELLER, seq: int = 1, **changes: Any
) -> SignedAssertion:
    """The assertion with which `author` stands by these receipts."""
    said = Assertion(
        seq=seq,
        valid_until=Timestamp(NOW + 10**7),
        rank=50,
        observed=Observations(),
        receipts=tuple(dict.fromkeys(receipt.event.id for receipt in cited)),
    )
    changed = said.model_copy(update=changes)
    return read_assertion(sign(build_assertion_event(changed, subject, author, Timestamp(NOW))))
