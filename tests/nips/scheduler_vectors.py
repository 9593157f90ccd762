"""The vectors of nips/vectors/scheduler.json: markets, requests, policies, the order that comes out, all its terms.

Each case is a record as `relaymesh explain --save` writes it (RM-04, "Replay"). Bands larger than are drawn among stand
beside them as offer ids alone.
"""

import hashlib
from typing import Any, Final

from relaymesh.market.candidate import Candidate
from relaymesh.market.facts import facts_of
from relaymesh.market.policy import BALANCED, CHEAPEST, FASTEST, POLICIES, Policy
from relaymesh.market.preferences import SORTS
from relaymesh.market.replay import record
from relaymesh.market.request import BuyerRequest, PriceCeiling
from relaymesh.market.score import Terms
from relaymesh.market.selection import Examined, draw, nearest_on_ring, select
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.nostr.event import EventId
from relaymesh.nostr.keys import KeyPair
from relaymesh.protocol.codec import build_offer, build_status, read_offer, read_status
from relaymesh.protocol.offer import Offer
from relaymesh.protocol.status import LabelLoad, Status
from relaymesh.units import AmountMsat, Timestamp
from tests.market.builders import NOW, buyer_request, candidate, prepay, row, shape

KEYS: Final = tuple(KeyPair(hashlib.sha256(b"scheduler vectors %d" % number).digest()) for number in range(9))
NODES: Final = tuple(key.public_key for key in KEYS)
LIKELY: Final = shape(100, 200, 450, 800)


def _candidate(
    number: int, *, free: int = 1, queue: int = 0, state: str = "up", offer: dict[str, Any] | None = None, **price: Any
) -> Candidate:
    key = KEYS[number]
    fields: dict[str, Any] = {
        "seq": NOW,
        "valid_until": NOW + 3_600,
        "ln_pubkey": "02" + "ab" * 32,
        "settlement": (prepay(),),
        "rows": (row(**price),),
        **(offer or {}),
    }
    signed = read_offer(key.sign(build_offer(Offer.model_validate(fields), "main", key.public_key, NOW)))
    load = {"main": LabelLoad(free=free, queue=queue)}
    status = Status.model_validate({"seq": NOW - number, "state": state, "labels": load})
    told_at, ends_at = Timestamp(NOW - number), Timestamp(NOW + 360 - number)
    event = key.sign(build_status(status, key.public_key, told_at, ends_at))
    return Candidate(signed, signed.offer.rows[0], read_status(event))


MARKET: Final = (
    _candidate(0, minimum_msat=900),
    _candidate(1, free=4, queue=2, output_msat=1_000, capabilities=("stream",)),
    _candidate(2, unit="byte", per=1_000_000, output_msat=999_999, minimum_msat=0, data_collection="deny"),
    _candidate(3, unit="job", per=2, output_msat=4_001, input_msat=0, minimum_msat=0, free=9),
    _candidate(4, unit="second", per=1, output_msat=250, input_msat=0),
    _candidate(5, free=0, queue=7),
    _candidate(6, state="draining"),
    _candidate(7, minimum_msat=200_000),
    _candidate(8, offer={"region": "EU", "pow_bits": 3}, identity={"quantization": "q4_k_m"}),
)
STANDINGS: Final = {
    NODES[0]: Standing(successes_milli=120_000, failures_milli=1_500, first_output_ms=400, trust_milli=800),
    NODES[1]: Standing(successes_milli=3_000, failures_milli=9_000, output_units_per_1000s=90_000, stake_units=250_000),
    NODES[2]: Standing(successes_milli=10**9, output_units_per_1000s=33_333, first_output_ms=0, stake_units=777),
    NODES[3]: Standing(failures_milli=1, slow_first_output_ms=4_000, trust_milli=1_000, stake_units=99_999),
    NODES[8]: Standing(is_on_probation=True, job_limit_msat=AmountMsat(2_000), slow_output_units_per_1000s=9_000),
}
CASES: Final[dict[str, tuple[BuyerRequest, Policy, int]]] = {
    **{f"the policy {name}": (buyer_request(estimate=LIKELY), policy, 9) for name, policy in POLICIES.items()},
    **{f"sorted by {name}": (buyer_request(), policy, 3) for name, policy in SORTS.items()},
    "weights at their most": (
        buyer_request(budget_msat=AmountMsat(2**53 - 1)),
        Policy("most", 10**6, 10**6, 10**6, 10**6, 10**6, 1_000, 0, 10**6),
        9,
    ),
    "two of them only": (buyer_request(), BALANCED, 2),
    "an order and a preferred speed": (
        buyer_request(
            order=(NODES[3], NODES[1]), preferred_slow_first_output_ms=3_999, preferred_units_per_1000s=34_000
        ),
        CHEAPEST,
        9,
    ),
    "every constraint": (
        buyer_request(
            capabilities=("tools",),
            allow=frozenset(NODES[1:]),
            ignore=frozenset({NODES[3]}),
            maximum_price=PriceCeiling(input_msat=40_000, output_msat=10**6, job_msat=1_000),
            minimum_reliability_milli=818,
            maximum_status_age_seconds=7,
            maximum_pow_bits=3,
        ),
        FASTEST,
        9,
    ),
    "what few offer": (buyer_request(region="EU", quantizations=("q4_k_m",), shape=shape(50, 50)), BALANCED, 9),
    "no data kept": (buyer_request(data_collection="deny", minimum_trust_milli=0), BALANCED, 9),
    "too large for all": (buyer_request(shape=shape(131_000, 4_096)), BALANCED, 9),
    "another job type": (buyer_request(job_type="embedding"), BALANCED, 9),
    "another order": (buyer_request(orders=("sealed", "postpay")), BALANCED, 9),
    "little work and much trust": (buyer_request(maximum_pow_bits=2, minimum_trust_milli=800), BALANCED, 9),
    "more output than any": (buyer_request(shape=shape(1, 4_097)), BALANCED, 9),
    "a model that nobody offers": (buyer_request(model="absent"), BALANCED, 9),
}


def build() -> dict[str, Any]:
    """The vectors, computed."""
    return {
        "cases": [
            {
                "name": name,
                **record(
                    select(
                        MARKET,
                        request,
                        seed=name.encode(),
                        count=count,
                        now=NOW,
                        policy=policy,
                        standings=STANDINGS,
                    )
                ),
            }
            for name, (request, policy, count) in CASES.items()
        ],
        "bands": [_band(size, seed) for size, seed in ((5, b""), (64, b"\x01"), (65, b"\x02" * 32), (90, b"seed"))],
    }


def _band(size: int, seed: bytes) -> dict[str, Any]:
    ids = [EventId(hashlib.sha256(b"offer %d" % number).hexdigest()) for number in range(size)]
    facts = facts_of(candidate(), UNKNOWN)
    band = [Examined(facts._replace(offer_id=each), AmountMsat(0), 0, Terms(0, 0, 0, 0, 0, 0, 0)) for each in ids]
    drawn = draw(nearest_on_ring(band, seed), seed)
    return {"seed": seed.hex(), "offer_ids": ids, "drawn": [one.facts.offer_id for one in drawn]}
