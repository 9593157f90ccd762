"""The JSON schema of each kind's content, from the models that read it (draft 2020-12)."""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from relaymesh.nostr.event import MAXIMUM_CREATED_AT, MAXIMUM_KIND
from relaymesh.protocol.assertion import Assertion
from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import Hex32
from relaymesh.protocol.manifest import Manifest
from relaymesh.protocol.offer import MAXIMUM_MODEL_AND_JOB_TAGS, Offer
from relaymesh.protocol.router_announcement import RouterAnnouncement
from relaymesh.protocol.sealed_commitment import SealedCommitment
from relaymesh.protocol.slash import Slash
from relaymesh.protocol.stake import StakeCommitment
from tests.nips import contents
from tests.nips.contents import Content

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
HEX_32: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
EVENT: Final[dict[str, Any]] = {
    "description": "A whole signed event (NIP-01); its id and signature are to be checked like any other event's.",
    "type": "object",
    "properties": {
        "id": HEX_32,
        "pubkey": HEX_32,
        "created_at": {"type": "integer", "minimum": 0, "maximum": MAXIMUM_CREATED_AT},
        "kind": {"type": "integer", "minimum": 0, "maximum": MAXIMUM_KIND},
        "tags": {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
        "content": {"type": "string"},
        "sig": {"type": "string", "pattern": "^[0-9a-f]{128}$"},
    },
    "required": ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"],
}

_UNCHECKED: Final[dict[type[WireValue], str]] = {
    Offer: f" Beyond the schema: models and job types of all rows together are at most {MAXIMUM_MODEL_AND_JOB_TAGS}.",
    Manifest: " Beyond the schema: each model has one benchmark and each relay stands once.",
    Assertion: " Beyond the schema: no event is cited twice.",
    StakeCommitment: " Beyond the schema: it lasts 1 second to 366 days.",
    Slash: " Beyond the schema: the key, the share and the order of the evidence follow from the rest.",
    SealedCommitment: " Beyond the schema: there are as many lengths as leaves.",
}

_CONDITIONS: Final[dict[type[WireValue], dict[str, Any]]] = {
    RouterAnnouncement: {
        "if": {"properties": {"fee_msat": {"type": "integer", "minimum": 1}}, "required": ["fee_msat"]},
        "then": {"properties": {"ln_pubkey": {"type": "string"}}, "required": ["ln_pubkey"]},
    }
}
"""What fields demand of each other, where a schema can say it."""


class _Sealed(BaseModel):
    """What every sealed plaintext carries beside its message."""

    salt: Hex32


def build(content: Content) -> dict[str, Any]:
    """The schema of one kind's content (of its plaintext, where it is sealed); unknown fields are allowed."""
    schema = content.model.model_json_schema(schema_generator=_Plain)
    definitions = {name: _dress(part) for name, part in schema.pop("$defs", {}).items()}
    schema = _dress(schema)
    if content.is_sealed:
        schema["properties"]["salt"] = {"description": contents.SALT_NOTE, **HEX_32}
        schema["required"] = ["v", *schema["required"], "salt"]
    for model_name, field in contents.EMBEDDED_EVENTS:
        part = schema if model_name == content.model.__name__ else definitions.get(model_name)
        if part is not None:
            part["properties"][field] = _embed(part["properties"][field])
            definitions["Event"] = EVENT
    what = "plaintext" if content.is_sealed else "content"
    head = {
        "$schema": DIALECT,
        "$id": f"urn:relaymesh:1:{content.name}",
        "title": f"{content.name} ({content.kind.value}), {what}",
    }
    described = schema.pop("description") + _UNCHECKED.get(content.model, "")
    schema.update(_CONDITIONS.get(content.model, {}))
    return {**head, "description": described, **schema, **({"$defs": definitions} if definitions else {})}


def _embed(field: dict[str, Any]) -> dict[str, Any]:
    """A field that holds a whole event, or null where it may be left out."""
    whole, note = {"$ref": "#/$defs/Event"}, field["description"]
    if "default" in field:
        return {"anyOf": [whole, {"type": "null"}], "default": field["default"], "description": note}
    return {**whole, "description": note}


class _Plain(GenerateJsonSchema):
    """Pydantic's own schemas, without the titles it makes up, each property with its meaning."""

    def model_schema(self, schema: Any) -> Any:
        made = super().model_schema(schema)
        model: type[Any] = schema["cls"]
        made["description"] = contents.summary(model)
        for name, part in made["properties"].items():
            made["properties"][name] = {"description": contents.describe(model, name), **part}
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _dress(schema: dict[str, Any]) -> dict[str, Any]:
    """The same without the class's name, and with what it is before what it holds."""
    kept = {name: value for name, value in schema.items() if name not in {"title", "description"}}
    return {"description": schema["description"], "type": kept.pop("type"), **kept}
