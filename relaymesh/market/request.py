"""The buyer's request: what is wanted, and what will not do (RM-04, "Eligibility")."""

from dataclasses import dataclass
from typing import Literal

from relaymesh.errors import LocalProtocolError
from relaymesh.market.facts import Facts
from relaymesh.market.standing import BYTES_PER_TOKEN
from relaymesh.nostr.event import PublicKey
from relaymesh.protocol.fields import DataCollection, JobType, Order, Scope, SettlementForm, forms_of
from relaymesh.protocol.quote import JobShape
from relaymesh.units import AmountMsat

SettlementPolicy = Literal["auto", SettlementForm]
"""What a buyer says about settlement: one form and no other, or `auto`."""

RATE_TOKENS = 10**6
MAXIMUM_CEILING_MSAT = 10**12


@dataclass(frozen=True, slots=True)
class PriceCeiling:
    """The highest prices that a buyer will look at, whatever the job comes to; None where he has none.

    A rate in bytes is compared as if a token had four of them; rows in seconds and jobs have no rates to compare.

    Args:
        input_msat: For 10^6 input tokens, 0 … 10^12.
        output_msat: For 10^6 output tokens, likewise.
        job_msat: What a job costs at least: the row's minimum, or its price where it is priced by the job.
    """

    input_msat: int | None = None
    output_msat: int | None = None
    job_msat: int | None = None

    def __post_init__(self) -> None:
        for ceiling in (self.input_msat, self.output_msat, self.job_msat):
            if ceiling is not None and not 0 <= ceiling <= MAXIMUM_CEILING_MSAT:
                raise LocalProtocolError(f"a price ceiling must be 0 … {MAXIMUM_CEILING_MSAT} msat, not {ceiling}")

    def exceeded_by(self, facts: Facts) -> str | None:
        """What of a price is over the ceiling, in a few words; None where nothing is."""
        factor = {"token": RATE_TOKENS, "byte": RATE_TOKENS * BYTES_PER_TOKEN}.get(facts.unit, 0)
        for name, rate, ceiling in (
            ("input", facts.input_msat, self.input_msat),
            ("output", facts.output_msat, self.output_msat),
        ):
            if ceiling is not None and rate * factor > ceiling * facts.per:
                return (
                    f"{name} at {rate} msat for {facts.per} {facts.unit}s, over {ceiling} msat for {RATE_TOKENS} tokens"
                )
        least = self.least_of(facts)
        if self.job_msat is not None and least > self.job_msat:
            return f"a job costs at least {least} msat, over {self.job_msat}"
        return None

    @staticmethod
    def least_of(facts: Facts) -> int:
        """What a job costs at the least, whatever its size."""
        if facts.unit == "job":
            return max(facts.minimum_msat, -(-facts.output_msat // facts.per))
        return facts.minimum_msat


@dataclass(frozen=True, slots=True)
class BuyerRequest:
    """What a buyer wants, and what he will not have.

    Args:
        model: The model's name; None for any.
        job_type: What kind of job.
        shape: How big it is at the most.
        budget_msat: The most he will pay for it.
        capabilities: What the row must offer beyond plain text.
        orders: The settlement orders he accepts, best first.
        scopes: What a tranche may belong to, best first.
        settlement: The form of settlement he requires; `auto` chooses by what is known about the node.
        maximum_exposure_msat: The most that he will have at stake at once; 0 for no limit.
        is_streamed: Whether somebody reads the output as it comes, so that the first token counts.
        allow: The only nodes he deals with; None for all.
        ignore: Nodes he does not deal with.
        region: The region that the offer must name; None for any.
        maximum_pow_bits: The most proof of work he will do for a request.
        estimate: How big the job is likely to be, within `shape`; None for as big as that.
        maximum_price: The highest prices that he will look at.
        minimum_trust_milli: The least trust that a node needs, 0 … 1,000.
        minimum_reliability_milli: The least reliability, 0 … 1,000, doubt included.
        maximum_status_age_seconds: How old a node's status may be; None for as long as it lives.
        quantizations: The quantizations that will do, `unknown` for a row that does not say; empty for all.
        data_collection: `deny` wants nodes that promise to forget prompts and outputs.
        order: The nodes to try first, best first; everybody else comes after them.
        preferred_first_output_ms: Nodes of whom a slower first output is known come after the others; None for no such
            preference, as for the next three.
        preferred_slow_first_output_ms: The same for what 90 of 100 jobs do not exceed.
        preferred_units_per_1000s: Nodes of whom a lower speed is known come after the others.
        preferred_slow_units_per_1000s: The same for the speed that 90 of 100 jobs reach.
    """

    model: str | None
    job_type: JobType
    shape: JobShape
    budget_msat: AmountMsat
    capabilities: tuple[str, ...] = ()
    orders: tuple[Order, ...] = ("prepay",)
    scopes: tuple[Scope, ...] = ("job",)
    settlement: SettlementPolicy = "auto"
    maximum_exposure_msat: int = 0
    is_streamed: bool = False
    allow: frozenset[PublicKey] | None = None
    ignore: frozenset[PublicKey] = frozenset()
    region: str | None = None
    maximum_pow_bits: int = 20
    estimate: JobShape | None = None
    maximum_price: PriceCeiling | None = None
    minimum_trust_milli: int = 0
    minimum_reliability_milli: int = 0
    maximum_status_age_seconds: int | None = None
    quantizations: tuple[str, ...] = ()
    data_collection: DataCollection = "allow"
    order: tuple[PublicKey, ...] = ()
    preferred_first_output_ms: int | None = None
    preferred_slow_first_output_ms: int | None = None
    preferred_units_per_1000s: int | None = None
    preferred_slow_units_per_1000s: int | None = None

    @property
    def expected(self) -> JobShape:
        """How big the job is likely to be."""
        return self.shape if self.estimate is None else self.estimate

    @property
    def forms(self) -> tuple[SettlementForm, ...]:
        """The forms of settlement he accepts."""
        return forms_of(self.orders, self.scopes)
