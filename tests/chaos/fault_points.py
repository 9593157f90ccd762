"""Every point at which the suite kills a process: generated from the transition tables and the unions of effects.

A step is a row of a transition table, an effect, or a kind of record that is written; a point is a step of one side
under one form of settlement, before it or after it. `RULES` says under which circumstances a step is reached, or why it
cannot be on that side under that form. What no rule mentions fails `test_fault_points.py`: nothing new is forgotten.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from relaymesh.machines.buyer_account import BuyerAccountEffect
from relaymesh.machines.client_job_interface import ClientJobEffect
from relaymesh.machines.node_job_interface import NodeJobEffect
from relaymesh.machines.records import EvidenceRecord, JobState, LedgerRecord, Side
from relaymesh.machines.seller_account import SellerAccountEffect
from relaymesh.machines.settlement import BuyerEffect, SellerEffect
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.session_messages import SessionMessage
from tests.chaos.fault_plan import MOMENTS, TABLES, When, effect_step, transition_step, write_step

FORMS: Final = ("prepay", "sealed", "postpay", "session")
SIDES: Final[tuple[Side, ...]] = ("client", "node")
IN_ARREARS: Final = ("sealed", "postpay")
"""The forms in which the work comes first."""
EVIDENCE_KINDS: Final = (Kind.QUOTE, Kind.METERING, Kind.RECEIPT, Kind.SEALED_COMMITMENT)
"""What a job's evidence is."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How everybody behaves, in the words of `FaultPlan`."""

    buyer_wallet: str = "honest"
    node_wallet: str = "honest"
    runner: str = "honest"
    buyer: str = "honest"

    def __str__(self) -> str:
        words = (
            ("buyer's wallet", self.buyer_wallet),
            ("node's wallet", self.node_wallet),
            ("runner", self.runner),
            ("buyer", self.buyer),
        )
        return ", ".join(f"{who} {word}" for who, word in words if word != "honest") or "ordinary"


ORDINARY: Final = Circumstances()
UNPAID: Final = Circumstances(buyer_wallet="fails")
LATE: Final = Circumstances(buyer_wallet="late")
LOST: Final = Circumstances(buyer_wallet="lost")
SILENT: Final = Circumstances(buyer_wallet="silent")
NO_INVOICE: Final = Circumstances(node_wallet="fails")
RUNNER_FAILS: Final = Circumstances(runner="fails")
RUNNER_BREAKS: Final = Circumstances(runner="breaks")
NO_OUTPUT: Final = Circumstances(runner="silent")
CANCELLED: Final = Circumstances(buyer="cancels")
DISCONNECTED: Final = Circumstances(buyer="disconnects")

UNSEALED: Final = "nothing is sealed under this form"
INSIDE: Final = "it is handed from one machine to another in one step; what follows from it are effects of their own"
PAYS_NOT: Final = "a seller is paid and pays nobody"
OTHER_SIDE: Final = "the other side says this"
SESSION_SAYS: Final = "the session says this by itself, for no job"


@dataclass(frozen=True, slots=True)
class Rule:
    """When a step is reached, or why it is not.

    Args:
        sides: On these sides.
        steps: These steps.
        outcome: The circumstances under which it is reached, or a sentence why it cannot be.
        forms: Under these forms of settlement; empty is all of them. Of several rules the first counts.
    """

    sides: tuple[Side, ...]
    steps: tuple[str, ...]
    outcome: Circumstances | str
    forms: tuple[str, ...] = ()


def _sends(*messages: str) -> tuple[str, ...]:
    return tuple(effect_step("Send", f"{message}Message") for message in messages)


