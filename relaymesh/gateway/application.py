"""The gateway's pages, and who may ask for them.

Programs on this machine can reach a loopback address, and so can every web page that a person visits: so a request that
a page of another origin makes is refused, and so is one that names another host than ours. With API keys, whoever has
one is let in; beyond loopback nobody else is.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from secrets import token_hex
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relaymesh.errors import RelayMeshError
from relaymesh.gateway.answers import Naming, answer_for
from relaymesh.gateway.api_keys import ApiKey, KeyRing
from relaymesh.gateway.failures import (
    BROKEN,
    FORBIDDEN,
    NOT_FOUND,
    STATUSES,
    TOO_LARGE,
    UNAVAILABLE,
    Failure,
    RequestFailed,
)
from relaymesh.gateway.listing import ModelList
from relaymesh.gateway.purchase import OPEN_PURSE, Buyer, Purchase, Purse
from relaymesh.gateway.requests import ANY_MODEL, read_request
from relaymesh.gateway.responses import OrjsonResponse, Reply, refuse
from relaymesh.gateway.verdicts import near_matches
from relaymesh.protocol.fields import JobType
from relaymesh.roles.client import Client
from relaymesh.roles.containment import report
from relaymesh.settings import Client as BuyingSettings

MAXIMUM_REQUEST_BYTES: Final = 4_000_000
PATHS: Final[tuple[tuple[str, JobType], ...]] = (
    ("/v1/chat/completions", "chat"),
    ("/v1/completions", "completion"),
    ("/v1/embeddings", "embedding"),
)
_TOLD_HEADERS: Final = ("x-relaymesh-node", "x-relaymesh-quote", "x-relaymesh-receipt", "retry-after")

Endpoint = Callable[[Request], Awaitable[Response | Reply]]


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the gateway is made of.

    Args:
        client: The market in view.
        buyer: Buys a job.
        buying: What holds where a request says nothing.
        keys: Its API keys; None lets every program on this machine ask.
        origins: Web pages that may ask, as `https://example.org`.
        maximum_requests: At the same time.
    """

    client: Client
    buyer: Buyer
    buying: BuyingSettings
    keys: KeyRing | None = None
    origins: tuple[str, ...] = ()
    maximum_requests: int = 256


class Application:
    """The gateway as an ASGI application: lets in whom it should, and says nothing of a request that nobody foresaw."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pages = _Pages(gateway)
        self._inside = 0
        self._application = _route(self._pages, gateway)

    def stop(self) -> None:
        """Give up whatever is being bought; whoever waits for it is told so."""
        for purchase in tuple(self._pages.purchases):
            purchase.give_up()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        has_begun = False

        async def tell(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        self._inside += 1
        try:
            failure = self._find_objection(Request(scope))
            inner: ASGIApp = self._application if failure is None else refuse(failure)
            await inner(scope, receive, tell)
        except Exception as error:  # noqa: BLE001  # it would be logged with what it says
            report("gateway", error)
            if not has_begun:
                await refuse(BROKEN)(scope, receive, send)
        finally:
            self._inside -= 1

    def _find_objection(self, request: Request) -> Failure | None:
        if self._inside > self._gateway.maximum_requests:
            return Failure(UNAVAILABLE, "gateway_busy", "too many requests are under way here", retry_seconds=1)
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._gateway.origins:
            return Failure(FORBIDDEN, "origin_not_allowed", "web pages of this origin may not ask; see gateway.origins")
        if self._gateway.keys is None and not _is_own_name(request.headers.get("host", "")):
            return Failure(FORBIDDEN, "host_not_allowed", "ask for 127.0.0.1 or localhost")
        return None


def _route(pages: "_Pages", gateway: Gateway) -> Starlette:
    routes = [Route(path, pages.buying(job_type), methods=["POST"]) for path, job_type in PATHS]
    routes += [Route("/v1/models", pages.models), Route("/v1/models/{name:path}", pages.model)]
    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=list(gateway.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=list(_TOLD_HEADERS),
    )
    application = Starlette(
        routes=routes, middleware=[cross_origin], exception_handlers={HTTPException: _refuse_by_status}
    )
    application.router.redirect_slashes = False
    return application


async def _refuse_by_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refuse(STATUSES.get(error.status_code, BROKEN))


def _is_own_name(host: str) -> bool:
    """Whether a `Host` header names this machine itself, rather than a name that somebody else points here."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name.casefold() == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class _Pages:
    """What is answered to whom."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._models = ModelList(gateway.client.market)
        self.purchases: set[Purchase] = set()

    def buying(self, job_type: JobType) -> Endpoint:
        """The page that sells jobs of this type."""

        async def page(request: Request) -> Response | Reply:
            try:
                return await self._begin(request, job_type)
            except RequestFailed as error:
                return refuse(error.failure)
            except RelayMeshError as error:
                return refuse(Failure(UNAVAILABLE, "not_served", str(error)))

        return page

    async def _begin(self, request: Request, job_type: JobType) -> Response | Reply:
        key = self._let_in(request)
        try:
            data = await _read_body(request)
        except ClientDisconnect:
            return Response()  # which nobody reads
        asked = read_request(job_type, data, self._gateway.buying)
        purse: Purse = OPEN_PURSE
        if key is not None and self._gateway.keys is not None:
            asked, purse = key.narrow(asked), self._gateway.keys.purse(key)
        purchase = Purchase(self._gateway.client, self._gateway.buyer, asked, purse)
        created = self._gateway.client.tools.clock().timestamp
        naming = Naming(token_hex(12), created, asked.models[0] or ANY_MODEL)
        self.purchases.add(purchase)
        return Reply(purchase, asked, answer_for(job_type, is_base64=asked.is_base64), naming, self.purchases.discard)

    def _let_in(self, request: Request) -> ApiKey | None:
        keys = self._gateway.keys
        return None if keys is None else keys.find(request.headers.get("authorization", ""))

    async def models(self, request: Request) -> JSONResponse:
        """All models."""
        try:
            self._let_in(request)
        except RequestFailed as error:
            return refuse(error.failure)
        return OrjsonResponse({"object": "list", "data": list(self._models.models().values())})

    async def model(self, request: Request) -> JSONResponse:
        """One model."""
        try:
            self._let_in(request)
        except RequestFailed as error:
            return refuse(error.failure)
        name, known = request.path_params["name"], self._models.models()
        if name in known:
            return OrjsonResponse(known[name])
        near = near_matches(name, known)
        hint = f"; near it are {', '.join(near)}" if near else ""
        return refuse(Failure(NOT_FOUND, "model_not_found", f"the model {name} is not offered{hint}", "model"))


async def _read_body(request: Request) -> bytes:
    """The body, unless it is longer than any job: then RequestFailed."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAXIMUM_REQUEST_BYTES:
            raise RequestFailed(TOO_LARGE)
    return bytes(body)
