"""`relaymesh receipts`: the evidence that is kept, what it proves, and what it still opens."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, WalletOption, wallet_flags
from relaymesh.cli.running import guarded, run
from relaymesh.cli.terminal import clean_line
from relaymesh.errors import UsageError

receipt_commands = typer.Typer(no_args_is_help=True, help="List, show and verify evidence.")
SideOption = Annotated[str, typer.Option("--side", help="client or node: whose ledger.")]


@receipt_commands.command("list", short_help="List the jobs in the ledger, newest first.")
def list_receipts(side: SideOption = "client", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the jobs in the ledger, newest first, with what they cost and what evidence there is."""

    async def command() -> None:
        jobs = await _read_jobs(side, config, None)
        if as_json:
            print(json.dumps(jobs))
            return
        for job in jobs:
            nothing = "unused rest of a prepaid session" if job["job_type"] == "session" else "no receipt"
            receipt = job["receipt_id"][:16] if job["receipt_id"] else nothing
            print(
                f"{job['job_id'][:16]}  {job['state']:9}  {job['charged_msat']:>10,} msat  "
                f"{clean_line(job['model'])}  {receipt}  {clean_line(job['reason'])}"
            )
        if not jobs:
            print(f"No jobs in the {side}'s ledger.", file=sys.stderr)

    run(command)


@receipt_commands.command("show", short_help="Print one job's evidence, for `receipts verify`.")
def show(
    job: Annotated[str, typer.Argument(help="A job id, or how it begins.")],
    side: SideOption = "client",
    config: ConfigOption = None,
    as_json: JsonOption = False,  # taken like everywhere: evidence is JSON in any case
) -> None:
    """Print one job's evidence as JSON that `receipts verify` takes: receipt or record, and the quote."""

    async def command() -> None:
        jobs = await _read_jobs(side, config, job)
        if len(jobs) != 1:
            raise UsageError(
                f"expected one job that begins with `{job}`, found {len(jobs)}; `relaymesh receipts list` shows them"
            )
        print(json.dumps(jobs[0]["evidence"], indent=2))

    run(command)


@receipt_commands.command("recover", short_help="Open what was bought sealed and never read.")
def recover(
    job: Annotated[str | None, typer.Argument(help="A job id, or how it begins; all jobs otherwise.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the output to this new file, not to standard output.")] = None,
    wallet: WalletOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open what was bought sealed and never read, after a crash of either side; nothing is paid.

    The wallet is asked for the payment, its preimage opens what the ledger kept. The node and the relays may be gone.
    What was written is forgotten afterwards; exit code 1 if something could not be opened, or there was nothing.
    """
    from relaymesh.cli.recovering import recover_sealed
    from relaymesh.cli.settings_source import load_settings

    run(lambda: recover_sealed(load_settings(config, {"wallet": wallet_flags(wallet)}), job, out, as_json=as_json))


@receipt_commands.command("verify", short_help="Check a receipt or metering record, offline.")
@guarded
def verify(
    file: Annotated[
        Path,
        typer.Argument(help="A file that `receipts show` printed, or any receipt or record; `-` is standard input."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check signatures, sums and prices of a receipt or metering record, offline; exit code 1 if anything fails."""
    from relaymesh.market.verification import verify_evidence
    from relaymesh.nostr.keys import verify as verify_event
    from relaymesh.protocol.evidence_files import MAXIMUM_BYTES, parse_evidence_text

    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            content = source.read(MAXIMUM_BYTES + 1)
        if len(content) > MAXIMUM_BYTES:
            raise UsageError(f"expected at most {MAXIMUM_BYTES >> 20} MiB of evidence in {file}; split the file")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the evidence cannot be read from {file}: {reason}") from error
    reports = [verify_evidence(item, verify_event) for item in parse_evidence_text(text)]
    if as_json:
        print(json.dumps([_report(report) for report in reports]))
    else:
        for report in reports:
            for check in report.checks:
                print(f"{'holds' if check.holds else 'FAILS'}  {check.name}: {clean_line(check.detail)}")
            for sentence in report.unchecked:
                print(f"  --   {clean_line(sentence)}")
    if not all(report.holds for report in reports):
        raise SystemExit(1)


def _report(report: Any) -> dict[str, Any]:
    checks = [{"name": check.name, "holds": check.holds, "detail": check.detail} for check in report.checks]
    return {"holds": report.holds, "checks": checks, "unchecked": list(report.unchecked)}


async def _read_jobs(side: str, config: Path | None, job_id: str | None) -> list[dict[str, Any]]:
    from relaymesh.cli.ledgers import open_existing_ledger
    from relaymesh.cli.settings_source import load_settings
    from relaymesh.machines.records import Side
    from relaymesh.ports.ledger import JobQuery

    if side not in ("client", "node"):
        raise UsageError(f"--side must be client or node, not {side}")
    role: Side = "client" if side == "client" else "node"
    async with open_existing_ledger(load_settings(config), role) as ledger:
        if ledger is None:
            return []
        jobs = await ledger.find_jobs(JobQuery(side=role, job_id=job_id))
        return [describe_job(job.job, await ledger.find_evidence(job.job.job_id)) for job in jobs]


def describe_job(job: Any, evidence: Any) -> dict[str, Any]:
    """A job of the ledger with its evidence, as JSON tells it."""
    from relaymesh.nostr.kinds import Kind

    events = {Kind(record.event.kind): record for record in evidence}
    quote, metering, receipt = (events.get(kind) for kind in (Kind.QUOTE, Kind.METERING, Kind.RECEIPT))
    shown: dict[str, Any] = {}
    if receipt is not None:
        shown["receipt"] = receipt.event.to_json()
    elif metering is not None:
        shown["metering"] = metering.event.to_json()
    if quote is not None and quote.plaintext:
        shown["quote"] = {"event": quote.event.to_json(), "plaintext": quote.plaintext}
    return {
        "job_id": job.job_id,
        "state": job.state.value,
        "reason": job.reason,
        "node": job.node,
        "model": job.model,
        "job_type": job.job_type,
        "charged_msat": job.charged_msat,
        "created_at_ms": job.created_at_ms,
        "metering_id": metering.event.id if metering is not None else None,
        "receipt_id": receipt.event.id if receipt is not None else None,
        "evidence": shown,
    }
