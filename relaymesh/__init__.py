"""RelayMesh: an open market for AI inference that nobody owns."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaymesh.api import (
        Answer,
        Bought,
        Chat,
        Client,
        Embeddings,
        Explanation,
        NotServed,
        Offered,
        Options,
        Quoted,
        Receipt,
        RelayMeshError,
        UsageError,
    )

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


def __getattr__(name: str) -> Any:
    """Load the API when it is first used: whoever needs a part of this package does not wait for all of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from relaymesh import api

    return getattr(api, name)
