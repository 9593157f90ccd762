"""What a node offers: price rows and terms from the runner's models and the operator's settings (RM-01, "Prices")."""

from relaymesh.errors import UsageError
from relaymesh.ports.runners import RunnerModel
from relaymesh.protocol.fields import MAXIMUM_QUANTITY, Order, Scope, SettlementForm
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
    """A term for each form of settlement that the operator offers, in his order of preference.

    Raises:
        UsageError: He offers none, or a tranche that no term can have.
    """
    if not settings.settlement:
        raise UsageError("node.settlement must name one way to be paid at least, for example `prepay`")
    terms: dict[SettlementForm, SettlementTerm] = {
        "prepay": _term("prepay", "tranche_units", settings.tranche_units),
        "sealed": _term("sealed", "sealed_tranche_units", settings.sealed_tranche_units),
        "postpay": _term("postpay", "tranche_units", settings.tranche_units),
        "session": _term("prepay", "session_tranche_msat", settings.session_tranche_msat, scope="session"),
    }
    if "session" in settings.settlement and terms["session"].tranche_units is None:
        raise UsageError("node.session_tranche_msat must be at least 1 where node.settlement has `session`")
    return tuple(terms[form] for form in dict.fromkeys(settings.settlement))


def _term(order: Order, name: str, units: int, *, scope: Scope = "job") -> SettlementTerm:
    if units > MAXIMUM_QUANTITY:
        raise UsageError(f"node.{name} must be at most {MAXIMUM_QUANTITY}, not {units}")
    return SettlementTerm(order=order, scope=scope, tranche_units=units or None)


def _rows_of(model: RunnerModel, settings: Node) -> list[PriceRow]:
    generating = tuple(job_type for job_type in model.job_types if job_type in GENERATING)
    reading = tuple(job_type for job_type in model.job_types if job_type not in GENERATING)
    able = ("stream", *dict.fromkeys(settings.capabilities))
    rows = []
    if generating:
        rows.append(_row(model, generating, settings, settings.output_msat, settings.output_tokens, able))
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
