"""How a command answers: with a result, with a failure, or later."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.errors import LightningError

Result = dict[str, Any]

UNKNOWN_METHOD: Final = -32601
BAD_PARAMETERS: Final = -32602
UNSPECIFIED: Final = -1
INJECTION_FAILED: Final = -3
WAIT_TIMED_OUT: Final = 200
REFUSED_BY_PAYEE: Final = 203
TRY_ANOTHER_ROUTE: Final = 204
NO_ROUTE: Final = 205
TOO_EXPENSIVE: Final = 206
INVOICE_EXPIRED: Final = 207
NEVER_ATTEMPTED: Final = 208
HOP_FAILED: Final = 209
ALREADY_PAID: Final = 219
LABEL_TAKEN: Final = 900
PREIMAGE_TAKEN: Final = 901
EXPIRED_DURING_WAIT: Final = 903
WAIT_ANY_TIMED_OUT: Final = 904
UNKNOWN_INVOICE: Final = 905
WRONG_STATUS: Final = 906


class RpcFailure(LightningError):
    """A JSON-RPC error, in Core Lightning's numbers and words."""

    def __init__(self, code: int, message: str, data: Result | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def to_json(self) -> Result:
        """The `error` member of a reply."""
        error: Result = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


@dataclass(frozen=True, slots=True)
class Waiting:
    """An answer that is not there yet.

    Args:
        check: Called whenever something has changed, with Unix milliseconds: the result, or None to go on waiting;
            raises RpcFailure.
        until_ms: When to call it next although nothing has changed; None where nothing is timed.
    """

    check: Callable[[int], Result | None]
    until_ms: int | None = None


Answer = Result | Waiting
