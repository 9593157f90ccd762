"""Kinds of events: what each number promises about storage (NIP-01, "Kinds"), and those RelayMesh uses (RM-01)."""

from enum import IntEnum


class Kind(IntEnum):
    """The kinds RelayMesh speaks: state is addressable (3877x), conversation ephemeral (2877x), evidence regular."""

    OFFER = 38_770
    STATUS = 38_771
    MANIFEST = 38_772
    ROUTER_ANNOUNCEMENT = 38_773
    REPUTATION_ASSERTION = 38_774
    STAKE_COMMITMENT = 38_775
    QUOTE_REQUEST = 28_770
    QUOTE = 28_771
    SESSION_REQUEST = 28_772
    SESSION_ACCEPT = 28_773
    REFUSAL = 28_774
    RANKING = 28_775
    METERING = 8_770
    RECEIPT = 8_771
    FRAUD_PROOF = 8_772
    SLASH = 8_773
    SEALED_COMMITMENT = 8_774
    GUARANTEE = 8_775
    GENERIC_REPOST = 16
    RELAY_LIST = 10_002
    WALLET_INFORMATION = 13_194
    AUTHENTICATION = 22_242
    WALLET_REQUEST = 23_194
    WALLET_RESPONSE = 23_195
    WALLET_NOTIFICATION = 23_197
    TRUSTED_ASSERTION = 30_382


def is_replaceable(kind: int) -> bool:
    """Whether relays keep only the latest event of this kind from each author."""
    return 10_000 <= kind < 20_000 or kind in (0, 3)


def is_ephemeral(kind: int) -> bool:
    """Whether relays pass events of this kind on without storing them."""
    return 20_000 <= kind < 30_000


def is_addressable(kind: int) -> bool:
    """Whether relays keep only the latest event of this kind for each author and `d` tag."""
    return 30_000 <= kind < 40_000


def is_regular(kind: int) -> bool:
    """Whether relays store every event of this kind: all that no other range claims."""
    return not (is_replaceable(kind) or is_ephemeral(kind) or is_addressable(kind))
