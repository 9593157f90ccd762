"""The answer to one request as it goes over the wire: whole, or as server-sent events that leave as outputs arrive.

Nothing stands between a node's output and the socket, so whoever reads slowly slows the node. The first byte is held
back until there is output: until then a failure has its own status. When the reader is gone, the purchase is given up.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import orjson
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from relaymesh.errors import RelayMeshError
from relaymesh.gateway.answers import END_OF_STREAM, Answer, Naming, event, finish_reason_of, usage_of
from relaymesh.gateway.failures import BROKEN, INTERNAL, Failure
from relaymesh.gateway.purchase import Purchase, Result
from relaymesh.gateway.requests import Asked
from relaymesh.market.explanation import explain
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.roles.containment import Contained

_EVENTS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class Reply:
    """An ASGI application for one request: buys, and answers with what comes."""

    def __init__(
        self, purchase: Purchase, asked: Asked, answer: Answer, naming: Naming, over: Callable[[Purchase], None]
    ) -> None:
        self._purchase, self._asked, self._answer, self._naming = purchase, asked, answer, naming
        self._over = over
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._answer_one(scope, receive, send)
        finally:
            self._over(self._purchase)

    async def _answer_one(self, scope: Scope, receive: Receive, send: Send) -> None:
        result: Result | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_reader, receive)
            with Contained("gateway"):
                result = await self._buy(send)
            tasks.cancel_scope.cancel()
        if result is None:
            result = Result(None, BROKEN)
        if self._has_begun:
            await self._end_stream(result, send)
        elif self._asked.is_streamed and result.failure is None and result.outcome is not None:
            await self._begin_stream(send)  # of no output at all
            await self._end_stream(result, send)
        else:
            await self._whole(result)(scope, receive, send)

    async def _buy(self, send: Send) -> Result:
        try:
            return await self._purchase.run(lambda data: self._deliver(data, send))
        except RelayMeshError as error:  # of our own making, in words for a person
            return Result(None, Failure(INTERNAL, "not_served", str(error), is_paid=self._has_begun))

    async def _watch_reader(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._purchase.give_up()

    async def _deliver(self, data: str, send: Send) -> None:
        said = self._answer.take(data, self._naming_now())
        if not self._asked.is_streamed:
            return
        if not self._has_begun:
            await self._begin_stream(send)
        await send({"type": "http.response.body", "body": said, "more_body": True})

    async def _begin_stream(self, send: Send) -> None:
        self._has_begun = True
        named = [(name.encode(), value.encode()) for name, value in self._names(None).items()]
        await send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS, *named]})

    def _naming_now(self) -> Naming:
        """The answer's naming, with the model that really answers."""
        contract = self._purchase.contract
        if contract is not None and contract.quote.row.model != self._naming.model:
            self._naming = Naming(self._naming.identity, self._naming.created, contract.quote.row.model)
        return self._naming

    def _names(self, result: Result | None) -> dict[str, str]:
        """Node, quote and, once there is one, receipt: as headers."""
        contract = self._purchase.contract
        if contract is None:
            return {}
        names = {
            "x-relaymesh-node": encode_public_key(contract.node),
            "x-relaymesh-quote": contract.quote_event.id,
        }
        receipt = None if result is None or result.outcome is None else result.outcome.receipt
        return names if receipt is None else {**names, "x-relaymesh-receipt": receipt.id}

    def _told(self, result: Result) -> dict[str, Any]:
        """What `relaymesh` says beside an answer: the evidence by its ids, the cost and, if asked, why this node."""
        outcome, selection = result.outcome, self._purchase.selection
        told: dict[str, Any] = {name.removeprefix("x-relaymesh-"): value for name, value in self._names(result).items()}
        if outcome is not None:
            told |= {"cost_msat": outcome.paid_msat, "fees_msat": outcome.fees_msat, "verified": outcome.is_verified}
            told |= {"complaints": list(outcome.complaints)} if outcome.complaints else {}
        if self._asked.explains and selection is not None:
            told["explanation"] = explain(selection).to_json()
        return told

    def _whole(self, result: Result) -> JSONResponse:
        """An answer that is not streamed, or a failure before anything was."""
        headers, failure, outcome = self._names(result), result.failure, result.outcome
        if failure is None and outcome is not None:
            body = self._answer.whole(finish_reason_of(outcome), usage_of(outcome), self._naming_now())
            return OrjsonResponse({**body, "relaymesh": self._told(result)}, headers=headers)
        return refuse(failure or BROKEN, headers, self._partial(result))

    def _partial(self, result: Result) -> dict[str, Any]:
        """Beside a failure: what was delivered and paid for before it."""
        outcome = result.outcome
        if outcome is None or not outcome.observation.outputs:
            return {"relaymesh": self._told(result)} if self._asked.explains else {}
        whole = self._answer.whole("error", usage_of(outcome), self._naming_now())
        return {**whole, "relaymesh": self._told(result)}

    async def _end_stream(self, result: Result, send: Send) -> None:
        failure, outcome, naming = result.failure, result.outcome, self._naming_now()
        usage = None if outcome is None else usage_of(outcome)
        told = {"relaymesh": self._told(result)}
        if failure is not None or outcome is None:
            counted = {} if usage is None else {"usage": usage}
            body = event({**self._answer.end("error", naming), **counted, **(failure or BROKEN).to_json(), **told})
        elif self._asked.includes_usage and usage is not None:
            body = event(self._answer.end(finish_reason_of(outcome), naming))
            body += event({**self._answer.counts(usage, naming), **told})
        else:  # a reader who did not ask for a chunk without choices gets none
            body = event({**self._answer.end(finish_reason_of(outcome), naming), **told})
        body += END_OF_STREAM
        await send({"type": "http.response.body", "body": body, "more_body": False})


class OrjsonResponse(JSONResponse):
    """JSON as orjson writes it."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


def refuse(
    failure: Failure, headers: Mapping[str, str] | None = None, beside: Mapping[str, Any] | None = None
) -> JSONResponse:
    """A failure as a response."""
    told = {**(headers or {}), **failure.headers()}
    return OrjsonResponse({**(beside or {}), **failure.to_json()}, status_code=failure.status, headers=told)
