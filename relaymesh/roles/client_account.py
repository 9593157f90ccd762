"""The client's account of a prepaid session, joined to wallet and ledger (RM-03, "Session tranches")."""

from collections.abc import Callable
from typing import Final

import anyio

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.buyer_account import BuyerAccount, BuyerAccountEffect, BuyerAccountInput
from relaymesh.machines.job_events import ReadInvoice, Received, Send
from relaymesh.machines.records import Store
from relaymesh.machines.session_account import read_terms
from relaymesh.machines.session_funds import AccountClosed, FundsChanged, FundsRefused
from relaymesh.machines.settlement import LookUpPayment, Pay
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.session_messages import JobId, SessionMessage
from relaymesh.roles.client_payments import ClientPayments
from relaymesh.roles.client_tools import ClientTools
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Driver
from relaymesh.roles.session_driver import SessionDriver

MAXIMUM_ACCOUNT_MESSAGES: Final = 512
"""What a node may say about a session's money, over all connections; more ends the session."""


class ClientAccount:
    """The money of one session: drives its machine until the session is over and the rest is booked.

    Args:
        machine: What decides; the session's jobs book what they drew in it.
        tools: The client's.
        session_id: The session, under whose id its tranches are paid.
        tell_jobs: Hands something to every job of the session.
    """

    def __init__(
        self,
        machine: BuyerAccount,
        tools: ClientTools,
        session_id: JobId,
        tell_jobs: Callable[[FundsChanged | FundsRefused], None],
    ) -> None:
        self.machine = machine
        self._tools, self._session_id, self._tell_jobs = tools, session_id, tell_jobs
        self._driver: Driver[BuyerAccountInput, BuyerAccountEffect] = Driver(
            machine, self._act, tools.clock, self._carry_out
        )
        self._payments = ClientPayments(tools, session_id, self._driver.tell)
        self._session: SessionDriver | None = None
        self._closed = anyio.Event()
        self._heard = 0

    def tell(self, message: BuyerAccountInput) -> None:
        """Hand the account something that happened."""
        self._driver.tell(message)

    def hear(self, message: SessionMessage) -> bool:
        """Hand the account what the node said about it; False if that is more than any node has to say."""
        self._heard += 1
        if self._heard > MAXIMUM_ACCOUNT_MESSAGES:
            return False
        self._driver.tell(Received(message))
        return True

    async def run(self, session: SessionDriver) -> None:
        """Drive the account to its end; where the ledger fails, its rows stay open for the next start."""
        self._session = session
        try:
            with Contained("session account"):
                await self._driver.run()
        finally:
            self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until nothing more is to be written."""
        await self._closed.wait()

    def _act(self, driver: Driver[BuyerAccountInput, BuyerAccountEffect], effect: BuyerAccountEffect) -> bool:
        match effect:
            case Store():
                return False
            case Send(message):
                assert self._session is not None
                self._session.send(message, job_id=self._session_id)
            case ReadInvoice() | Pay() | LookUpPayment():
                driver.start_soon(self._payments.work, effect)
            case FundsChanged() | FundsRefused():
                self._tell_jobs(effect)
            case AccountClosed():
                driver.stop()
        return True

    async def _carry_out(self, effect: BuyerAccountEffect) -> None:
        if not isinstance(effect, Store):
            raise LocalProtocolError(f"{type(effect).__name__} is never waited for")
        await self._tools.ledger.write(effect.records)


def open_client_account(
    contract: SessionContract, tools: ClientTools, tell_jobs: Callable[[FundsChanged | FundsRefused], None]
) -> ClientAccount | None:
    """The account of a session; None where each of its jobs is paid by itself."""
    terms = read_terms(contract)
    if terms is None:
        return None
    machine = BuyerAccount(
        contract, terms, known_payment_hashes=tools.known_payment_hashes, settings=tools.job_settings
    )
    return ClientAccount(machine, tools, JobId(contract.session_id), tell_jobs)
