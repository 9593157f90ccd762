"""A request to manage the relay (NIP-86), from who signed it to the answer once its effect is durable."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson

from relaymesh.errors import RemoteProtocolError
from relaymesh.units import Moment
from relaymesh_relay.http_authorization import Authorizations
from relaymesh_relay.http_messages import HttpRequest, respond
from relaymesh_relay.management import RPC_TYPE, Desk, perform
from relaymesh_relay.moderation import Change, Moderation
from relaymesh_relay.pipeline import Errand, Pipeline
from relaymesh_relay.settings import Settings
from relaymesh_relay.store import StorageError, Writer


class Administration:
    """The door for administrators.

    Args:
        moderation: Where decisions are entered, once they are durable.
        pipeline: Whose writer keeps them.
        decided: Called after each, to have it take effect.
        read_clock: Says what time it is.
    """

    def __init__(
        self,
        moderation: Moderation,
        pipeline: Pipeline,
        decided: Callable[[], object],
        read_clock: Callable[[], Moment],
    ) -> None:
        self._moderation = moderation
        self._pipeline = pipeline
        self._decided = decided
        self._read_clock = read_clock
        self._authorizations = Authorizations()

    def answer(self, request: HttpRequest, configured: Settings, url: str, send: Callable[[bytes], object]) -> None:
        """Do what a request asks for and have `send` called once with the response.

        Args:
            request: A POST.
            configured: What the operator's file says.
            url: The relay's, which the authorization must name.
            send: Takes the response, now or when a decision is durable.
        """
        try:
            self._authorizations.check(
                request.head.headers.get("authorization", ""),
                method=request.head.method,
                url=url,
                body=request.body,
                signers=configured.access.administrators,
                now=self._read_clock().timestamp,
            )
        except RemoteProtocolError as error:
            send(_response(HTTPStatus.UNAUTHORIZED, {"error": str(error)}))
            return
        try:
            outcome = perform(request.body, Desk(configured, self._moderation))
        except RemoteProtocolError as error:
            send(_response(HTTPStatus.OK, {"error": str(error)}))
            return
        if isinstance(outcome, Change):
            self._decide(outcome, send)
        else:
            send(_response(HTTPStatus.OK, {"result": outcome}))

    def carry_on(self) -> None:
        """Go on removing what was banned, where the relay was stopped in the middle of it."""
        for change in self._moderation.bans():
            self._pipeline.do(Errand(_deciding(change), lambda _: None))

    def _decide(self, change: Change, send: Callable[[bytes], object]) -> None:
        def done(failure: StorageError | None) -> None:
            if failure is not None:
                send(_response(HTTPStatus.OK, {"error": f"{failure}; try again later"}))
                return
            self._moderation.decide(change)
            self._decided()
            send(_response(HTTPStatus.OK, {"result": True}))

        self._pipeline.do(Errand(_deciding(change), done))


def _deciding(change: Change) -> Callable[[Writer], bool]:
    return lambda writer: writer.decide(change)


def _response(status: HTTPStatus, content: dict[str, Any]) -> bytes:
    more = {"WWW-Authenticate": "Nostr"} if status is HTTPStatus.UNAUTHORIZED else {}
    return respond(status, orjson.dumps(content), RPC_TYPE, more=more)
