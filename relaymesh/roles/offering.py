"""What a node offers: price rows and terms from the runner's models and the operator's settings (RM-01, "Prices")."""

from relaymesh.errors import UsageError
from relaymesh.ports.runners import RunnerModel
from relaymesh.protocol.offer import MAXIMUM_MODEL_AND_JOB_TAGS, MAXIMUM_ROWS, ModelIdentity, PriceRow, SettlementTerm
from relaymesh.settings import Node
from relaymesh.units import AmountMsat

GENERATING = frozenset({"chat", "completion", "summarise"})


def price_rows(models: tuple[RunnerModel, ...], settings: Node) -> tuple[PriceRow, ...]:
    """One row per model for what generates text, and one for what only reads it (embeddings have no output price).

    Raises:
        UsageError: None of the runner's models may be sold, or more than one label can hold.
    """
    wanted = [model for model in models if not settings.models or model.name in settings.models]
    missing = set(settings.models) - {model.name for model in models}
    if missing or not wanted:
        served = ", ".join(model.name for model in models) or "none"
        absent = ", ".join(sorted(missing)) or "any model"
        raise UsageError(f"expected the runner to serve {absent}, but it serves {served}; see node.models")
    rows = [row for model in wanted for row in _rows_of(model, settings)]
    job_types = {job_type for row in rows for job_type in row.job_types}
    if len(rows) > MAXIMUM_ROWS or len(wanted) + len(job_types) > MAXIMUM_MODEL_AND_JOB_TAGS:
        raise UsageError(
            f"one label holds {MAXIMUM_MODEL_AND_JOB_TAGS} models and job types together, the runner has "
            f"{len(wanted)} models and {len(job_types)} job types; choose some with node.models"
        )
    return tuple(rows)


def settlement_terms(settings: Node) -> tuple[SettlementTerm, ...]:
    """Payment before delivery, tranche by tranche; the whole job at once where the operator wants that."""
    return (SettlementTerm(order="prepay", scope="job", tranche_units=settings.tranche_units or None),)


def _rows_of(model: RunnerModel, settings: Node) -> list[PriceRow]:
    generating = tuple(job_type for job_type in model.job_types if job_type in GENERATING)
    reading = tuple(job_type for job_type in model.job_types if job_type not in GENERATING)
    rows = []
    if generating:
        rows.append(_row(model, generating, settings, settings.output_msat, settings.output_tokens, ("stream",)))
    if reading:
        rows.append(_row(model, reading, settings, 0, 0, ()))
    return rows


def _row(
    model: RunnerModel,
    job_types: tuple[str, ...],
    settings: Node,
    output_msat: int,
    output_limit: int,
    capabilities: tuple[str, ...],
) -> PriceRow:
    identity = ModelIdentity(weights_sha256=model.weights_sha256, quantization=model.quantization, engine=model.engine)
    return PriceRow.model_validate(
        {
            "model": model.name,
            "job_types": job_types,
            "unit": settings.unit,
            "per": settings.per,
            "input_msat": AmountMsat(settings.input_msat),
            "output_msat": AmountMsat(output_msat),
            "minimum_msat": AmountMsat(settings.minimum_msat),
            "context_limit": model.context_limit or 0,
            "output_limit": output_limit,
            "capabilities": capabilities,
            "identity": identity,
        }
    )
