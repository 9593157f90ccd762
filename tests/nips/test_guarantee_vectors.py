"""Guarantees as RM-03 has them, read once more by the stranger, who knows nothing of our code."""

import json

from tests.house import tree
from tests.nips.stranger import Json, is_genuine, tag

DAY_SECONDS = 86_400


def may_rely(event: Json, node: str, client: str, now: int) -> bool:
    """RM-03, "Postpay": whether `node` may rely on it, shown by `client` at `now`."""
    if not is_genuine(event) or event["kind"] != 8775 or tag(event, "p") != node:
        return False
    content, made = json.loads(event["content"]), event["created_at"]
    in_time = made <= now + 60 and now < content["valid_until"] <= made + DAY_SECONDS
    return bool(content["v"] == 1 and content["client"] == client and in_time)


def test_the_stranger_decides_every_vector_as_we_do() -> None:
    vectors = json.loads((tree.ROOT / "nips/vectors/guarantee.json").read_text(encoding="utf-8"))
    assert [each["holds"] for each in vectors] == [True, True, True] + [False] * 7
    for each in vectors:
        decided = may_rely(each["event"], each["node"], each["client"], each["now"])
        assert decided == each["holds"], each["what"]
