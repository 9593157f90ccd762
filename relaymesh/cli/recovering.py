"""What `relaymesh receipts recover` does: open what was bought sealed, write it, and only then forget it."""

import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relaymesh.cli.ledgers import is_made, open_ledger
from relaymesh.cli.terminal import clean_line, clean_text
from relaymesh.errors import UsageError
from relaymesh.settings import Settings

if TYPE_CHECKING:
    from relaymesh.ports.ledger import Ledger
    from relaymesh.roles.sealed_recovery import OpenedJob

NOTHING = "nothing to recover: no output is kept that was bought sealed and not read"


async def recover_sealed(settings: Settings, job_id: str | None, out: Path | None, *, as_json: bool) -> int:
    """Open and write what is kept; the exit code.

    Raises:
        UsageError: There is no such job, or the file exists already.
    """
    from relaymesh.roles.sealed_recovery import forget_sealed

    if not await is_made(settings, "client"):
        return _say(NOTHING)
    async with open_ledger(settings, "client") as ledger:
        jobs = await _open(settings, ledger, job_id)
        if any(job.pieces for job in jobs) or as_json:
            _write(_render(jobs, as_json=as_json), out)
        await forget_sealed(ledger, jobs)
    if not jobs:
        return _say(NOTHING)
    sentences = [f"job {job.job.job_id[:16]}: {sentence}" for job in jobs for sentence in job.sentences]
    return max((_say(sentence) for sentence in sentences), default=0)


async def _open(settings: Settings, ledger: "Ledger", job_id: str | None) -> "tuple[OpenedJob, ...]":
    """The wallet is opened only where the ledger has no preimage: what it has is enough."""
    from relaymesh.cli.wallet_wiring import open_wallet
    from relaymesh.ports.ledger import JobQuery
    from relaymesh.roles.sealed_recovery import needs_wallet, open_sealed_jobs

    if job_id is not None and not await ledger.find_jobs(JobQuery(side="client", job_id=job_id)):
        raise UsageError(f"expected a job that begins with `{job_id}`; `relaymesh receipts list` shows them")
    async with AsyncExitStack() as stack:
        wallet = None
        if await needs_wallet(ledger, job_id):
            wallet = await stack.enter_async_context(open_wallet(settings.wallet))
        return await open_sealed_jobs(ledger, wallet, job_id)


def _render(jobs: "tuple[OpenedJob, ...]", *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"jobs": [_describe(job) for job in jobs]}) + "\n"
    return "\n\n".join(_text(job) for job in jobs if job.pieces) + "\n"


def _text(job: "OpenedJob") -> str:
    """Output as `infer` shows it; of jobs that answer item by item, one item a line."""
    is_text = job.job.job_type in ("chat", "completion", "summarise")
    return ("" if is_text else "\n").join(job.pieces)


def _describe(job: "OpenedJob") -> dict[str, Any]:
    return {
        "job_id": job.job.job_id,
        "model": job.job.model,
        "state": job.job.state.value,
        "charged_msat": job.job.charged_msat,
        "text": _text(job),
        "tranches": [
            {"tranche": each.sealed.tranche, "outcome": each.opening.value, "reason": each.sentence or None}
            for each in job.tranches
        ],
    }


def _write(text: str, out: Path | None) -> None:
    """Write all of it, as durably as can be: afterwards nothing else has it."""
    if out is None:
        # A file or another program gets the output as it is.
        sys.stdout.write(clean_text(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{out} exists already, and is not overwritten: name another file") from None
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _say(sentence: str) -> int:
    print(f"relaymesh: {clean_line(sentence)}", file=sys.stderr)
    return 1
