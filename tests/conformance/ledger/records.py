"""Records to fill a ledger with: complete, distinct by their number, the same on every run."""

from dataclasses import replace

from relaymesh.machines.records import (
    EvidenceRecord,
    JobRecord,
    JobState,
    PaymentRecord,
    SealedRecord,
    Side,
    TrancheRecord,
    TrancheState,
)
from relaymesh.nostr.event import EventId, PublicKey, UnsignedEvent
from relaymesh.nostr.keys import KeyPair
from relaymesh.nostr.kinds import Kind
from relaymesh.units import AmountMsat, Timestamp

NODE = KeyPair(b"\x11" * 32)
CLIENT = PublicKey("c1" * 32)
OTHER_CLIENT = PublicKey("c2" * 32)
PREIMAGE = bytes(range(32))
BODY = '{"messages":[{"role":"user","content":"Where is the secret garden?"}]}'
PLAINTEXT = '{"v":1,"salt":"the salt of a quote"}'


def job_id(number: int) -> str:
    """32 bytes in hex that begin with the number."""
    return f"{number:08x}" + "ab" * 28


def make_job(number: int = 1, *, side: Side = "client", client: PublicKey = CLIENT, **changes: object) -> JobRecord:
    """An open job, one second newer than the one before it."""
    record = JobRecord(
        side=side,
        client=client,
        job_id=job_id(number),
        node=NODE.public_key,
        session_id="5e" * 32,
        quote_id=EventId("90" * 32),
        model="llama-3.1-8b-instruct",
        job_type="chat",
        client_nonce="0c" * 32,
        maximum_msat=AmountMsat(5_000),
        state=JobState.OPEN,
        created_at_ms=1_790_000_000_000 + 1_000 * number,
        body=BODY,
    )
    return replace(record, **changes)  # type: ignore[arg-type]  # field names are the caller's


def make_tranche(
    number: int = 1, tranche: int = 0, *, side: Side = "client", client: PublicKey = CLIENT, **changes: object
) -> TrancheRecord:
    """An invoiced tranche with a payment hash of its own."""
    record = TrancheRecord(
        side=side,
        client=client,
        job_id=job_id(number),
        tranche=tranche,
        state=TrancheState.INVOICED,
        order="prepay",
        units=100,
        amount_msat=AmountMsat(1_000),
        invoice_label=f"relaymesh/{number}/{tranche}" if side == "node" else "",
        bolt11=f"lnbcrt{number}x{tranche}",
        payment_hash=f"{number:032x}{tranche:032x}",
    )
    return replace(record, **changes)  # type: ignore[arg-type]  # field names are the caller's


def make_evidence(
    number: int = 1, *, side: Side = "client", content: str = "{}", plaintext: str = ""
) -> EvidenceRecord:
    """A signed event about a job; the same number and content give the same event."""
    tags = (("t", "relaymesh"), ("p", CLIENT), ("job", job_id(number)))
    unsigned = UnsignedEvent(NODE.public_key, Timestamp(1_790_000_000), Kind.METERING, tags, content)
    return EvidenceRecord(side, job_id(number), NODE.sign(unsigned), plaintext)


def make_sealed(
    number: int = 1,
    tranche: int = 0,
    *,
    side: Side = "client",
    client: PublicKey = CLIENT,
    content: str = "{}",
    leaves: tuple[bytes, ...] = (b"the first leaf", b"the second"),
) -> SealedRecord:
    """What a tranche was delivered as; the same numbers and content give the same commitment."""
    tags = (("t", "relaymesh"), ("p", client), ("job", job_id(number)), ("tranche", str(tranche)))
    unsigned = UnsignedEvent(NODE.public_key, Timestamp(1_790_000_000), Kind.SEALED_COMMITMENT, tags, content)
    return SealedRecord(side, client, job_id(number), tranche, NODE.sign(unsigned), leaves)


def make_payment(number: int = 1, **changes: object) -> PaymentRecord:
    """A payment beside jobs, that is on its way; no preimage."""
    record = PaymentRecord(
        payment_hash=f"{number:064x}",
        state=TrancheState.PAYING,
        payee="02" + "0e" * 32,
        description="a ranking",
        bolt11=f"lnbcrt{number}p",
        amount_msat=AmountMsat(2_000),
        opened_at_ms=1_790_000_000_000 + number,
    )
    return replace(record, **changes)  # type: ignore[arg-type]  # field names are the caller's
