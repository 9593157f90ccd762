"""The Python API's client: sees the market, pays from a wallet and keeps a ledger, as the command line does.

It reads the same settings. What it buys is read, chosen and paid as the gateway does it, so that both take the same
requests and mean the same.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, Unpack

import anyio
import orjson
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from relaymesh.api.running import Running
from relaymesh.api.values import Answer, Embeddings, Messages, Offered, Options, Quoted, Receipt
from relaymesh.errors import NotServed, RelayError, RelayMeshError, UsageError
from relaymesh.gateway.answers import finish_reason_of
from relaymesh.gateway.requests import ANY_MODEL, Asked, read_request
from relaymesh.market.explanation import Explanation, explain
from relaymesh.market.selection import Selection
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.ports.ledger import JobQuery
from relaymesh.protocol.fields import JobType
from relaymesh.roles.client import Client as Role
from relaymesh.roles.negotiation import collect_quotes
from relaymesh.roles.session_pool import SessionPool
from relaymesh.settings import Settings

PIECES_BUFFERED: Final = 64
"""So many pieces of an answer wait for whoever iterates over it; then the node waits."""


class Client:
    """A buyer: `async with` it. One block, one event loop; calls may be made at the same time.

    Args:
        relays: Where to look for nodes; none takes those of the settings.
        wallet: The socket of Core Lightning, or a file with the connection to another wallet, as `--wallet` has it.
        config: A settings file; None takes the usual one, if it is there.
        directory: The folder for keys and ledger.
        allow_private: Whether nodes on private addresses may be connected to.

    Raises:
        UsageError: On entering the block: a setting makes no sense, or the wallet can pay nothing.
    """

    def __init__(
        self,
        relays: Iterable[str] = (),
        *,
        wallet: str | Path | None = None,
        config: str | Path | None = None,
        directory: str | Path | None = None,
        allow_private: bool | None = None,
    ) -> None:
        self._relays, self._wallet = tuple(relays), None if wallet is None else Path(wallet)
        self._config = None if config is None else Path(config)
        self._directory, self._allow_private = directory, allow_private
        self._stack = AsyncExitStack()
        self._opened: tuple[Settings, Role, SessionPool, TaskGroup] | None = None

    async def __aenter__(self) -> Self:
        from relaymesh.cli.wiring import open_client

        settings = self._load_settings()
        async with AsyncExitStack() as stack:
            role = await stack.enter_async_context(open_client(settings))
            pool = await stack.enter_async_context(SessionPool(role))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            self._opened, self._stack = (settings, role, pool, tasks), stack.pop_all()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        _, _, _, tasks = self._open
        tasks.cancel_scope.cancel()
        self._opened = None
        if isinstance(error, Exception):  # whoever uses the client gets it as it is, and in no group
            await self._stack.__aexit__(None, None, None)
            return None
        return await self._stack.__aexit__(error_type, error, trace)

    def chat(self, messages: Messages, **options: Unpack[Options]) -> "Chat":
        """A chat completion: `await` it for the whole answer, or iterate over it for the text as it comes.

        Args:
            messages: A prompt, or messages as OpenAI's API has them.

        Raises:
            UsageError: Something that was asked for makes no sense.
        """
        return Chat(self, messages, options)

    async def embed(self, texts: str | Sequence[str], **options: Unpack[Options]) -> Embeddings:
        """Embeddings of one text or of several.

        Raises:
            NotServed: Nobody made them, or not all of them.
            UsageError: Something that was asked for makes no sense.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        running = self._begin("embedding", {"input": given}, options)
        outcome = await running.run(_ignore)
        made = tuple(tuple(each["embedding"]) for each in running.whole(outcome)["data"])
        if len(made) != len(given):
            complaint = f"expected {len(given)} embeddings, the node sent {len(made)}"
            raise NotServed(complaint, code="malformed_output", is_paid=True, cost_msat=outcome.paid_msat)
        return Embeddings(vectors=made, **running.facts(outcome))

    async def quote(self, messages: Messages, **options: Unpack[Options]) -> tuple[Quoted, ...]:
        """What the best nodes would ask for a chat completion, bindingly; they learn its size, not the prompt.

        Raises:
            NotServed: Nobody quotes.
            UsageError: Something that was asked for makes no sense.
        """
        _, role, _, _ = self._open
        selection = await self._choose(messages, options)
        if not selection.chosen:
            raise NotServed(explain(selection).sentence())
        standings = role.market.standings
        collected = await collect_quotes(role.relays, role.tools.clock, selection, standings=standings)
        if not collected.quotes:
            refused = "; ".join(refusal.to_wire() for _, refusal in collected.refusals)
            raise NotServed(f"nobody quotes: {refused or 'no node answered'}")
        return tuple(
            Quoted(
                node=encode_public_key(bid.choice.candidate.offer.node),
                model=bid.quote.row.model,
                estimated_msat=bid.quote.estimated_msat,
                max_msat=bid.quote.max_msat,
                settlement=bid.chosen.sentence,
                valid_until_ms=bid.quote.valid_until_ms,
                eta_in_ms=bid.quote.eta_in_ms,
            )
            for bid in collected.quotes
        )

    async def explain(self, messages: Messages, **options: Unpack[Options]) -> Explanation:
        """Whom a chat completion would be asked of, why, and why not the others; nobody is asked."""
        return explain(await self._choose(messages, options))

    async def offers(self, model: str | None = None) -> tuple[Offered, ...]:
        """Every price that is on the market now, cheapest first within a model.

        Raises:
            RelayError: No relay answers.
        """
        from relaymesh.cli.market_snapshot import take_snapshot

        settings, role, _, _ = self._open
        if not await role.market.wait_complete(settings.client.discovery_seconds) and not role.market.is_in_view:
            raise RelayError(role.market.unreachable)
        names = Offered.__dataclass_fields__
        rows = ({name: row[name] for name in names} for row in take_snapshot(role.market, model).rows)
        return tuple(Offered(**{**row, "job_types": tuple(row["job_types"])}) for row in rows)

    async def receipts(self, limit: int = 100) -> tuple[Receipt, ...]:
        """The newest jobs of this buyer's ledger, with the evidence that both sides signed."""
        from relaymesh.cli.receipts import describe_job

        ledger, names = self._open[1].tools.ledger, Receipt.__dataclass_fields__
        jobs = await ledger.find_jobs(JobQuery(side="client", limit=limit))
        told = [describe_job(job.job, await ledger.find_evidence(job.job.job_id)) for job in jobs]
        return tuple(Receipt(**{name: job[name] for name in names}) for job in told)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _open(self) -> tuple[Settings, Role, SessionPool, TaskGroup]:
        if self._opened is None:
            raise UsageError("a relaymesh.Client works inside its block: `async with relaymesh.Client() as client:`")
        return self._opened

    def _load_settings(self) -> Settings:
        from relaymesh.cli.options import wallet_flags
        from relaymesh.cli.settings_source import load_settings

        flags: dict[str, dict[str, Any]] = {
            "network": {"relays": self._relays or None, "allow_private": self._allow_private},
            "wallet": wallet_flags(self._wallet),
            "files": {"directory": None if self._directory is None else str(self._directory)},
        }
        return load_settings(self._config, flags)

    def _ask(self, job_type: JobType, content: Mapping[str, Any], options: Options) -> Asked:
        """The request as the gateway reads it."""
        names = ("max_msat", "settlement", "policy")
        told: dict[str, Any] = {"model": ANY_MODEL, **options.get("parameters", {}), **content}
        told |= {name: value for name, value in options.items() if name in ("model", "models", "provider")}
        told["relaymesh"] = {name: value for name, value in options.items() if name in names}
        if "output_tokens" in options:
            told["max_tokens"] = options["output_tokens"]
        try:
            body = orjson.dumps(told)
        except orjson.JSONEncodeError:
            raise UsageError("expected messages, texts and parameters that JSON can say") from None
        return read_request(job_type, body, self._open[0].client)

    def _begin(self, job_type: JobType, content: Mapping[str, Any], options: Options) -> Running:
        _, role, pool, _ = self._open
        return Running(role, pool, self._ask(job_type, content, options))

    async def _choose(self, messages: Messages, options: Options) -> Selection:
        _, role, _, _ = self._open
        wanted = self._ask("chat", {"messages": _listed(messages)}, options).wanted
        count = wanted.preferences.count(role.candidates)
        selection = await role.wait_for_choice(wanted.to_request(), policy=wanted.counting, count=count)
        if not role.market.is_in_view:
            raise RelayError(role.market.unreachable)
        return selection


