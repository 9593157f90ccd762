"""What a program is told when it gets no answer: OpenAI's error object, the status that fits, one clear sentence.

Nothing here quotes a prompt or an output. Headers say whether to ask again: `Retry-After` where
somebody will have room, `x-should-retry: false` where money has moved, so that no library pays twice by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.protocol.refusal import Refusal, RefusalCode
from relaymesh.units import MILLISECONDS_PER_SECOND

BAD_REQUEST: Final = 400
UNAUTHORIZED: Final = 401
PAYMENT_REQUIRED: Final = 402
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
INTERNAL: Final = 500
BAD_GATEWAY: Final = 502
UNAVAILABLE: Final = 503
RETRY_SECONDS: Final = 5
"""When to ask again where nobody says."""

_KINDS: Final = MappingProxyType(
    {
        UNAUTHORIZED: "authentication_error",
        PAYMENT_REQUIRED: "insufficient_quota",
        FORBIDDEN: "permission_error",
        INTERNAL: "server_error",
        BAD_GATEWAY: "server_error",
        UNAVAILABLE: "server_error",
    }
)
_STATUS_OF_REFUSAL: Final = MappingProxyType(
    {
        RefusalCode.INVALID_MESSAGE: BAD_REQUEST,
        RefusalCode.UNSUPPORTED_PARAMETER: BAD_REQUEST,
        RefusalCode.OVER_LIMIT: BAD_REQUEST,
        RefusalCode.MODEL_NOT_OFFERED: NOT_FOUND,
        RefusalCode.OVER_BUDGET: PAYMENT_REQUIRED,
        RefusalCode.PAYMENT_REQUIRED: PAYMENT_REQUIRED,
        RefusalCode.BUSY: UNAVAILABLE,
        RefusalCode.DRAINING: UNAVAILABLE,
        RefusalCode.RATE_LIMITED: UNAVAILABLE,
        RefusalCode.RUNNER_UNAVAILABLE: UNAVAILABLE,
        RefusalCode.EXPIRED: UNAVAILABLE,
        RefusalCode.OFFER_CHANGED: UNAVAILABLE,
        RefusalCode.POW: UNAVAILABLE,
        RefusalCode.RESTRICTED: UNAVAILABLE,
    }
)
"""Everything else is the fault of whoever stands behind us: 502."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request gets no answer.

    Args:
        status: Of HTTP.
        code: One word for programs.
        message: One sentence for a person.
        parameter: The field of the request that it is about, where there is one.
        retry_seconds: When asking again is worth while; None where it is not, or where nobody knows.
        is_paid: Whether money has moved, or may have: no library should ask again by itself.
    """

    status: int
    code: str
    message: str
    parameter: str | None = None
    retry_seconds: int | None = None
    is_paid: bool = False

    @property
    def is_lasting(self) -> bool:
        """Whether the same request will fail again, however long one waits."""
        return self.status < INTERNAL

    def to_json(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What tells a library whether to ask again."""
        if self.is_paid or self.retry_seconds is None:
            return {"x-should-retry": "false"}
        return {"retry-after": str(self.retry_seconds)}


class RequestFailed(UsageError):
    """A request that cannot be answered, with what its sender is told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def bad_request(message: str, parameter: str | None = None, code: str = "invalid_value") -> RequestFailed:
    """A request that has something wrong with it."""
    return RequestFailed(Failure(BAD_REQUEST, code, message, parameter))


def failure_of(refusal: Refusal, *, is_paid: bool = False) -> Failure:
    """What a node's refusal, or our own, means to a program."""
    status = _STATUS_OF_REFUSAL.get(refusal.code, BAD_GATEWAY)
    seconds: int | None = None
    if status == UNAVAILABLE:
        hint = refusal.retry_in_ms
        seconds = RETRY_SECONDS if hint is None else max(-(-hint // MILLISECONDS_PER_SECOND), 1)
    return Failure(status, refusal.code.value, refusal.reason, retry_seconds=seconds, is_paid=is_paid)


def failure_of_reason(reason: str, *, is_paid: bool = False) -> Failure:
    """The same of a refusal that came as text, `code: reason`, and of any other sentence."""
    try:
        return failure_of(Refusal.from_wire(reason), is_paid=is_paid)
    except RemoteProtocolError:
        return Failure(UNAVAILABLE, "not_served", reason, retry_seconds=RETRY_SECONDS, is_paid=is_paid)


NO_SUCH_PAGE: Final = Failure(NOT_FOUND, "unknown_url", "this gateway has no such page; the API is below /v1/")
WRONG_METHOD: Final = Failure(405, "method_not_allowed", "this page is asked for with another method")
TOO_LARGE: Final = Failure(413, "request_too_large", "the request is larger than any job can be")
BROKEN: Final = Failure(INTERNAL, "internal_error", "an internal error ended it; the gateway's log says where")
STATUSES: Final[Mapping[int, Failure]] = MappingProxyType({404: NO_SUCH_PAGE, 405: WRONG_METHOD, 413: TOO_LARGE})
"""What HTTP itself refuses."""
