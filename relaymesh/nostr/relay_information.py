"""The relay information document: what a relay says about itself over HTTP (NIP-11)."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from relaymesh.errors import RemoteProtocolError
from relaymesh.units import MAXIMUM_INTEGER

MEDIA_TYPE: Final = "application/nostr+json"
"""What a client's `Accept` header must ask for, and what the document is sent as."""
MAXIMUM_DOCUMENT_BYTES: Final = 64 * 1024

_Text = Annotated[str, Field(max_length=4096)]
_Count = Annotated[int, Field(ge=0, le=MAXIMUM_INTEGER)]
_Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RelayLimitation(BaseModel):
    """What the relay imposes on clients (NIP-11, "Server Limitations"); None where it does not say."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    max_message_length: _Count | None = None
    max_subscriptions: _Count | None = None
    max_limit: _Count | None = None
    max_subid_length: _Count | None = None
    max_event_tags: _Count | None = None
    max_content_length: _Count | None = None
    min_pow_difficulty: _Count | None = None
    auth_required: bool | None = None
    payment_required: bool | None = None
    restricted_writes: bool | None = None
    created_at_lower_limit: _Count | None = None
    created_at_upper_limit: _Count | None = None
    default_limit: _Count | None = None


class RelayInformation(BaseModel):
    """A relay's description of itself; None where it does not say.

    The fields have the document's names, but for the two keys, which are called what they are.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True
    )

    name: _Text | None = None
    description: _Text | None = None
    banner: _Text | None = None
    icon: _Text | None = None
    contact_public_key: _Hex32 | None = Field(default=None, validation_alias="pubkey", serialization_alias="pubkey")
    relay_public_key: _Hex32 | None = Field(default=None, validation_alias="self", serialization_alias="self")
    contact: _Text | None = None
    supported_nips: tuple[_Count, ...] | None = Field(default=None, max_length=1024)
    software: _Text | None = None
    version: _Text | None = None
    terms_of_service: _Text | None = None
    limitation: RelayLimitation | None = None

    def to_json(self) -> dict[str, Any]:
        """The document as a JSON object, without what is not said."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def parse_relay_information(text: str | bytes) -> RelayInformation:
    """Read a document that a relay sent; fields that NIP-11 does not know here are passed over.

    Raises:
        RemoteProtocolError: It is too long, no JSON object, or a known field is mistyped or out of range.
    """
    if len(text) > MAXIMUM_DOCUMENT_BYTES:
        raise RemoteProtocolError(f"a relay information document must be at most {MAXIMUM_DOCUMENT_BYTES} bytes")
    try:
        return RelayInformation.model_validate_json(text)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"])) or "the document"
        raise RemoteProtocolError(f"a relay information document must follow NIP-11: look at {place}") from None
