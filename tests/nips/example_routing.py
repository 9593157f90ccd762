"""The examples of routing: what the router of the small market announces, and how it ranks that market."""

from functools import cache
from typing import Final

from relaymesh.adapters.invoices import find_node_id
from relaymesh.machines.entropy import Entropy
from relaymesh.machines.reception_events import PublishAnswer
from relaymesh.machines.routing import Routing
from relaymesh.machines.routing_events import RankingAsked, RoutingSettings
from relaymesh.market.directory import Directory
from relaymesh.market.policy import POLICIES
from relaymesh.market.ranking import FORMULA
from relaymesh.market.standing import Standing
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.protocol.codec import seal_message
from relaymesh.protocol.quote import ForwardedRequest
from relaymesh.protocol.router_announcement import RouterAnnouncement, build_router_announcement
from relaymesh.units import AmountMsat, Timestamp
from tests.nips import example_market
from tests.nips.example_market import CLIENT, LIGHTNING_SECRET, NODE, RELAY_URL, ROUTER, moment

STANDING: Final = Standing(
    successes_milli=12_000, failures_milli=500, first_output_ms=380, output_units_per_1000s=62_000, trust_milli=600
)
"""What the router of the examples believes about the node."""


@cache
def make_announcement() -> VerifiedEvent:
    """The router's 38773."""
    now = moment(0).timestamp
    announcement = RouterAnnouncement(
        seq=now,
        valid_until=Timestamp(now + 3_600),
        relays=(RELAY_URL,),
        policies=tuple(policy.name for policy in RoutingSettings().policies),
        formula=FORMULA,
        fee_msat=AmountMsat(250),
        ln_pubkey=find_node_id(LIGHTNING_SECRET),
    )
    return ROUTER.sign(build_router_announcement(announcement, ROUTER.public_key, now))


@cache
def ask_router() -> VerifiedEvent:
    """The client's 28770 that carries its open request to the router."""
    draft = seal_message(
        ForwardedRequest(request=example_market.go_other_ways().open_request.to_json(), policy="balanced", asks=1),
        author=CLIENT.public_key,
        signer=CLIENT,
        recipient=ROUTER.public_key,
        answers=None,
        created_at=moment(0).timestamp,
        entropy=Entropy(b"\x5a" * 32).take(64),
    )
    return CLIENT.sign(draft)


@cache
def make_ranking() -> VerifiedEvent:
    """The router's 28775."""
    directory = Directory()
    for event in (example_market.make_offer(), example_market.make_status()):
        assert directory.apply(event, RELAY_URL, moment(0).timestamp)
    directory.set_standing(NODE.public_key, STANDING)
    routing = Routing(
        RoutingSettings(policies=tuple(POLICIES.values())),
        directory,
        signer=ROUTER,
        verify=verify,
        entropy=Entropy(b"\x5b" * 32),
    )
    routing.start(moment(0))
    routing.receive(RankingAsked(ask_router(), RELAY_URL), moment(30))
    [answer] = [effect.event for effect in routing.effects() if isinstance(effect, PublishAnswer)]
    return answer
