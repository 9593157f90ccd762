"""Stakes and proven fraud as one reader holds them, and what every key's stake comes to now (RM-05, "Stake").

A backing and a proof are looked at once, when they come; weighing is cheap enough to be done again as time passes.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from relaymesh.market.fraud import Verdict
from relaymesh.market.stake import CheckedStake, MessageVerifier, check_stake, weigh_stakes
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.stake import SignedStake
from relaymesh.units import Timestamp

MAXIMUM_STAKES: Final = 100_000
MAXIMUM_FRAUDS: Final = 10_000


class StakeBook:
    """What a reader knows of stakes; both its memories are bounded, and the oldest entry gives way.

    Args:
        recover: From a text and a signature in zbase32 to the Lightning node that signed it, or None.
    """

    def __init__(self, recover: MessageVerifier) -> None:
        self._recover = recover
        self._stakes: OrderedDict[PublicKey, CheckedStake] = OrderedDict()
        self._proven: OrderedDict[str, Verdict] = OrderedDict()
        self._units: Mapping[PublicKey, int] = {}

    def place(self, signed: SignedStake) -> None:
        """Hold a key's stake, instead of the one it had; one that is not newer changes nothing."""
        known = self._stakes.get(signed.author)
        if known is not None and known.signed.stake.seq >= signed.stake.seq:
            return
        self._stakes[signed.author] = check_stake(signed, self._recover)
        self._stakes.move_to_end(signed.author)
        if len(self._stakes) > MAXIMUM_STAKES:
            self._stakes.popitem(last=False)

    def convict(self, verdict: Verdict) -> bool:
        """Hold a verdict; whether it proves a fraud that was not known: the same evidence counts once."""
        if not verdict.is_proven or verdict.key in self._proven:
            return False
        self._proven[verdict.key] = verdict
        if len(self._proven) > MAXIMUM_FRAUDS:
            self._proven.popitem(last=False)
        return True

    def units(self, key: PublicKey) -> int:
        """What a key's stake came to when all were weighed last; 0 where there is none."""
        return self._units.get(key, 0)

    def weigh(self, now: Timestamp) -> tuple[PublicKey, ...]:
        """Weigh all stakes as of now; returns the keys for which something else comes out than before."""
        before = self._units
        weights = weigh_stakes(self._stakes.values(), self._proven.values(), now)
        self._units = {author: weight.units for author, weight in weights.items() if weight.units}
        return tuple(sorted(key for key in before.keys() | self._units.keys() if before.get(key, 0) != self.units(key)))
