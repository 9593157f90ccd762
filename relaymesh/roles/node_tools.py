"""What every session of a node shares: its key, wallet, runner, ledger, and what it has at stake."""

from dataclasses import dataclass, field

from relaymesh.machines.job_settings import NodeJobSettings
from relaymesh.market.unpaid_work import UnpaidWork
from relaymesh.nostr.keys import KeyPair
from relaymesh.ports.ledger import Ledger
from relaymesh.ports.lightning import InvoiceIssuer
from relaymesh.ports.runners import Runner
from relaymesh.roles.driver import Clock
from relaymesh.roles.node_places import Places


@dataclass(slots=True)
class NodeTools:
    """What every session of a node shares, and how busy the node is.

    Attributes:
        unpaid: What it does for others before it is paid.
        is_runner_suspect: Whether the runner failed the last time: it is asked for a sign of life before anybody pays.
    """

    key: KeyPair
    wallet: InvoiceIssuer
    runner: Runner
    ledger: Ledger
    clock: Clock
    places: Places
    job_settings: NodeJobSettings = field(default_factory=NodeJobSettings)
    unpaid: UnpaidWork = field(default_factory=UnpaidWork)
    is_runner_suspect: bool = False
