"""`relaymesh fraud`: prove that a promise was broken, and verify such a proof, offline."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, KeyOption, RelayOption
from relaymesh.cli.running import guarded, run
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
        print(json.dumps(describe_verdict(verdict, event.id)))
    else:
        _tell(verdict)
    if not verdict.is_proven:
        raise SystemExit(NOT_PROVEN)


@fraud_commands.command("prove", short_help="Make every fraud proof that a job's evidence yields.")
@guarded
def prove(
    job: Annotated[str, typer.Argument(help="A job id, or how it begins.")],
    out: Annotated[Path | None, typer.Option(help="Write each proof into this folder.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Publish the proofs on the relays.")] = False,
    key: KeyOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make every fraud proof (8772) that the evidence of one of your jobs yields, one JSON event a line.

    Who reads a proof believes what the accused signed, and nobody else: so it is signed with a key that is made for it
    alone, unless --key names one. A proof discloses what it is made of: the quote, the record or a commitment, a leaf
    that is bad; never the prompt. Exit code 1 if the evidence proves nothing.
    """
    from relaymesh.adapters.key_files import load_key
    from relaymesh.cli.passphrase import passphrase_for
    from relaymesh.cli.proving import prove_job
    from relaymesh.cli.settings_source import load_settings
    from relaymesh.nostr.keys import KeyPair

    settings = load_settings(config, {"network": {"relays": relay or None}})
    pair = KeyPair.generate() if key is None else load_key(key, passphrase=passphrase_for(key))
    run(lambda: prove_job(settings, job, pair, out=out, publish=publish, as_json=as_json))


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


def describe_verdict(verdict: "Verdict", proof_id: str) -> dict[str, Any]:
    """A verdict, as `--json` prints it."""
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
