"""One purchase of the Python API, and the answer that it becomes; bought as the gateway buys."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from relaymesh.errors import NotServed
from relaymesh.gateway.answers import STRUCTURED, Naming, answer_for, finish_reason_of, usage_of
from relaymesh.gateway.purchase import Purchase
from relaymesh.gateway.requests import Asked
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.roles.client import Client
from relaymesh.roles.session_pool import SessionPool
from relaymesh.units import Timestamp

_UNNAMED: Final = Naming("", Timestamp(0), "")


class Running:
    """One purchase, and the answer that it becomes."""

    def __init__(self, role: Client, pool: SessionPool, asked: Asked) -> None:
        self._purchase = Purchase(role, pool.buy, asked)
        self._answer = answer_for(asked.wanted.job_type)
        self._text: list[str] = []

    async def run(self, deliver: Callable[[str], Awaitable[None]]) -> JobEnded:
        """Buy it; `deliver` gets the text. Raises NotServed."""

        async def take(data: str) -> None:
            self._answer.take(data, _UNNAMED)
            if not data.startswith(STRUCTURED):  # which is in the whole answer
                self._text.append(data)
                await deliver(data)

        result = await self._purchase.run(take)
        if result.failure is None and result.outcome is not None:
            return result.outcome
        failure, cost_msat = result.failure, 0 if result.outcome is None else result.outcome.paid_msat
        raise NotServed(
            "nobody served" if failure is None else failure.message,
            code="not_served" if failure is None else failure.code,
            is_paid=failure is not None and failure.is_paid,
            partial="".join(self._text),
            cost_msat=cost_msat,
        )

    def give_up(self) -> None:
        """Nobody wants it any more."""
        self._purchase.give_up()

    def whole(self, outcome: JobEnded) -> dict[str, Any]:
        """The answer as OpenAI's API has it."""
        return self._answer.whole(finish_reason_of(outcome), usage_of(outcome), _UNNAMED)

    def facts(self, outcome: JobEnded) -> dict[str, Any]:
        """Who served, and what it cost."""
        contract, usage = self._purchase.contract, usage_of(outcome)
        assert contract is not None  # a job ran in it
        return {
            "model": contract.quote.row.model,
            "node": encode_public_key(contract.node),
            "job_id": outcome.job_id,
            "cost_msat": outcome.paid_msat,
            "fees_msat": outcome.fees_msat,
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "receipt_id": None if outcome.receipt is None else outcome.receipt.id,
            "is_verified": outcome.is_verified,
            "complaints": outcome.complaints,
        }
