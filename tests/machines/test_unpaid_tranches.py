"""Which rows are a debt: of work that was done, and that the client let lapse or declined to pay; no others are."""

from typing import Any

import pytest

from relaymesh.machines.records import TrancheRecord, TrancheState
from relaymesh.machines.unpaid_tranches import is_unpaid_work
from relaymesh.nostr.event import PublicKey
from relaymesh.units import AmountMsat


def row(**changes: Any) -> TrancheRecord:
    fields: dict[str, Any] = {
        "side": "node",
        "state": TrancheState.EXPIRED,
        "order": "postpay",
        "invoice_label": "label",
    }
    return TrancheRecord(
        client=PublicKey("aa" * 32),
        job_id="bb" * 32,
        tranche=0,
        units=1,
        amount_msat=AmountMsat(5),
        **{**fields, **changes},
    )


@pytest.mark.parametrize(
    ("changes", "is_unpaid"),
    [
        ({}, True),
        ({"order": "sealed"}, True),
        ({"order": "prepay"}, False),
        ({"side": "client"}, False),
        ({"state": TrancheState.RELEASED}, False),
        ({"state": TrancheState.INVOICED}, False),
        ({"state": TrancheState.FAILED, "invoice_label": ""}, True),
        ({"state": TrancheState.FAILED}, False),
    ],
)
def test_work_is_unpaid_where_the_client_let_it_down(changes: dict[str, Any], is_unpaid: bool) -> None:
    assert is_unpaid_work(row(**changes)) is is_unpaid