RULES: Final = (
    # ── a tranche, at the client ──
    Rule(
        ("client",),
        (
            "tranche OFFERED invoice INVOICED",
            "tranche INVOICED pay PAYING",
            "tranche PAYING settle PAID",
            "tranche PAID account RELEASED",
        ),
        ORDINARY,
    ),
    Rule(("client",), ("tranche PAYING fail FAILED",), UNPAID),
    Rule(("client",), ("tranche PAYING lose-sight UNKNOWN", "tranche UNKNOWN settle PAID"), LATE),
    Rule(("client",), ("tranche UNKNOWN fail FAILED",), LOST),
    Rule(
        ("client",),
        ("tranche OFFERED refuse FAILED", "tranche INVOICED refuse FAILED", "tranche INVOICED lapse EXPIRED"),
        "a buyer opens a tranche in the write that says it is being paid; an invoice that it refuses leaves no row",
    ),
    Rule(
        ("client",),
        ("tranche INVOICED settle PAID",),
        "only a tranche that costs nothing is paid without a payment, and there is nothing to lose by it",
    ),
    Rule(
        ("client",),
        (write_step("TrancheRecord", "OFFERED"),),
        "a buyer's tranche is first written as being paid",
    ),
    # ── a tranche, at the node ──
    Rule(
        ("node",),
        (
            write_step("TrancheRecord", "OFFERED"),
            "tranche OFFERED invoice INVOICED",
            "tranche INVOICED settle PAID",
            "tranche PAID account RELEASED",
        ),
        ORDINARY,
    ),
    Rule(("node",), ("tranche OFFERED refuse FAILED",), NO_INVOICE),
    Rule(("node",), ("tranche INVOICED lapse EXPIRED",), UNPAID),
    Rule(("node",), ("tranche INVOICED refuse FAILED",), "an invoice that is out is paid or lapses"),
    Rule(
        ("node",),
        (
            "tranche INVOICED pay PAYING",
            "tranche PAYING settle PAID",
            "tranche PAYING fail FAILED",
            "tranche PAYING lose-sight UNKNOWN",
            "tranche UNKNOWN settle PAID",
            "tranche UNKNOWN fail FAILED",
        ),
        PAYS_NOT,
    ),
    # ── a job ──
    Rule(
        ("client",),
        (
            "client job READY start WAITING",
            "client job WAITING output STREAMING",
            "client job STREAMING end-of-output ENDING",
        ),
        ORDINARY,
    ),
    Rule(("client",), ("client job WAITING end-of-output ENDING",), NO_OUTPUT),
    Rule(("client",), ("client job WAITING stop ENDING",), RUNNER_BREAKS, ("postpay",)),
    Rule(("client",), ("client job WAITING stop ENDING", "client job ENDING account ENDED"), UNPAID),
    Rule(("client",), ("client job STREAMING stop ENDING",), CANCELLED),
    Rule(("client",), ("client job ENDING payment-in-doubt DOUBTING", "client job DOUBTING account ENDED"), SILENT),
    Rule(("node",), ("node job READY begin RUNNING",), ORDINARY, IN_ARREARS),
    Rule(("node",), ("node job READY begin RUNNING",), "nothing is run before it is paid under this form"),
    Rule(
        ("node",),
        (
            "node job READY admit FUNDING",
            "node job FUNDING funded RUNNING",
            "node job FUNDING stop CLOSING",
        ),
        "the work comes before the first payment under this form",
        IN_ARREARS,
    ),
    Rule(
        ("node",),
        (
            "node job READY admit FUNDING",
            "node job FUNDING funded RUNNING",
            "node job RUNNING finish CLOSING",
            "node job CLOSING close ENDED",
        ),
        ORDINARY,
    ),
    Rule(("node",), ("node job FUNDING stop CLOSING",), UNPAID),
    Rule(("node",), ("node job RUNNING stop CLOSING",), RUNNER_FAILS),
    Rule(
        ("node",),
        ("node job READY refuse ENDED",),
        "an honest client asks itself the same before it sends the JOB; nothing was stored, and nothing is",
    ),
    # ── effects ──
    Rule(("node",), tuple(map(effect_step, ("FundsAsked", "FundsReserved", "JobSettled"))), ORDINARY, ("session",)),
    Rule(SIDES, (effect_step("FundsRefused"),), UNPAID, ("session",)),
    Rule(SIDES, (effect_step("AccountClosed"),), ORDINARY, ("session",)),
    Rule(("client",), (effect_step("FundsChanged"),), ORDINARY, ("session",)),
    Rule(
        SIDES,
        tuple(
            map(
                effect_step,
                ("FundsAsked", "FundsReserved", "FundsRefused", "FundsChanged", "JobSettled", "AccountClosed"),
            )
        ),
        "no session prepays anything under this form",
    ),
    Rule(SIDES, (effect_step("Store"),), "every record that is written is a step of its own"),
    Rule(
        SIDES,
        tuple(map(effect_step, ("TrancheFunded", "SettlementStopped", "PaymentInDoubt", "OfferInvoice"))),
        INSIDE,
    ),
    Rule(("client",), tuple(map(effect_step, ("ReadInvoice", "Pay", "Deliver", "JobEnded"))), ORDINARY),
    Rule(("client",), (effect_step("LookUpPayment"),), LATE),
    Rule(
        ("node",),
        tuple(map(effect_step, ("CreateInvoice", "WatchInvoice", "StartRunner", "StopRunner", "JobClosed"))),
        ORDINARY,
    ),
    Rule(("client",), _sends("Job", "Credit", "Paid", "Receipt"), ORDINARY),
    Rule(("client",), _sends("Cancel"), CANCELLED),
    Rule(("client",), _sends("Error"), UNPAID),
    Rule(("client",), _sends("Resume"), DISCONNECTED),
    Rule(("client",), _sends("Invoice", "Output", "Sealed", "Commitment", "Metering", "End"), OTHER_SIDE),
    Rule(("node",), _sends("Output"), "what is sold sealed leaves as ciphertext alone", ("sealed",)),
    Rule(("node",), _sends("Invoice", "Output", "End", "Metering"), ORDINARY),
    Rule(("node",), _sends("Error"), RUNNER_FAILS),
    Rule(("node",), _sends("Sealed", "Commitment"), ORDINARY, ("sealed",)),
    Rule(("node",), _sends("Sealed", "Commitment"), UNSEALED),
    Rule(("node",), _sends("Job", "Credit", "Paid", "Receipt", "Cancel", "Resume"), OTHER_SIDE),
    Rule(SIDES, _sends("Quote", "Bye", "Part", "Ping", "Pong"), SESSION_SAYS),
    # ── what is written ──
    Rule(
        SIDES, (write_step("PaymentRecord"),), "a job pays nothing beside its tranches; what a router costs is no job's"
    ),
    Rule(SIDES, (write_step("JobRecord", "OPEN"), write_step("JobRecord", "DONE")), ORDINARY),
    Rule(SIDES, (write_step("JobRecord", "FAILED"),), RUNNER_FAILS),
    Rule(("client",), (write_step("JobRecord", "CANCELLED"),), CANCELLED),
    Rule(("client",), (write_step("JobRecord", "UNKNOWN"),), SILENT),
    Rule(
        ("node",),
        (write_step("JobRecord", "CANCELLED"), write_step("JobRecord", "UNKNOWN")),
        "to a node a cancelled job is one that failed, and what it was paid it knows",
    ),
    Rule(SIDES, (write_step("EvidenceRecord", "METERING"), write_step("EvidenceRecord", "RECEIPT")), ORDINARY),
    Rule(("client",), (write_step("EvidenceRecord", "QUOTE"),), ORDINARY),
    Rule(("node",), (write_step("EvidenceRecord", "QUOTE"),), "a node keeps no quotes: its records name them"),
    Rule(
        SIDES,
        (
            write_step("EvidenceRecord", "SEALED_COMMITMENT"),
            write_step("SealedRecord", "kept"),
            write_step("SealedRecord", "erased"),
        ),
        ORDINARY,
        ("sealed",),
    ),
    Rule(
        SIDES,
        (
            write_step("EvidenceRecord", "SEALED_COMMITMENT"),
            write_step("SealedRecord", "kept"),
            write_step("SealedRecord", "erased"),
        ),
        UNSEALED,
    ),
)


