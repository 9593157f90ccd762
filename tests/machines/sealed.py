"""A sealed tranche between two sides joined by nothing: what a node seals, and the client that takes it."""

from dataclasses import replace

from relaymesh.machines.sealed_purchase import SealedPurchase
from relaymesh.machines.sealed_tranche import SealedTranche, bound_units, seal_tranche, tranche_secret
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.payment import DecodedInvoice
from relaymesh.protocol.sealed_commitment import SealedCommitment, build_sealed_commitment
from relaymesh.protocol.session_messages import CommitmentMessage, JobId, SealedMessage, SessionMessage
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import CLIENT, LIGHTNING_NODE_ID, NODE, START_MS, contract, moment, price_row

JOB_ID = JobId("66" * 32)
CONTRACT = contract()
BY_TOKEN = contract(price_row("token"))
SEALING_SECRET = b"\x09" * 32
PIECES = ("Sold sealed, ", "opened ", "by the préimage 🤝.")


def seal(
    *pieces: str,
    tranche: int = 0,
    units: int | None = None,
    amount_msat: int = 90,
    agreed: SessionContract = CONTRACT,
    job_id: JobId = JOB_ID,
) -> SealedTranche:
    """What the node seals; `PIECES` if nothing else is said."""
    pieces = pieces or PIECES
    text_bytes = len("".join(pieces).encode())
    return seal_tranche(
        agreed,
        job_id,
        tranche,
        pieces,
        units=bound_units("byte", 0, text_bytes) if units is None else units,
        amount_msat=AmountMsat(amount_msat),
        secret=tranche_secret(SEALING_SECRET, tranche),
        signer=NODE,
        now=moment(),
    )


def purchase(tranche: int = 0, agreed: SessionContract = CONTRACT) -> SealedPurchase:
    """The client that expects it."""
    return SealedPurchase(agreed, JOB_ID, tranche, verify)


def deliver(sealed: SealedTranche, to: SealedPurchase, *, skip: int | None = None) -> None:
    """Give the client what the node sends, in order, without the message at `skip`."""
    for place, message in enumerate(sealed.messages()):
        if place != skip:
            give(message, to)


def give(message: SessionMessage, to: SealedPurchase) -> None:
    """Give the client one message of those that carry a sealed tranche."""
    match message:
        case SealedMessage():
            to.take_leaf(message.leaf, message.ciphertext)
        case CommitmentMessage(event):
            to.take_commitment(event, moment())
        case _:
            raise AssertionError(message)


def invoice_for(sealed: SealedTranche, amount_msat: int = 90, **changes: object) -> DecodedInvoice:
    """The invoice that a node's wallet issues for it."""
    decoded = DecodedInvoice(
        bolt11="lnbcrt1sealed",
        payment_hash=sealed.payment_hash,
        amount_msat=AmountMsat(amount_msat),
        payee=LIGHTNING_NODE_ID,
        network="bcrt",
        created_at=Timestamp(START_MS // 1_000),
        expires_at=Timestamp(START_MS // 1_000 + 60),
        description="RelayMesh job",
    )
    return replace(decoded, **changes)  # type: ignore[arg-type]  # names are the dataclass's own


def commit(
    said: SealedCommitment, *, signer: KeyPair = NODE, client: KeyPair = CLIENT, at_ms: int = 0
) -> VerifiedEvent:
    """The 8774 that says this, whether it is true or not."""
    unsigned = build_sealed_commitment(
        said, author=signer.public_key, client=client.public_key, created_at=moment(at_ms).timestamp
    )
    return signer.sign(unsigned)
