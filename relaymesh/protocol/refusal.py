"""Being refused: a value with a code that machines understand and a text that people understand (RM-01, "Refusal")."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, Self

from relaymesh.errors import RemoteProtocolError
from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import Milliseconds, ShortText

MAXIMUM_REASON_CHARACTERS: Final = 200


class RefusalCode(Enum):
    """Why a request was turned down."""

    INVALID_MESSAGE = "invalid-message"
    UNSUPPORTED_VERSION = "unsupported-version"
    EXPIRED = "expired"
    REPLAYED = "replayed"
    POW = "pow"
    RATE_LIMITED = "rate-limited"
    RESTRICTED = "restricted"
    MODEL_NOT_OFFERED = "model-not-offered"
    OFFER_CHANGED = "offer-changed"
    UNSUPPORTED_PARAMETER = "unsupported-parameter"
    OVER_LIMIT = "over-limit"
    OVER_BUDGET = "over-budget"
    BUSY = "busy"
    DRAINING = "draining"
    PAYMENT_REQUIRED = "payment-required"
    PAYMENT_TIMEOUT = "payment-timeout"
    PAYMENT_MISMATCH = "payment-mismatch"
    RUNNER_UNAVAILABLE = "runner-unavailable"
    RUNNER_FAILED = "runner-failed"
    RUNNER_TIMEOUT = "runner-timeout"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


RETRYABLE: Final[Mapping[RefusalCode, bool]] = {
    RefusalCode.INVALID_MESSAGE: False,
    RefusalCode.UNSUPPORTED_VERSION: False,
    RefusalCode.EXPIRED: True,
    RefusalCode.REPLAYED: False,
    RefusalCode.POW: True,
    RefusalCode.RATE_LIMITED: True,
    RefusalCode.RESTRICTED: False,
    RefusalCode.MODEL_NOT_OFFERED: False,
    RefusalCode.OFFER_CHANGED: True,
    RefusalCode.UNSUPPORTED_PARAMETER: False,
    RefusalCode.OVER_LIMIT: False,
    RefusalCode.OVER_BUDGET: False,
    RefusalCode.BUSY: True,
    RefusalCode.DRAINING: True,
    RefusalCode.PAYMENT_REQUIRED: True,
    RefusalCode.PAYMENT_TIMEOUT: True,
    RefusalCode.PAYMENT_MISMATCH: False,
    RefusalCode.RUNNER_UNAVAILABLE: True,
    RefusalCode.RUNNER_FAILED: True,
    RefusalCode.RUNNER_TIMEOUT: True,
    RefusalCode.CANCELLED: True,
    RefusalCode.INTERNAL: True,
}
"""Whether the same request may be served if it is made again (to this node or, for the client, to another)."""


class Refusal(WireValue):
    """A refusal as it travels: in a 28774 and in a session's ERROR.

    Args:
        code: One of the protocol's codes.
        reason: One sentence for a person; never prompt text, secrets or a stack trace.
        retry_in_ms: When asking the same party again is worth while, as far as it can tell; a hint, no promise.
    """

    code: RefusalCode
    reason: ShortText
    retry_in_ms: Milliseconds | None = None

    @property
    def is_retryable(self) -> bool:
        """Whether asking again may help."""
        return RETRYABLE[self.code]

    def to_wire(self) -> str:
        """`code: reason`."""
        return f"{self.code.value}: {self.reason}"

    @classmethod
    def from_wire(cls, text: str, retry_in_ms: int | None = None) -> Self:
        """Read `code: reason`, and the hint that stood beside it.

        Raises:
            RemoteProtocolError: The code is not one of the protocol's, or the reason is too long.
        """
        code, separator, reason = text.partition(":")
        try:
            known = RefusalCode(code)
        except ValueError:
            raise RemoteProtocolError("a refusal must begin with one of the protocol's codes") from None
        reason = reason.strip()
        if not separator or len(reason) > MAXIMUM_REASON_CHARACTERS:
            raise RemoteProtocolError(
                f"a refusal must read `code: reason`, the reason at most {MAXIMUM_REASON_CHARACTERS} characters long"
            )
        return cls(code=known, reason=reason, retry_in_ms=retry_in_ms)


def refuse(code: RefusalCode, reason: str, retry_in_ms: int | None = None) -> Refusal:
    """A refusal with its reason cut to what the protocol allows."""
    return Refusal(code=code, reason=reason[:MAXIMUM_REASON_CHARACTERS], retry_in_ms=retry_in_ms)