@dataclass(frozen=True, slots=True)
class FaultPoint:
    """Where a process is killed.

    Args:
        side: Whose process.
        form: Under which form of settlement.
        step: At which step; empty kills nobody: only the circumstances are tried.
        when: Before the step or after it.
        circumstances: How everybody behaves, so that the step is reached.
        again: The step at which the process is killed a second time, when it starts again; empty is never.
        occurrence: At which occurrence of the step, from 1.
    """

    side: Side
    form: str
    step: str
    when: When
    circumstances: Circumstances
    again: str = ""
    occurrence: int = 1

    def __str__(self) -> str:
        step = f"second {self.step}" if self.occurrence == 2 else self.step
        words = (self.form, self.side, self.when if self.step else "", step, f"again {self.again}")
        name = " ".join(word for word in words if word and word != "again ")
        return f"{name} ({self.circumstances})"


def steps(side: Side) -> Iterator[str]:
    """Every step that this side could take, by tables, effects and records alone."""
    for table, (rows, sides) in TABLES.items():
        if side in sides:
            yield from (transition_step(table, row) for row in rows.rows)
    client = (ClientJobEffect, BuyerEffect, BuyerAccountEffect)
    unions: tuple[Any, ...] = client if side == "client" else (NodeJobEffect, SellerEffect, SellerAccountEffect)
    for effect in dict.fromkeys(effect.__name__ for union in unions for effect in get_args(union)):
        if effect == "Send":
            yield from (effect_step(effect, message.__name__) for message in get_args(SessionMessage))
        else:
            yield effect_step(effect)
    yield write_step("TrancheRecord", "OFFERED")
    yield from (write_step("JobRecord", state.name) for state in JobState)
    yield from (write_step(EvidenceRecord.__name__, kind.name) for kind in EVIDENCE_KINDS)
    yield from (write_step("SealedRecord", what) for what in ("kept", "erased"))
    for record in get_args(LedgerRecord):
        if record.__name__ not in ("TrancheRecord", "JobRecord", "EvidenceRecord", "SealedRecord"):
            yield write_step(record.__name__)


