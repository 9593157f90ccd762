"""What stands in the content of each kind that version 1 speaks, and how its fields are described to strangers."""

import inspect
import re
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.assertion import Assertion
from relaymesh.protocol.content import WireValue
from relaymesh.protocol.fraud_proof import FraudProof
from relaymesh.protocol.guarantee import Guarantee
from relaymesh.protocol.handshake import PostedAccept, PostedRequest, SessionAccept, SessionRequest
from relaymesh.protocol.manifest import Manifest
from relaymesh.protocol.metering import MeteringRecord
from relaymesh.protocol.offer import Offer
from relaymesh.protocol.quote import ForwardedRequest, OpenRequest, Quote, QuoteRequest, RefusalMessage
from relaymesh.protocol.ranking import Ranking
from relaymesh.protocol.receipt import Receipt
from relaymesh.protocol.router_announcement import RouterAnnouncement
from relaymesh.protocol.sealed_commitment import SealedCommitment
from relaymesh.protocol.slash import Slash
from relaymesh.protocol.stake import StakeCommitment
from relaymesh.protocol.status import Status
from tests.house import docstrings


@dataclass(frozen=True, slots=True)
class Content:
    """One kind's content.

    Args:
        name: What schema, example and field table are called by.
        model: What reads and writes it.
        is_sealed: Whether it travels as NIP-44 text; its plaintext then carries a salt, and must carry `v`.
    """

    kind: Kind
    name: str
    model: type[WireValue]
    is_sealed: bool


CONTENTS: Final = (
    Content(Kind.OFFER, "offer", Offer, False),
    Content(Kind.STATUS, "status", Status, False),
    Content(Kind.QUOTE_REQUEST, "quote-request", QuoteRequest, True),
    Content(Kind.QUOTE_REQUEST, "open-request", OpenRequest, False),
    Content(Kind.QUOTE_REQUEST, "forwarded-request", ForwardedRequest, True),
    Content(Kind.QUOTE, "quote", Quote, True),
    Content(Kind.SESSION_REQUEST, "session-request", SessionRequest, True),
    Content(Kind.SESSION_REQUEST, "posted-request", PostedRequest, True),
    Content(Kind.SESSION_ACCEPT, "session-accept", SessionAccept, True),
    Content(Kind.SESSION_ACCEPT, "posted-accept", PostedAccept, True),
    Content(Kind.REFUSAL, "refusal", RefusalMessage, True),
    Content(Kind.METERING, "metering", MeteringRecord, False),
    Content(Kind.RECEIPT, "receipt", Receipt, False),
    Content(Kind.MANIFEST, "manifest", Manifest, False),
    Content(Kind.REPUTATION_ASSERTION, "assertion", Assertion, False),
    Content(Kind.ROUTER_ANNOUNCEMENT, "router-announcement", RouterAnnouncement, False),
    Content(Kind.RANKING, "ranking", Ranking, True),
    Content(Kind.STAKE_COMMITMENT, "stake", StakeCommitment, False),
    Content(Kind.FRAUD_PROOF, "fraud-proof", FraudProof, False),
    Content(Kind.SLASH, "slash", Slash, False),
    Content(Kind.SEALED_COMMITMENT, "sealed-commitment", SealedCommitment, False),
    Content(Kind.GUARANTEE, "guarantee", Guarantee, False),
)

EMBEDDED_EVENTS: Final = {
    ("ForwardedRequest", "request"),
    ("SessionRequest", "quote"),
    ("QuoteRequest", "guarantee"),
    ("PostedRequest", "guarantee"),
    ("SessionRequest", "guarantee"),
    ("PostedAccept", "quote"),
    ("Receipt", "metering"),
    ("DisclosedEvent", "event"),
}
"""Fields that hold a whole event, which another schema describes."""

SALT_NOTE: Final = "32 fresh random bytes, so that the `x` tag tells nothing about the rest"

