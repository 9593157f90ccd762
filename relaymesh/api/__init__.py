"""The Python API: what `import relaymesh` offers to a program or a notebook that buys."""

from relaymesh.api.client import Chat, Client
from relaymesh.api.values import Answer, Bought, Embeddings, Offered, Options, Quoted, Receipt
from relaymesh.errors import NotServed, RelayMeshError, UsageError
from relaymesh.market.explanation import Explanation

__all__ = [
    "Answer",
    "Bought",
    "Chat",
    "Client",
    "Embeddings",
    "Explanation",
    "NotServed",
    "Offered",
    "Options",
    "Quoted",
    "Receipt",
    "RelayMeshError",
    "UsageError",
]
