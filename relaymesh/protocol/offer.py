"""The offer (kind 38770): what a node sells, at which prices, on which terms (RM-01, "Offer" and "Prices")."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import (
    DataCollection,
    JobType,
    LightningNodeId,
    ModelName,
    Msat,
    Order,
    Per,
    Quantity,
    Rate,
    RelayUrl,
    Scope,
    Sequence,
    SettlementForm,
    ShortText,
    Unit,
    UnixSeconds,
    Version,
    form_of,
)

MAXIMUM_ROWS: Final = 8
MAXIMUM_TERMS: Final = 8
MAXIMUM_MODEL_AND_JOB_TAGS: Final = 7


class ModelIdentity(WireValue):
    """What exactly stands behind a model's name; None where the operator does not say."""

    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    quantization: ShortText | None = None
    engine: ShortText | None = None
    tokenizer_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class PriceRow(WireValue):
    """One price: a model, the job types it covers, and what its units cost.

    Args:
        unit: What is counted: `token`, `byte`, `second` or `job`.
        per: How many units the two rates are for.
        input_msat: Rate for input units.
        output_msat: Rate for output units.
        minimum_msat: What a job costs at least.
        context_limit: Tokens of input and output together; 0 means the node does not say.
        output_limit: Output tokens of one job.
        capabilities: What requests may ask for beyond plain text: `stream`, `tools`, `json`, `images`.
        data_collection: `deny` promises that prompts and outputs are neither kept nor used beyond the job.
    """

    model: ModelName
    job_types: Annotated[tuple[JobType, ...], Field(min_length=1, max_length=7)]
    unit: Unit
    per: Per
    input_msat: Rate
    output_msat: Rate
    minimum_msat: Msat
    context_limit: Quantity
    output_limit: Quantity
    capabilities: Annotated[tuple[ShortText, ...], Field(max_length=16)] = ()
    identity: ModelIdentity = ModelIdentity()
    data_collection: DataCollection = "allow"


class SettlementTerm(WireValue):
    """How a job may be paid: in which order, per job or per session, in which tranches.

    Args:
        tranche_units: Output units per tranche; None means the whole job is one tranche. Of a session: msat.
    """

    order: Order
    scope: Scope = "job"
    tranche_units: Annotated[int, Field(ge=1, le=10**9)] | None = None

    @property
    def form(self) -> SettlementForm | None:
        """Order and scope by one name; None for a pair that version 1 does not settle."""
        return form_of(self.order, self.scope)


class Offer(WireValue):
    """What a node's 38770 says; its label is the event's `d`, its author the node.

    Args:
        seq: Grows with every change; a reader refuses a lower one.
        valid_until: The offer stands until then (Unix seconds).
        ln_pubkey: The Lightning node that invoices must pay.
        pow_bits: Proof of work that requests must carry (NIP-13).
        relays: Where the node listens.
        settlement: Terms, in the node's order of preference.
        rows: Prices.
    """

    v: Version = 1
    seq: Sequence
    valid_until: UnixSeconds
    ln_pubkey: LightningNodeId
    pow_bits: Annotated[int, Field(ge=0, le=40)] = 0
    relays: Annotated[tuple[RelayUrl, ...], Field(max_length=8)] = ()
    settlement: Annotated[tuple[SettlementTerm, ...], Field(min_length=1, max_length=MAXIMUM_TERMS)]
    rows: Annotated[tuple[PriceRow, ...], Field(min_length=1, max_length=MAXIMUM_ROWS)]
    region: Annotated[str, Field(max_length=100)] | None = None

    @model_validator(mode="after")
    def _models_and_job_types_fit_into_tags(self) -> Self:
        if len(self.models) + len(self.job_types) > MAXIMUM_MODEL_AND_JOB_TAGS:
            raise ValueError(
                f"models and job types of one label must be at most {MAXIMUM_MODEL_AND_JOB_TAGS} together; "
                "put further models under further labels"
            )
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The models offered, each once, in row order."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def job_types(self) -> tuple[JobType, ...]:
        """The job types offered, each once, in row order."""
        return tuple(dict.fromkeys(job_type for row in self.rows for job_type in row.job_types))

    def find_row(self, model: str, job_type: JobType, unit: Unit | None = None) -> PriceRow | None:
        """The first row for this model and job type (and unit, if given)."""
        for row in self.rows:
            if row.model == model and job_type in row.job_types and unit in (None, row.unit):
                return row
        return None
