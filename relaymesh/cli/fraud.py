"""`relaymesh fraud`: prove that a promise was broken, and verify such a proof, offline."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import JsonOption
from relaymesh.cli.running import guarded
from relaymesh.cli.terminal import clean_line, short_npub
from relaymesh.errors import UsageError

if TYPE_CHECKING:
    from relaymesh.market.fraud import Verdict
    from relaymesh.nostr.event import VerifiedEvent

fraud_commands = typer.Typer(no_args_is_help=True, help="Prove and verify fraud.")
NOT_PROVEN, UNREADABLE = 1, 2


@fraud_commands.command("verify", short_help="Decide a fraud proof, offline.")
@guarded
def verify(
    file: Annotated[Path, typer.Argument(help="A fraud proof (8772) as a JSON event; `-` is standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Decide a fraud proof, offline; exit code 0 if it is proven, 1 if it is not, 2 if the file cannot be read."""
    from relaymesh.cli.running import fail
    from relaymesh.errors import RemoteProtocolError
    from relaymesh.market.fraud import decide
    from relaymesh.nostr.keys import verify as verify_event
    from relaymesh.protocol.fraud_proof import read_fraud_proof

    try:
        event = _read_event(file)
        proof = read_fraud_proof(event).proof
    except (UsageError, RemoteProtocolError) as error:
        fail(f"the fraud proof cannot be read from {file}: {error}", UNREADABLE)
    verdict = decide(proof, verify_event)
    if as_json:
        print(json.dumps(_describe(verdict, event.id)))
    else:
        _tell(verdict)
    if not verdict.is_proven:
        raise SystemExit(NOT_PROVEN)


def _read_event(file: Path) -> "VerifiedEvent":
    from relaymesh.nostr.keys import verify as verify_event
    from relaymesh.protocol.content import MAXIMUM_EVENT_BYTES
    from relaymesh.protocol.evidence_files import parse_evidence_text

    most = 2 * MAXIMUM_EVENT_BYTES  # as a person may have laid it out
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            content = source.read(most + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8 text") from error
    if len(content) > most:
        raise UsageError(f"expected one event of at most {MAXIMUM_EVENT_BYTES} bytes")
    events = parse_evidence_text(text)
    if len(events) != 1:
        raise UsageError(f"expected one event, got {len(events)}")
    return verify_event(events[0].event)


def _describe(verdict: "Verdict", proof_id: str) -> dict[str, Any]:
    return {
        "is_proven": verdict.is_proven,
        "claim": verdict.claim,
        "accused": verdict.accused,
        "sentence": verdict.sentence,
        "figures": dict(verdict.figures),
        "evidence": list(verdict.evidence),
        "slash_key": verdict.key or None,
        "proof_id": proof_id,
    }


def _tell(verdict: "Verdict") -> None:
    word = "PROVEN" if verdict.is_proven else "not proven"
    print(f"{word}  {verdict.claim} by {short_npub(verdict.accused)}: {clean_line(verdict.sentence)}")
    for name, figure in verdict.figures:
        print(f"  {name}: {figure:,}")
    if verdict.key:
        print(f"  slash key: {verdict.key}")