def outcome(side: Side, form: str, step: str) -> Circumstances | str | None:
    """Under which circumstances a step is reached, why it is not, or None where no rule says so."""
    for rule in RULES:
        if side in rule.sides and step in rule.steps and (not rule.forms or form in rule.forms):
            return rule.outcome
    return None


AGAIN: Final[dict[Side, tuple[str, tuple[str, ...]]]] = {
    "client": (
        effect_step("Pay"),
        (
            effect_step("LookUpPayment"),
            "tranche PAYING settle PAID",
            "tranche PAID account RELEASED",
            write_step("JobRecord", "FAILED"),
        ),
    ),
    "node": (
        effect_step("Send", "InvoiceMessage"),
        (
            "tranche INVOICED settle PAID",
            "tranche PAID account RELEASED",
            write_step("EvidenceRecord", "METERING"),
            write_step("JobRecord", "FAILED"),
        ),
    ),
}
"""By side: after which step it dies first, and at which steps of its recovery it dies again."""

LATER: Final[dict[Side, tuple[str, ...]]] = {
    "client": ("tranche INVOICED pay PAYING", effect_step("Pay"), "tranche PAYING settle PAID"),
    "node": ("tranche OFFERED invoice INVOICED", "tranche INVOICED settle PAID", effect_step("CreateInvoice")),
}
"""Steps that come again with the second tranche of a job, when the first has been delivered."""

WALLETS: Final = ("late", "lost", "fails", "lies", "silent", "twice")


def fault_points() -> Iterator[FaultPoint]:
    """All of them, those together that need the same node."""
    for form in FORMS:
        found = [
            FaultPoint(side, form, step, when, circumstances)
            for side in SIDES
            for step in steps(side)
            if isinstance(circumstances := outcome(side, form, step), Circumstances)
            for when in MOMENTS
        ]
        for side, (first, recovery) in AGAIN.items():
            point = FaultPoint(side, form, first, "after", ORDINARY)
            found += [replace(point, again=step) for step in recovery]
        for side, later in LATER.items() if form != "session" else ():  # whose tranche outlasts the job
            point = FaultPoint(side, form, "", "before", ORDINARY, occurrence=2)
            found += [replace(point, step=step, when=when) for step in later for when in MOMENTS]
        for word in WALLETS:
            found.append(FaultPoint("client", form, "", "before", Circumstances(buyer_wallet=word)))
            found.append(FaultPoint("node", form, "", "before", Circumstances(node_wallet=word)))
        for word in ("interrupts", "cancels", "disconnects"):
            found.append(FaultPoint("client", form, "", "before", Circumstances(buyer=word)))
        yield from sorted(found, key=lambda point: (point.side, point.circumstances.runner))
