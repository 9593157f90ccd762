"""The node's account of a prepaid session, joined to wallet and ledger (RM-03, "Session tranches")."""

from collections.abc import Callable
from typing import Final

from relaymesh.errors import LocalProtocolError
from relaymesh.machines.job_events import Received, Send
from relaymesh.machines.records import Store
from relaymesh.machines.seller_account import SellerAccount, SellerAccountEffect, SellerAccountInput
from relaymesh.machines.session_account import read_terms
from relaymesh.machines.session_funds import AccountClosed, FundsRefused, FundsReserved
from relaymesh.machines.settlement import CreateInvoice, WatchInvoice
from relaymesh.protocol.contract import SessionContract
from relaymesh.protocol.session_messages import JobId, SessionMessage
from relaymesh.roles.containment import Contained
from relaymesh.roles.driver import Driver
from relaymesh.roles.node_invoices import NodeInvoices
from relaymesh.roles.node_tools import NodeTools
from relaymesh.roles.session_driver import SessionDriver

MAXIMUM_ACCOUNT_MESSAGES: Final = 512
"""What a client may say about a session's money, over all its connections; more ends the session."""


class NodeAccount:
    """The money of one session: drives its machine until the session is over and the rest is booked.

    Args:
        machine: What decides; the session's jobs ask its funds.
        tools: The node's.
        session_id: The session, under whose id its tranches are invoiced.
        tell_job: Hands something to one job of the session, if it is still there.
    """

    def __init__(
        self,
        machine: SellerAccount,
        tools: NodeTools,
        session_id: JobId,
        tell_job: Callable[[JobId, FundsReserved | FundsRefused], None],
    ) -> None:
        self.machine = machine
        self._tools, self._session_id, self._tell_job = tools, session_id, tell_job
        self._driver: Driver[SellerAccountInput, SellerAccountEffect] = Driver(
            machine, self._act, tools.clock, self._carry_out
        )
        self._invoices = NodeInvoices(tools.wallet, self._driver.tell)
        self._session: SessionDriver | None = None
        self._heard = 0

    def tell(self, message: SellerAccountInput) -> None:
        """Hand the account something that happened."""
        self._driver.tell(message)

    def hear(self, message: SessionMessage) -> bool:
        """Hand the account what the client said about it; False if that is more than any client has to say."""
        self._heard += 1
        if self._heard > MAXIMUM_ACCOUNT_MESSAGES:
            return False
        self._driver.tell(Received(message))
        return True

    async def run(self, session: SessionDriver) -> None:
        """Drive the account to its end; where the ledger fails, its rows stay open for the next start."""
        self._session = session
        with Contained("session account"):
            await self._driver.run()

    def _act(self, driver: Driver[SellerAccountInput, SellerAccountEffect], effect: SellerAccountEffect) -> bool:
        match effect:
            case Store():
                return False
            case Send(message):
                assert self._session is not None
                self._session.send(message, job_id=self._session_id)
            case CreateInvoice() | WatchInvoice():
                driver.start_soon(self._invoices.work, effect)
            case FundsReserved(job_id):
                self._tell_job(job_id, effect)
            case FundsRefused(job_id=job_id):
                if job_id is not None:
                    self._tell_job(job_id, effect)
            case AccountClosed():
                driver.stop()
        return True

    async def _carry_out(self, effect: SellerAccountEffect) -> None:
        if not isinstance(effect, Store):
            raise LocalProtocolError(f"{type(effect).__name__} is never waited for")
        await self._tools.ledger.write(effect.records)


def open_node_account(
    contract: SessionContract, tools: NodeTools, tell_job: Callable[[JobId, FundsReserved | FundsRefused], None]
) -> NodeAccount | None:
    """The account of a session; None where each of its jobs is paid by itself."""
    terms = read_terms(contract)
    if terms is None:
        return None
    machine = SellerAccount(contract, terms, settings=tools.job_settings)
    return NodeAccount(machine, tools, JobId(contract.session_id), tell_job)
