"""The embedded Lightning network: wallets around a routing hub, each answering Core Lightning's JSON-RPC on a socket.

Everything that decides is pure and takes the time as an argument (`ledger`, `routes`, `payments`, `invoicing`,
`simulation`, `commands`); `server` has the sockets and the clock, `store` the file.
"""

from relaymesh.lightning_sim.plan import NetworkPlan as NetworkPlan
from relaymesh.lightning_sim.plan import WalletPlan as WalletPlan
from relaymesh.lightning_sim.server import LightningNetwork as LightningNetwork
