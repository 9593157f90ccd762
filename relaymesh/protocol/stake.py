"""The stake commitment (kind 38775): what a key puts at stake for its word, until when, and what backs it (RM-05).

Units are abstract. What nobody can check counts nothing; what is checked decays to nothing by its end.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from relaymesh.errors import RemoteProtocolError
from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.tags import read_expiration
from relaymesh.protocol.codec import TOPIC, read_state_label
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.fields import LightningNodeId, Quantity, Sequence, UnixSeconds, Version
from relaymesh.units import Timestamp

STAKE_LABEL: Final = "stake"
MAXIMUM_STAKE_SECONDS: Final = 366 * 86_400
"""No commitment stands longer than a leap year: whoever means it renews it."""


class LightningBacking(WireValue):
    """A Lightning node's signature for a stake.

    Args:
        type: What kind of backing this is; version 1 knows one.
        ln_pubkey: The Lightning node that signed.
        signature: Its signature over the stake's text, in zbase32, as `signmessage` makes it.
    """

    type: Literal["lightning"]
    ln_pubkey: LightningNodeId
    signature: Annotated[str, Field(pattern=r"^[13456789abcdefghijkmnopqrstuwxyz]{104}$")]


class StakeCommitment(WireValue):
    """What a 38775 says; its author is who loses by a slash.

    Args:
        seq: Grows with every change; a reader refuses a lower one.
        units: How much is at stake when it is issued.
        issued_at: From when it decays (Unix seconds).
        valid_until: When nothing is left of it (Unix seconds).
        backing: What stands behind it; None for nothing.
    """

    v: Version = 1
    seq: Sequence
    units: Quantity
    issued_at: UnixSeconds
    valid_until: UnixSeconds
    backing: LightningBacking | None = None

    def text(self, author: PublicKey) -> str:
        """What a Lightning node signs to back it (RM-05, "Stake")."""
        return f"RelayMesh stake of {author}: {self.units} units, {self.issued_at} to {self.valid_until}"


@dataclass(frozen=True, slots=True)
class SignedStake:
    """A stake commitment and the verified event it came in."""

    event: VerifiedEvent
    stake: StakeCommitment

    @property
    def author(self) -> PublicKey:
        """Whose stake it is."""
        return self.event.public_key


def build_stake(stake: StakeCommitment, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The 38775 that publishes this commitment; it expires when it ends."""
    tags = (
        ("t", TOPIC),
        ("d", STAKE_LABEL),
        ("expiration", str(stake.valid_until)),
        ("alt", "RelayMesh stake commitment"),
    )
    return UnsignedEvent(author, created_at, Kind.STAKE_COMMITMENT, tags, encode_content(stake.to_fields()))


def read_stake(event: VerifiedEvent) -> SignedStake:
    """Read a 38775; RemoteProtocolError if it is not a valid stake commitment."""
    label = read_state_label(event, Kind.STAKE_COMMITMENT)
    stake = StakeCommitment.from_text(event.content)
    if label != STAKE_LABEL or read_expiration(event) != stake.valid_until:
        raise RemoteProtocolError(f"a stake must carry d={STAKE_LABEL} and an expiration that is its valid_until")
    if not 0 < stake.valid_until - stake.issued_at <= MAXIMUM_STAKE_SECONDS:
        raise RemoteProtocolError(f"a stake must end after it is issued, within {MAXIMUM_STAKE_SECONDS} seconds")
    if stake.issued_at > event.created_at:
        raise RemoteProtocolError("a stake must not be issued after it was signed")
    return SignedStake(event, stake)
