"""The capability manifest (kind 38772): what a machine says it can do, in coarse bands and with measurements (RM-05).

Everything in it is its author's word. It weighs for whom nobody knows yet, and less with every outcome observed.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from relaymesh.nostr.event import PublicKey, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import TOPIC, read_state_label
from relaymesh.protocol.content import WireValue, encode_content
from relaymesh.protocol.fields import ModelName, Quantity, RelayUrl, Sequence, ShortText, UnixSeconds, Version
from relaymesh.units import Timestamp

MAXIMUM_BAND: Final = 30
MAXIMUM_BENCHMARKS: Final = 16
MAXIMUM_RELAY_MEASUREMENTS: Final = 8
MAXIMUM_ROUND_TRIP_MS: Final = 600_000

Band = Annotated[int, Field(ge=0, le=MAXIMUM_BAND)]
"""A size told coarsely: band b is 2^b up to 2^(b + 1) units; band 0 is everything below 2."""

ManifestRole = Literal["node", "router"]


class CapabilityBands(WireValue):
    """How large a machine is, by powers of two: enough to compare, too little to recognise it by.

    Args:
        cpu: In threads.
        memory: In GiB.
        disk: In GiB that are free.
        gpu: In GiB of accelerator memory; None without an accelerator.
        network: In Mbit/s, the slower direction.
    """

    cpu: Band
    memory: Band
    disk: Band
    gpu: Band | None
    network: Band


class Benchmark(WireValue):
    """One model as it was measured on the machine.

    Args:
        model: The model's name, as offers have it.
        quantization: As in the offer's identity; None where it is not known.
        prefill_tokens_per_1000s: Input tokens read in 1,000 seconds, by one job that has the machine to itself.
        decode_tokens_per_1000s: Output tokens made in 1,000 seconds, likewise.
        first_output_ms: From JOB to first output, for a short prompt; None where it was not measured.
        measured_at: When (Unix seconds).
    """

    model: ModelName
    quantization: ShortText | None = None
    prefill_tokens_per_1000s: Quantity
    decode_tokens_per_1000s: Quantity
    first_output_ms: Quantity | None = None
    measured_at: UnixSeconds


class RelayMeasurement(WireValue):
    """How one relay looked from the machine.

    Args:
        url: Its address.
        round_trip_ms: From a request to its answer; None when it did not answer.
    """

    url: RelayUrl
    round_trip_ms: Annotated[int, Field(ge=0, le=MAXIMUM_ROUND_TRIP_MS)] | None


class Manifest(WireValue):
    """What a 38772 says; its label is the event's `d`, that of the offers which the machine serves.

    Args:
        seq: Grows with every change; a reader refuses a lower one.
        valid_until: The manifest stands until then (Unix seconds).
        role: What its author does with the machine.
        bands: How large it is.
        benchmarks: How fast it was, model by model; each model once.
        relays: How its relays looked when the manifest was made.
    """

    v: Version = 1
    seq: Sequence
    valid_until: UnixSeconds
    role: ManifestRole
    bands: CapabilityBands
    benchmarks: Annotated[tuple[Benchmark, ...], Field(max_length=MAXIMUM_BENCHMARKS)] = ()
    relays: Annotated[tuple[RelayMeasurement, ...], Field(max_length=MAXIMUM_RELAY_MEASUREMENTS)] = ()

    @model_validator(mode="after")
    def _nothing_stands_twice(self) -> Self:
        if len({benchmark.model for benchmark in self.benchmarks}) < len(self.benchmarks):
            raise ValueError("a manifest must have at most one benchmark of each model")
        if len({relay.url for relay in self.relays}) < len(self.relays):
            raise ValueError("a manifest must name each relay at most once")
        return self

    @property
    def slowest_benchmark(self) -> Benchmark | None:
        """The benchmark of the model whose output is slowest, if there is any."""
        return min(self.benchmarks, key=lambda benchmark: benchmark.decode_tokens_per_1000s, default=None)

    def find_benchmark(self, model: str) -> Benchmark | None:
        """The benchmark of this model, if there is one."""
        return next((benchmark for benchmark in self.benchmarks if benchmark.model == model), None)


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest and the verified event it came in."""

    event: VerifiedEvent
    label: str
    manifest: Manifest

    @property
    def author(self) -> PublicKey:
        """Whose machine it is."""
        return self.event.public_key


def to_band(size: int) -> int:
    """The band of a size in whole units: the largest b with 2^b ≤ size, 0 for less than 2."""
    return min(max(size, 1).bit_length() - 1, MAXIMUM_BAND)


def build_manifest(manifest: Manifest, label: str, author: PublicKey, created_at: Timestamp) -> UnsignedEvent:
    """The 38772 that publishes this manifest under this label; it expires when it ends."""
    tags = (
        ("t", TOPIC),
        ("d", label),
        ("expiration", str(manifest.valid_until)),
        ("alt", f"RelayMesh capability manifest of a {manifest.role}"),
    )
    return UnsignedEvent(author, created_at, Kind.MANIFEST, tags, encode_content(manifest.to_fields()))


def read_manifest(event: VerifiedEvent) -> SignedManifest:
    """Read a 38772; RemoteProtocolError if it is not a valid manifest."""
    label = read_state_label(event, Kind.MANIFEST)
    return SignedManifest(event, label, Manifest.from_text(event.content))
