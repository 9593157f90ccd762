"""The status, a node's heartbeat (kind 38771): is it there, and how much of it is free (RM-01, "Status")."""

from typing import Annotated, Final, Literal

from pydantic import Field

from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fields import Label, Quantity, Sequence, Version

STATUS_LABEL: Final = "status"
NodeState = Literal["up", "busy", "draining"]


class LabelLoad(WireValue):
    """One label's capacity now: jobs that could start at once, and jobs that wait."""

    free: Quantity
    queue: Quantity


class Status(WireValue):
    """What a node's 38771 says; one for all its labels. It ends by itself at the event's `expiration` (NIP-40)."""

    v: Version = 1
    seq: Sequence
    state: NodeState
    labels: Annotated[dict[Label, LabelLoad], Field(max_length=64)]