_NOTES: Final[dict[tuple[str, str], str]] = {
    ("*", "v"): "The protocol's version",
    ("Offer", "settlement"): "Settlement terms, in the node's order of preference",
    ("Offer", "rows"): "Price rows",
    ("Offer", "region"): "The same as the `r` tag; null means no `r` tag",
    ("PriceRow", "model"): "The model's name",
    ("PriceRow", "job_types"): "The job types that this price covers",
    ("PriceRow", "identity"): "What exactly stands behind the model's name",
    ("ModelIdentity", "weights_sha256"): "Of the weights file",
    ("ModelIdentity", "quantization"): "For example `q4_k_m`",
    ("ModelIdentity", "engine"): "For example `llama.cpp b5000`",
    ("ModelIdentity", "tokenizer_sha256"): "Of the tokenizer's file",
    ("SettlementTerm", "order"): "Who moves first (RM-03)",
    ("SettlementTerm", "scope"): "What a tranche belongs to; those of a session are prepaid",
    ("QuotedTerm", "exposure_buyer_msat"): "What the buyer can lose: no invoice may be higher",
    ("QuotedTerm", "exposure_node_msat"): "What the node can lose",
    ("Status", "seq"): "As in an offer, counted for itself",
    ("Status", "state"): "`busy` and `draining` nodes are not asked",
    ("Status", "labels"): "The load of each label",
    ("LabelLoad", "free"): "Jobs that could start at once",
    ("LabelLoad", "queue"): "Jobs that wait",
    ("Quote", "request_id"): "The 28770 it answers, or at a posted price the 28772",
    ("Quote", "max_msat"): "What a job of this shape costs at the most; null at a posted price",
    ("Quote", "offer_id"): "The offer it rests on",
    ("Quote", "offer_seq"): "That offer's `seq`",
    ("Quote", "row"): "The price that binds: a row of the offer, or the same at a lower price",
    ("Quote", "settlement"): "The node's terms that the buyer accepts, in the buyer's order",
    ("Quote", "manifest_id"): "Reserved",
    ("Receipt", "note"): "What disagrees, for a person",
    ("MeteringRecord", "quote_id"): "The quote whose row prices the job",
    ("MeteringRecord", "model"): "The quoted row's model",
    ("MeteringRecord", "job_type"): "The JOB's",
    ("MeteringRecord", "status"): "`ok`: finished; `partial`: stopped after some output; `failed`: no output",
    ("MeteringRecord", "started_at_ms"): "When the JOB arrived",
    ("MeteringRecord", "finished_at_ms"): "When it ended",
    ("MeteringRecord", "units"): "What was counted, in every unit",
    ("MeteringRecord", "charged_msat"): "The sum of the tranches' `msat`",
    ("MeteringRecord", "tranches"): "The tranches that were paid, in order",
    ("MeteredUnits", "input_tokens"): "As the engine counts them, chat template included: a stated claim",
    ("MeteredUnits", "output_tokens"): "As the engine counts them: a stated claim",
    ("MeteredUnits", "input_bytes"): "The UTF-8 length of the JOB's `body`",
    ("MeteredUnits", "output_bytes"): "The UTF-8 length of all OUTPUT data together",
    ("MeteredUnits", "seconds"): "From start to finish, rounded up",
    ("MeteredUnits", "jobs"): "1 once there was output, else 0; a receipt says 1",
}


def describe(model: type[Any], field: str) -> str:
    """What one field means: as the model's own docstring says, or its base's, or as is said here."""
    for parent in inspect.getmro(model):
        note = _NOTES.get((parent.__name__, field)) or docstrings.argument_notes(parent).get(field)
        if note:
            return _in_json(note.rstrip("."))
    return _NOTES.get(("*", field), "")


def summary(model: type[Any]) -> str:
    """What a model is, in one sentence."""
    return _in_json((inspect.getdoc(model) or "").splitlines()[0])


def _in_json(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text)
