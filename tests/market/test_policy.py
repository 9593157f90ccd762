"""What counts for a buyer is a handful of integers, each within its range."""

from dataclasses import fields, replace
from typing import Any

import pytest

from relaymesh.errors import LocalProtocolError
from relaymesh.market.policy import BALANCED, CHEAPEST, FASTEST, POLICIES, TRUSTED


def test_a_policy_is_found_by_its_name() -> None:
    assert [POLICIES[name] for name in ("cheapest", "fastest", "balanced", "trusted")] == [
        CHEAPEST,
        FASTEST,
        BALANCED,
        TRUSTED,
    ]


@pytest.mark.parametrize("name", [field.name for field in fields(BALANCED) if field.name != "name"])
def test_every_weight_has_its_range(name: str) -> None:
    most = 1_000 if name == "stake_milli" else 10**6
    for weight in (0, most):
        changes: dict[str, Any] = {name: weight}
        assert getattr(replace(BALANCED, **changes), name) == weight
    for weight in (-1, most + 1):
        changes = {name: weight}
        with pytest.raises(LocalProtocolError, match=name):
            replace(BALANCED, **changes)
