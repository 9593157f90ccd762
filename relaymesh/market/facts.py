"""Facts: all that eligibility, score and explanation read about one price, as plain numbers and names."""

from typing import NamedTuple

from relaymesh.market.candidate import Candidate
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import EventId, PublicKey
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.protocol.fields import DataCollection, JobType, SettlementForm, Unit
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.status import NodeState


class Traits(NamedTuple):
    """What many prices have in common: everything about one that is neither an amount nor a limit nor a time."""

    model: str
    job_types: tuple[JobType, ...]
    region: str | None
    quantization: str | None
    data_collection: DataCollection
    capabilities: tuple[str, ...]
    forms: tuple[SettlementForm, ...]
    """The forms of settlement on offer, each once, in the node's order."""
    pow_bits: int


class Load(NamedTuple):
    """What a node last said about itself and one of its labels."""

    status_id: EventId | None = None
    """The 38771; None when nothing was heard of the node lately, and then the rest says nothing."""
    said_at: int = 0
    ends_at: int = 0
    state: NodeState = "up"
    free: int | None = None
    """None when the status leaves the label out."""
    queue: int = 0


class Facts(NamedTuple):
    """One price row of one live offer."""

    offer_id: EventId
    node: PublicKey
    label: str
    position: int
    """Which of the offer's rows it is, from 0."""
    traits: Traits
    unit: Unit
    per: int
    input_msat: int
    output_msat: int
    minimum_msat: int
    context_limit: int
    output_limit: int
    valid_until: int
    load: Load
    standing: Standing


def facts_of(candidate: Candidate, standing: Standing) -> Facts:
    """The facts about a candidate and what is known about its node."""
    offer, row = candidate.offer, candidate.row
    return price_facts(offer, offer.offer.rows.index(row), load_of(offer.label, candidate.status), standing)


def price_facts(offer: SignedOffer, position: int, load: Load, standing: Standing) -> Facts:
    """The facts about one row of an offer."""
    row = offer.offer.rows[position]
    return Facts(
        offer_id=offer.event.id,
        node=offer.node,
        label=offer.label,
        position=position,
        traits=_traits(offer, row),
        unit=row.unit,
        per=row.per,
        input_msat=row.input_msat,
        output_msat=row.output_msat,
        minimum_msat=row.minimum_msat,
        context_limit=row.context_limit,
        output_limit=row.output_limit,
        valid_until=offer.offer.valid_until,
        load=load,
        standing=standing,
    )


def load_of(label: str, status: SignedStatus | None) -> Load:
    """What a status says about a label."""
    if status is None:
        return Load()
    load = status.status.labels.get(label)
    free, queue = (None, 0) if load is None else (load.free, load.queue)
    return Load(status.event.id, status.event.created_at, status.expires_at, status.status.state, free, queue)


def _traits(offer: SignedOffer, row: PriceRow) -> Traits:
    return Traits(
        model=row.model,
        job_types=row.job_types,
        region=offer.offer.region,
        quantization=row.identity.quantization,
        data_collection=row.data_collection,
        capabilities=row.capabilities,
        forms=_forms(offer, row),
        pow_bits=offer.offer.pow_bits,
    )


def _forms(offer: SignedOffer, row: PriceRow) -> tuple[SettlementForm, ...]:
    """What is priced by the second is prepaid, whatever else the offer has: its buyer could not check an invoice."""
    forms = (term.form for term in offer.offer.settlement)
    return tuple(dict.fromkeys(each for each in forms if each == "prepay" or (each and row.unit != "second")))
