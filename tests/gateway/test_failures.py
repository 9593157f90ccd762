"""What a refusal means to a program, and whether it should ask again."""

import re

import pytest

from relaymesh.gateway.failures import failure_of, failure_of_reason
from relaymesh.protocol.refusal import RefusalCode, refuse
from tests.house import tree

CODE = re.compile(
    r"""(?:Failure\(\s*\w+,|\((?:BAD_REQUEST|NOT_FOUND|PAYMENT_REQUIRED|UNAVAILABLE),|code=|"model",|\w+\[0\],)\s*"([a-z]+(?:_[a-z]+)+|ledger)"[,)]"""
)


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_has_a_status_and_says_whether_to_ask_again(code: RefusalCode) -> None:
    failure = failure_of(refuse(code, "because"))
    assert failure.status in (400, 402, 404, 502, 503)
    assert ("retry-after" in failure.headers()) == (failure.status == 503)
    assert failure_of_reason(f"{code.value}: because") == failure


def test_once_money_has_moved_nobody_is_told_to_ask_again() -> None:
    busy = refuse(RefusalCode.BUSY, "no room", 1_500)
    assert failure_of(busy).headers() == {"retry-after": "2"}
    assert failure_of(busy, is_paid=True).headers() == {"x-should-retry": "false"}


def test_a_reason_that_is_no_refusal_is_a_reason_all_the_same() -> None:
    failure = failure_of_reason("No offer is eligible: over budget (1).")
    assert (failure.status, failure.message) == (503, "No offer is eligible: over budget (1).")


def test_every_code_of_the_gateways_own_is_documented() -> None:
    text = tree.text_of("docs/reference/errors.md") or ""
    table = text.partition("## The gateway's codes")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    said = {code for module in tree.modules("relaymesh/gateway/") for code in CODE.findall(module.text)}
    refusals = {code.value for code in RefusalCode}
    assert said - refusals == documented - {"invalid_value"}, "invalid_value is what stands where nothing else does"
