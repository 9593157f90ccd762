"""An open request on its way through routers: what was sent to each, what each answered, and who is still to quote."""

from relaymesh.machines.opening_events import RouterAnswered, RoutingRequest
from relaymesh.market.ranking import buyer_request
from relaymesh.market.recomputation import SignedRanking
from relaymesh.nostr.event import PublicKey, VerifiedEvent
from relaymesh.protocol.codec import MarketMessage
from relaymesh.protocol.open_request import read_open_request
from relaymesh.protocol.quote import ForwardedRequest, RefusalMessage
from relaymesh.protocol.ranking import Ranking
from relaymesh.protocol.refusal import Refusal, RefusalCode, refuse


class RoutedCall:
    """One open request and the routers that it goes to instead of going to everybody (RM-04, "Asking a router")."""

    def __init__(self, routing: RoutingRequest) -> None:
        self._routing = routing
        self._inner: VerifiedEvent | None = None
        self._carriers: dict[PublicKey, VerifiedEvent] = {}
        self._silent = set(routing.routers)
        self._awaited: set[PublicKey] = set()
        self._answered: set[PublicKey] = set()

    @property
    def routers(self) -> tuple[PublicKey, ...]:
        """Whom it goes to."""
        return self._routing.routers

    def carrier(self, inner: VerifiedEvent) -> ForwardedRequest:
        """What brings this open request to a router."""
        self._inner = inner
        return ForwardedRequest(request=inner.to_json(), policy=self._routing.policy, asks=self._routing.asks)

    def sent(self, router: PublicKey, event: VerifiedEvent) -> None:
        """Note the 28770 that a router gets."""
        self._carriers[router] = event

    @property
    def unanswered(self) -> tuple[VerifiedEvent, ...]:
        """What is to be sent again."""
        return tuple(event for router, event in self._carriers.items() if router in self._silent)

    def answers(self, event: VerifiedEvent) -> bool:
        """Whether an event is a router's answer to what it was sent."""
        carrier = self._carriers.get(event.public_key)
        return carrier is not None and event.tag_value("e") == carrier.id

    def take(self, event: VerifiedEvent, answer: MarketMessage | Refusal) -> RouterAnswered:
        """Take in a router's answer; a ranking says which nodes are still to quote."""
        router, inner = event.public_key, self._inner
        assert inner is not None
        if isinstance(answer, Ranking) and answer.request_id == self._carriers[router].id:
            self._silent.discard(router)
            self._awaited.update(row.node for row in answer.rows if row.asked)
            request = buyer_request(read_open_request(inner), inner)
            return RouterAnswered(router, SignedRanking(event, answer, request))
        if not isinstance(answer, RefusalMessage | Refusal):
            answer = refuse(RefusalCode.INVALID_MESSAGE, "an answer of the wrong kind")
        refusal = answer.to_refusal() if isinstance(answer, RefusalMessage) else answer
        bolt11 = answer.bolt11 if isinstance(answer, RefusalMessage) else None
        is_to_be_paid = refusal.code is RefusalCode.PAYMENT_REQUIRED and self._routing.pays_fees
        if not is_to_be_paid:
            self._silent.discard(router)
        return RouterAnswered(router, refusal, bolt11)

    def heard_from(self, node: PublicKey) -> None:
        """Note that a node has quoted or refused."""
        self._answered.add(node)

    @property
    def is_complete(self) -> bool:
        """Whether every router, and every node that one of them asked, has answered."""
        return not self._silent and self._awaited <= self._answered
