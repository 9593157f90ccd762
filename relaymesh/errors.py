"""Every exception RelayMesh raises, as one tree.

    RelayMeshError
    ├── ProtocolError
    │   ├── LocalProtocolError      a bug on this side; never caught to go on
    │   └── RemoteProtocolError     the other side broke the protocol: end this exchange, keep the role running
    ├── PortError                   the world failed us: mapped once, in the adapter, `raise … from`
    │   ├── RelayError              a relay could not be reached or would not take what we sent
    │   ├── SessionError            a peer-to-peer connection could not be made or broke
    │   ├── LightningError          the Lightning node did not answer or refused; money did not move
    │   ├── RunnerError             the model server failed
    │   │   └── RunnerRefused       the model server will not take this job's body
    │   └── LedgerError             the ledger could not be read or written
    ├── NotServed                   nobody served a purchase to its end; it says whether money has moved
    └── UsageError                  a person gave something we cannot use; one sentence that says what to do

Three questions decide the type: whose fault is it, can it be retried, does money move? Being refused is no exception
but a value (`relaymesh.protocol.refusal.Refusal`), until the Python API raises `NotServed`; and a payment whose outcome
is unknown is a value too (`relaymesh.ports.lightning.PaymentUnknown`). No message contains a prompt, an output, a
preimage or a secret key.
"""


class RelayMeshError(Exception):
    """The root: catching it catches everything RelayMesh raises on purpose, and nothing else."""


class ProtocolError(RelayMeshError):
    """The protocol was broken, by us or by the other side."""


class LocalProtocolError(ProtocolError):
    """This side asked for something the protocol does not allow: a bug here, never the peer's fault."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something the protocol does not allow; the exchange ends, the role goes on."""


class PortError(RelayMeshError):
    """Something outside this process failed.

    Args:
        message: What was expected and what came, in one sentence.
        retryable: Whether the same call may succeed later without anybody changing anything.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class RelayError(PortError):
    """A relay could not be reached, closed on us, or would not take what we sent."""


class SessionError(PortError):
    """A peer-to-peer connection could not be made, or broke."""


class LightningError(PortError):
    """The Lightning node did not answer or refused the request before any money could move."""


class RunnerError(PortError):
    """The model server could not be reached, refused, or failed while it ran."""


class RunnerRefused(RunnerError):
    """The model server refused this job's body; asking again with the same body will be refused again."""


class LedgerError(PortError):
    """The ledger could not be opened, read or written."""


class NotServed(RelayMeshError):
    """Nobody served a purchase, or what came is not all of it; raised by the Python API alone.

    Args:
        message: Why, in one sentence.
        code: The same in one word for programs.
        is_paid: Whether money has moved, or may have: who asks again may pay again.
        partial: The text that had come.
        cost_msat: What is known to have been paid for it.
    """

    def __init__(
        self, message: str, *, code: str = "not_served", is_paid: bool = False, partial: str = "", cost_msat: int = 0
    ) -> None:
        super().__init__(message)
        self.code, self.is_paid, self.partial, self.cost_msat = code, is_paid, partial, cost_msat


class UsageError(RelayMeshError):
    """A person gave something that cannot be used: one sentence with what was expected, what came, what to do."""
