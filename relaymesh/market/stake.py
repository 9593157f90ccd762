"""Stake as far as it counts: decayed, backed, capped, and less what proven fraud has taken (RM-05, "Stake").

Integers only. The result depends on what is known, never on the order in which it came.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from relaymesh.market.fraud import Verdict
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.slash import SLASH_MILLI
from relaymesh.protocol.stake import SignedStake, StakeCommitment
from relaymesh.units import Timestamp

MAXIMUM_COUNTED_UNITS: Final = 1_000_000
"""No stake counts for more, whatever stands behind it."""

UNSEEN_CAPACITY_UNITS: Final = 1_000
"""What a Lightning node's signature backs, where the reader cannot see its channels: a key by itself costs nothing."""

WHOLE_MILLI: Final = 1_000

BackingState = Literal["none", "forged", "checked"]
MessageVerifier = Callable[[str, str], str | None]
"""From a text and a signature in zbase32 to the Lightning node that signed it, or None."""

Capacity = Callable[[str], int | None]
"""From a Lightning node to the units that its public channels can back; None where the reader cannot see."""


@dataclass(frozen=True, slots=True)
class CheckedStake:
    """A stake whose backing was looked at, once: checking a signature is dear, weighing is not."""

    signed: SignedStake
    backing: BackingState


@dataclass(frozen=True, slots=True)
class StakeWeight:
    """What one key's stake comes to.

    Args:
        units: What counts: 0 … 1,000,000.
        stated_units: What its author put at stake.
        decayed_units: What time has left of that.
        backing: `checked`; `none` and `forged` are unbacked, and count nothing.
        slashed_units: What proven fraud has taken.
    """

    units: int
    stated_units: int
    decayed_units: int
    backing: BackingState
    slashed_units: int = 0


def decayed_units(stake: StakeCommitment, now: Timestamp) -> int:
    """What time has left: all of it when it is issued, in a straight line down to nothing at its end, rounded down."""
    lifetime = stake.valid_until - stake.issued_at
    left = min(max(stake.valid_until - now, 0), lifetime)
    return stake.units * left // lifetime


def check_stake(signed: SignedStake, recover: MessageVerifier) -> CheckedStake:
    """Look whether the Lightning node that is named has signed for exactly this stake of exactly this key."""
    backing = signed.stake.backing
    if backing is None:
        return CheckedStake(signed, "none")
    signer = recover(signed.stake.text(signed.author), backing.signature)
    return CheckedStake(signed, "checked" if signer == backing.ln_pubkey else "forged")


def slash_units(units: int, proven: Iterable[Verdict]) -> int:
    """What is left of a stake after these frauds, each of which takes its share of the rest, rounded up.

    Verdicts that prove nothing take nothing; each key counts once, and they count in the order of their keys.
    """
    for _, claim in sorted({(verdict.key, verdict.claim) for verdict in proven if verdict.is_proven}):
        units -= -(-units * SLASH_MILLI[claim] // WHOLE_MILLI)
    return units


def weigh_stakes(
    stakes: Iterable[CheckedStake],
    proven: Iterable[Verdict],
    now: Timestamp,
    *,
    capacity: Capacity = lambda _: None,
) -> Mapping[PublicKey, StakeWeight]:
    """What every stake comes to (RM-05, "Stake").

    A Lightning node that signs for several keys backs them with the same channels: the one issued first is covered
    first, of equal ones that of the lower key.

    Args:
        stakes: The current commitments; of two by one key the one with the higher `seq` counts.
        proven: Verdicts about anybody, in any order and any number of times.
        capacity: What the reader sees of a Lightning node's channels, in units.
    """
    current: dict[PublicKey, CheckedStake] = {}
    for each in stakes:
        known = current.get(each.signed.author)
        if known is None or _rank(each) > _rank(known):
            current[each.signed.author] = each
    frauds: dict[PublicKey, list[Verdict]] = {}
    for verdict in proven:
        frauds.setdefault(verdict.accused, []).append(verdict)
    room: dict[str, int] = {}
    weights: dict[PublicKey, StakeWeight] = {}
    for each in sorted(current.values(), key=lambda each: (each.signed.stake.issued_at, each.signed.author)):
        stake, author = each.signed.stake, each.signed.author
        left = decayed_units(stake, now)
        backed = min(_take(room, each, left, capacity), MAXIMUM_COUNTED_UNITS)
        units = slash_units(backed, frauds.get(author, ()))
        weights[author] = StakeWeight(units, stake.units, left, each.backing, backed - units)
    return weights


def _take(room: dict[str, int], stake: CheckedStake, wanted: int, capacity: Capacity) -> int:
    """How much of what is wanted its backing covers, beside what it covers already."""
    backing = stake.signed.stake.backing
    if stake.backing != "checked" or backing is None:
        return 0
    lightning_node = backing.ln_pubkey
    if lightning_node not in room:
        seen = capacity(lightning_node)
        room[lightning_node] = UNSEEN_CAPACITY_UNITS if seen is None else max(seen, 0)
    taken = min(wanted, room[lightning_node])
    room[lightning_node] -= taken
    return taken


def _rank(stake: CheckedStake) -> tuple[int, int, str]:
    """Which of two commitments of one key counts: by `seq`, then the later event, then the lower id."""
    event = stake.signed.event
    return stake.signed.stake.seq, event.created_at, "".join(f"{15 - int(digit, 16):x}" for digit in event.id)
