"""One job, made by the machines of both sides with fixed keys, preimages and times: every message, in order."""

import hashlib
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from relaymesh.adapters.invoices import InvoiceDraft, decode_invoice, encode_invoice
from relaymesh.machines.client_job import ClientJob
from relaymesh.machines.job_events import (
    InvoiceRead,
    ReadInvoice,
    Received,
    RunnerFinished,
    RunnerProduced,
    Send,
    StartRunner,
)
from relaymesh.machines.job_outcome import JobEnded
from relaymesh.machines.node_job import NodeJob
from relaymesh.machines.settlement import CreateInvoice, InvoiceIssued, InvoiceResolved, Pay, PaymentResolved
from relaymesh.market.admission import admit_job
from relaymesh.market.pricing import TranchePlan
from relaymesh.nostr.event import VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.protocol.commitments import JobCommitments, derive_job_commitments
from relaymesh.protocol.contract import JobOrder
from relaymesh.protocol.key_schedule import SessionSecrets, derive_session_secrets
from relaymesh.protocol.payment import PaymentSucceeded
from relaymesh.protocol.session_messages import JobMessage, MeteringMessage, ReceiptMessage, SessionMessage
from relaymesh.units import AmountMsat
from tests.nips import example_market
from tests.nips.example_market import BODY, CLIENT, CLIENT_EPHEMERAL, NODE, NODE_EPHEMERAL, SESSION_ID, moment

JOB_NONCE: Final = b"\x06" * 32
PIECES: Final = ("RelayMesh is an open market ", "for AI inference ", "that nobody owns. 🤝")
INPUT_TOKENS, OUTPUT_TOKENS = 17, 14


def session_secrets() -> SessionSecrets:
    """What both sides derive from the handshake, as the client does."""
    agreed = example_market.agree()
    return derive_session_secrets(
        agreed.session_request.id,
        agreed.session_accept.id,
        CLIENT_EPHEMERAL.shared_secret(NODE_EPHEMERAL.public_key),
        CLIENT_EPHEMERAL.shared_secret(NODE.public_key),
    )


def job_order() -> JobOrder:
    """What the client wants."""
    return JobOrder("tiny", "chat", BODY, example_market.OUTPUT_BYTES, AmountMsat(5_000), JOB_NONCE)


def preimage(tranche: int) -> bytes:
    """What the node's wallet draws for a tranche's invoice."""
    return hashlib.sha256(b"relaymesh example %d" % tranche).digest()


@dataclass
class Exchange:
    """Both machines, and every message between them: who sent it, and what."""

    commitments: JobCommitments
    transcript: list[tuple[str, SessionMessage]] = field(default_factory=list)
    payment_hashes: dict[int, str] = field(default_factory=dict)
    outcomes: list[JobEnded] = field(default_factory=list)
    milliseconds: int = 100

    def run(self) -> None:
        """From JOB to RECEIPT."""
        contract, order = example_market.agree().contract, job_order()
        row = contract.quote.row
        granted = admit_job(
            row, input_units=len(BODY), maximum_output_units=order.output_units, maximum_msat=order.maximum_msat
        )
        assert isinstance(granted, int)
        plan = TranchePlan(row, len(BODY), granted, contract.term.tranche_units)
        self.client = ClientJob(contract, order, plan, signer=CLIENT, verify=verify, commitments=self.commitments)
        self.node: NodeJob | None = None
        self.pending: deque[Any] = deque()
        self.client.start(moment(self.milliseconds))
        self._take(self.client, "client")
        while self.pending:
            action = self.pending.popleft()
            self.milliseconds += 10
            action()

    def _tell(self, side: str, message: Any) -> None:
        def act() -> None:
            machine = self.client if side == "client" else self.node
            if machine is None:
                assert isinstance(message, Received) and isinstance(message.message, JobMessage)
                self.node = machine = NodeJob(
                    example_market.agree().contract,
                    message.message,
                    input_tokens=INPUT_TOKENS,
                    signer=NODE,
                    verify=verify,
                    commitments=self.commitments,
                )
                machine.start(moment(self.milliseconds))
            else:
                machine.receive(message, moment(self.milliseconds))
            self._take(machine, side)

        self.pending.append(act)

    def _take(self, machine: ClientJob | NodeJob, side: str) -> None:
        for effect in machine.effects():
            match effect:
                case Send(message):
                    self.transcript.append((side, message))
                    self._tell("node" if side == "client" else "client", Received(message))
                case CreateInvoice():
                    self._tell("node", self._issue(effect))
                case ReadInvoice(tranche, bolt11):
                    self._tell("client", InvoiceRead(tranche, decode_invoice(bolt11)))
                case Pay(tranche):
                    paid = PaymentSucceeded(preimage(tranche), effect.amount_msat, AmountMsat(1))
                    self._tell("client", PaymentResolved(tranche, paid))
                    self._tell("node", InvoiceResolved(tranche, True))
                case StartRunner():
                    for piece in PIECES:
                        self._tell("node", RunnerProduced(piece, OUTPUT_TOKENS // len(PIECES)))
                    self._tell("node", RunnerFinished(INPUT_TOKENS, OUTPUT_TOKENS, "stop"))
                case JobEnded():
                    self.outcomes.append(effect)
                case _:
                    pass

    def _issue(self, wanted: CreateInvoice) -> InvoiceIssued:
        now = moment(self.milliseconds).timestamp
        payment_hash = hashlib.sha256(preimage(wanted.tranche)).hexdigest()
        self.payment_hashes[wanted.tranche] = payment_hash
        draft = InvoiceDraft(
            "bcrt", wanted.amount_msat, payment_hash, "07" * 32, now, wanted.expiry_seconds, wanted.description
        )
        bolt11 = encode_invoice(draft, example_market.LIGHTNING_SECRET)
        return InvoiceIssued(wanted.tranche, bolt11, payment_hash, (now + wanted.expiry_seconds) * 1_000)


@cache
def finish() -> tuple[Exchange, JobEnded]:
    """The whole exchange and how it ended."""
    job_id = job_order().job_id(SESSION_ID)
    exchange = Exchange(derive_job_commitments(session_secrets(), job_id))
    exchange.run()
    [outcome] = exchange.outcomes
    return exchange, outcome


def make_metering() -> VerifiedEvent:
    """The node's 8770."""
    return _event_of(MeteringMessage)


def make_receipt() -> VerifiedEvent:
    """The client's 8771."""
    return _event_of(ReceiptMessage)


def _event_of(kind: type[MeteringMessage] | type[ReceiptMessage]) -> VerifiedEvent:
    [event] = [message.event for _, message in finish()[0].transcript if isinstance(message, kind)]
    return verify(event)
