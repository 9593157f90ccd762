"""The vectors of nips/vectors/ranking.json: a market, an open request, a router's ranking, and rankings that lie."""

from collections.abc import Callable
from typing import Any, Final

from relaymesh.market.standing import Standing
from relaymesh.protocol.ranking import StatedStanding
from tests.machines import routers
from tests.machines.routers import Desk, call, make_market, node_key
from tests.market.builders import MODEL, NOW

KNOWN: Final = Standing(successes_milli=40_000, failures_milli=1_000, trust_milli=700)

LIES: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "two rows exchanged": lambda ranking: {"rows": [ranking["rows"][1], ranking["rows"][0], *ranking["rows"][2:]]},
    "a lower score": lambda ranking: {"rows": [{**ranking["rows"][0], "score_msat": 1}, *ranking["rows"][1:]]},
    "an eligible price excluded": lambda ranking: {
        "rows": [{**ranking["rows"][0], "excluded": "draining"}, *ranking["rows"][1:]]
    },
    "another seed": lambda ranking: {"seed": "00" * 32},
    "another time": lambda ranking: {"ranked_at": ranking["ranked_at"] - 60},
    "a standing that the score does not show": lambda ranking: {
        "rows": [
            {**ranking["rows"][0], "standing": StatedStanding(failures_milli=50_000_000).to_fields()},
            *ranking["rows"][1:],
        ]
    },
}


def build() -> dict[str, Any]:
    """Everything that a stranger needs to compute one ranking again, and what must not come out."""
    market = make_market(6, busy=(2, 5))
    market.set_standing(node_key(3).public_key, KNOWN)
    inner = call()
    signed = routers.rank_once(Desk(market), inner, policy="balanced")
    ranking = signed.ranking.to_fields()
    offers = [offer.event.to_json() for offer in market.offers(NOW)]
    statuses = [market.status(offer.node, NOW) for offer in market.offers(NOW)]
    return {
        "router": signed.router,
        "created_at": signed.event.created_at,
        "open_request": inner.to_json(),
        "events": offers + [status.event.to_json() for status in statuses if status is not None],
        "considered_ids": sorted(market.considered_ids(MODEL, "chat", NOW)),
        "ranking": ranking,
        "lies": [{"name": name, "changes": change(ranking)} for name, change in LIES.items()],
    }
