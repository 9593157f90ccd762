"""The vectors of fraud and stake: proofs of each claim that hold and that do not, and what stakes come to."""

from typing import Any, Final

from relaymesh.adapters.invoices import find_node_id
from relaymesh.market.fraud import Verdict, decide
from relaymesh.market.stake import CheckedStake, check_stake, decayed_units, slash_units, weigh_stakes
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.fraud_proof import FraudClaim
from relaymesh.protocol.lightning_message import recover_signer
from relaymesh.protocol.slash import SLASH_MILLI, slash_key
from relaymesh.protocol.stake import StakeCommitment, build_stake, read_stake
from relaymesh.units import Timestamp
from tests.market import fraud_builders
from tests.nips.example_fraud import DAY, NOW, backed

_KEYS: Final = tuple(KeyPair(bytes((number,)) * 32) for number in (0x41, 0x42, 0x43, 0x44, 0x45))
_LIGHTNING: Final = (b"\x51" * 32, b"\x52" * 32)
_FRAUDS: Final[tuple[tuple[FraudClaim, str], ...]] = (
    ("price-over-quote", "aa" * 32),
    ("equivocation", "bb" * 32),
    ("bad-ciphertext", "cc" * 32),
)


def fraud_vectors() -> list[dict[str, Any]]:
    """Every proof as the content of an 8772, whether it holds, and the key of its slash if it does."""
    found = []
    for case in fraud_builders.cases():
        verdict = decide(case.proof, verify)
        found.append(
            {
                "what": case.what,
                "proof": case.proof.to_fields(),
                "is_proven": verdict.is_proven,
                "slash_key": verdict.key or None,
            }
        )
    return found


def stake_vectors() -> dict[str, Any]:
    """Decay by the second, signatures that hold and that do not, and what is left after capacity and slashes."""
    stake = _stake(1_000_003, 0)
    verdicts = [_verdict(_KEYS[0].public_key, claim, evidence) for claim, evidence in _FRAUDS]
    return {
        "decay": [
            {
                **stake.model_dump(include={"units", "issued_at", "valid_until"}),
                "now": stake.issued_at + seconds,
                "decayed": decayed_units(stake, Timestamp(stake.issued_at + seconds)),
            }
            for seconds in (-60, 0, 1, 3_600, 45 * DAY, 90 * DAY - 1, 90 * DAY, 91 * DAY)
        ],
        "slashes": [
            {
                "units": units,
                "frauds": [{"claim": each.claim, "key": each.key} for each in verdicts],
                "left": slash_units(units, verdicts),
            }
            for units in (0, 1, 2, 1_000, 1_000_000)
        ],
        "shares_milli": dict(SLASH_MILLI),
        **_markets(verdicts),
    }


def _markets(verdicts: list[Verdict]) -> dict[str, Any]:
    capacities = {find_node_id(_LIGHTNING[0]): 60_000}
    checked = _commitments()
    weights = weigh_stakes(checked, verdicts, Timestamp(NOW + 9 * DAY), capacity=capacities.get)
    return {
        "now": NOW + 9 * DAY,
        "capacities": capacities,
        "stakes": [
            {
                "author": each.signed.author,
                "content": each.signed.event.content,
                "is_backed": each.backing == "checked",
                "units": weights[each.signed.author].units,
            }
            for each in checked
        ],
        "frauds": [{"accused": each.accused, "claim": each.claim, "key": each.key} for each in verdicts],
    }


def _commitments() -> tuple[CheckedStake, ...]:
    """Two keys that share a Lightning node, one with a signature for another key, one bare, one of channels unseen."""
    first, second, third, fourth, fifth = _KEYS
    made = (
        (first, backed(_stake(50_000, 0), first.public_key, _LIGHTNING[0])),
        (second, backed(_stake(50_000, 1), second.public_key, _LIGHTNING[0])),
        (third, backed(_stake(50_000, 2), first.public_key, _LIGHTNING[1])),
        (fourth, _stake(50_000, 3)),
        (fifth, backed(_stake(50_000, 4), fifth.public_key, _LIGHTNING[1])),
    )
    events = (pair.sign(build_stake(stake, pair.public_key, Timestamp(NOW + 10))) for pair, stake in made)
    return tuple(check_stake(read_stake(event), recover_signer) for event in events)


def _stake(units: int, later: int) -> StakeCommitment:
    issued_at = Timestamp(NOW + later)
    return StakeCommitment(seq=NOW, units=units, issued_at=issued_at, valid_until=Timestamp(issued_at + 90 * DAY))


def _verdict(accused: PublicKey, claim: FraudClaim, evidence: str) -> Verdict:
    ids = (EventId(evidence),)
    return Verdict(True, claim, accused, "proven elsewhere", (), ids, slash_key(claim, accused, ids))