class Chat:
    """A chat completion that was asked for; nothing happens before it is awaited or iterated over, once.

    Attributes:
        answer: The whole answer, once there is no more; None before.
    """

    def __init__(self, client: Client, messages: Messages, options: Options) -> None:
        self.answer: Answer | None = None
        self._client, self._messages, self._options = client, messages, options

    def __await__(self) -> Generator[Any, Any, Answer]:
        """The whole answer. Raises NotServed where it did not come, or not all of it."""
        return self._run(self._begin(is_streamed=False), _ignore).__await__()

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """The text, piece by piece; leaving the loop cancels the job, and what came is paid for.

        Under asyncio leaving is enough; under trio, and wherever that must not wait for Python, use
        `contextlib.aclosing`.

        Raises:
            NotServed: After the last piece, where it was not all.
        """
        running, failures = self._begin(is_streamed=True), list[RelayMeshError]()
        send, receive = anyio.create_memory_object_stream[str](PIECES_BUFFERED)

        async def buy(send: MemoryObjectSendStream[str]) -> None:
            async with send:
                try:
                    await self._run(running, send.send)
                except RelayMeshError as error:
                    failures.append(error)
                except anyio.BrokenResourceError:
                    pass  # nobody reads any more

        self._client._open[3].start_soon(buy, send)
        try:
            async for piece in receive:
                yield piece
        finally:
            receive.close()
            if self.answer is None:
                running.give_up()
        for failure in failures:
            raise failure

    def _begin(self, *, is_streamed: bool) -> Running:
        content = {"messages": _listed(self._messages), "stream": is_streamed}
        return self._client._begin("chat", content, self._options)

    async def _run(self, running: Running, deliver: Callable[[str], Awaitable[None]]) -> Answer:
        outcome = await running.run(deliver)
        message = running.whole(outcome)["choices"][0]["message"]
        self.answer = Answer(
            text=message.get("content") or "",
            message=message,
            finish_reason=finish_reason_of(outcome),
            **running.facts(outcome),
        )
        return self.answer


async def _ignore(piece: str) -> None:
    """Nobody reads along."""


def _listed(messages: Messages) -> list[Any]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
