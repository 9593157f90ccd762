"""The examples of trust: what the node of the small market says of its machine, and what its buyer says of it."""

from functools import cache
from typing import Final

from relaymesh.market.outcomes import read_outcome
from relaymesh.market.reputation import Reputation
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.protocol.assertion import build_assertion_event
from relaymesh.protocol.evidence import read_receipt
from relaymesh.protocol.manifest import (
    Benchmark,
    CapabilityBands,
    Manifest,
    RelayMeasurement,
    build_manifest,
    to_band,
)
from relaymesh.units import Timestamp
from tests.nips import example_job
from tests.nips.example_market import LABEL, NODE, RELAY_URL, START_MS

OBSERVER: Final = KeyPair(b"\x07" * 32)
"""The long-term key of the buyer whose client session key is in the other examples."""

NOW: Final = Timestamp(START_MS // 1_000)
DAY: Final = 86_400


@cache
def make_manifest() -> VerifiedEvent:
    """The node's 38772."""
    manifest = Manifest(
        seq=NOW,
        valid_until=Timestamp(NOW + 30 * DAY),
        role="node",
        bands=CapabilityBands(cpu=to_band(16), memory=to_band(64), disk=to_band(800), gpu=None, network=to_band(940)),
        benchmarks=(
            Benchmark(
                model="tiny",
                quantization="q8_0",
                prefill_tokens_per_1000s=1_200_000,
                decode_tokens_per_1000s=85_000,
                first_output_ms=120,
                measured_at=NOW,
            ),
        ),
        relays=(RelayMeasurement(url=RELAY_URL, round_trip_ms=38),),
    )
    return NODE.sign(build_manifest(manifest, LABEL, NODE.public_key, NOW))


@cache
def make_assertion() -> VerifiedEvent:
    """The buyer's 38774 about the node, standing by the receipt of the example job."""
    outcome = read_outcome(read_receipt(example_job.make_receipt(), verify))
    assert outcome is not None
    reputation = Reputation()
    reputation.book(NODE.public_key, outcome)
    reputation.book_refusal(NODE.public_key, is_busy=True)
    said = reputation.make_assertion(NODE.public_key, NOW, seq=NOW, valid_until=Timestamp(NOW + 7 * DAY))
    return OBSERVER.sign(build_assertion_event(said, NODE.public_key, OBSERVER.public_key, NOW))
