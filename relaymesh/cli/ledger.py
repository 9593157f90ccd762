"""`relaymesh ledger`: prove it, hand it to the accountants, move it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from relaymesh.cli.options import ROLES, ConfigOption, JsonOption, Role
from relaymesh.cli.running import run
from relaymesh.cli.terminal import clean_line
from relaymesh.errors import UsageError

ledger_commands = typer.Typer(no_args_is_help=True, help="Check, export and move the ledgers.")
SideOption = Annotated[
    str | None, typer.Option("--side", help="client, node or router: whose ledger; all that there are otherwise.")
]
MILLISECONDS_PER_HOUR: Final = 3_600_000
_SHOWN: Final = 10


@ledger_commands.command("check", short_help="Prove that every sum and every state is right.")
def check(
    side: SideOption = None,
    open_hours: Annotated[int, typer.Option(min=0, help="How old a job may be and still have something open.")] = 1,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove what must be true of the ledgers, each rule with its figures; exit code 1 if one is broken.

    Over the released tranches of each job or prepaid session, what was paid is what was charged; no job costs more than
    its limit; each tranche is in one state; no payment hash is paid twice; no preimage without payment and no payment
    without preimage; what was sold sealed is kept; nothing is open for too long. Every signature of the evidence is
    checked as it is read.
    """

    async def command() -> int:
        reports = [
            report
            for role in read_roles(side)
            if (report := await _check_ledger(role, config, open_hours * MILLISECONDS_PER_HOUR)) is not None
        ]
        if as_json:
            print(json.dumps(reports))
        else:
            _print_reports(reports)
        return 0 if all(rule["holds"] for report in reports for rule in report["rules"]) else 1

    run(command)


@ledger_commands.command("export", short_help="Print what was bought and sold, for accounting.")
def export(
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line for each tranche; the default.")] = False,
    side: SideOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print jobs and payments for accounting: amounts in msat, oldest first, no prompts and no preimages.

    A line is a tranche; what a job was charged stands in the first of its lines, so that a column can be summed. What
    was paid beside jobs, to routers and by hand, is of the type `payment`; what a prepaid session left unused, of the
    type `session`.
    """

    async def command() -> None:
        if as_csv and as_json:
            raise UsageError("expected --csv or --json, not both")
        from relaymesh.cli.ledger_export import as_job, job_document, write_csv

        roles = read_roles(side)
        jobs = [job for role in roles for job in await read_jobs(role, config)]
        jobs += [as_job(payment) for role in roles for payment in await read_payments(role, config)]
        jobs.sort(key=lambda job: job.job.created_at_ms)
        if as_json:
            print(json.dumps([job_document(job) for job in jobs]))
        else:
            write_csv(jobs, sys.stdout)

    run(command)


@ledger_commands.command("migrate", short_help="Bring the ledgers up to date, or copy them to PostgreSQL.")
def migrate(
    to: Annotated[
        str | None,
        typer.Option("--to", help="postgresql://user@host:5432/database: copy everything there, and compare it."),
    ] = None,
    side: SideOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the version of each ledger, after it was brought up to date; with --to, copy it to PostgreSQL as well.

    A copy is read again and compared by number and hash of its rows; what was copied stays where it was. Nobody may
    write the ledger meanwhile. Afterwards `storage.ledger` in the settings says which one is used.
    """

    async def command() -> None:
        from relaymesh.cli.ledger_moving import migrate_ledger
        from relaymesh.cli.settings_source import load_settings

        settings = load_settings(config)
        moved = [
            report for role in read_roles(side) if (report := await migrate_ledger(settings, role, to)) is not None
        ]
        if as_json:
            print(json.dumps(moved))
            return
        for report in moved:
            print(f"{report['side']:6}  version {report['version']}  {report['place']}")
            if "copied_to" in report:
                print(
                    f"        copied to {report['copied_to']}: {report['jobs']} jobs, {report['tranches']} tranches, "
                    f"{report['sealed']} of them sealed, {report['payments']} other payments, "
                    f"{report['evidence']} pieces of evidence, "
                    f"SHA-256 {report['sha256'][:16]}… of both"
                )
        if not moved:
            print("There are no ledgers yet.", file=sys.stderr)

    run(command)


def read_roles(side: str | None) -> tuple[Role, ...]:
    """The role that was asked for, or all; UsageError if there is no such role."""
    found = tuple(role for role in ROLES if side in (None, role))
    if not found:
        raise UsageError(f"--side must be client, node or router, not {side}")
    return found


async def read_jobs(role: Role, config: Path | None) -> tuple[Any, ...]:
    """Every job in the ledger of one role; none where there is no ledger."""
    from relaymesh.cli.ledgers import ALL_JOBS, open_existing_ledger
    from relaymesh.cli.settings_source import load_settings

    async with open_existing_ledger(load_settings(config), role) as ledger:
        return () if ledger is None else await ledger.find_jobs(ALL_JOBS)


async def read_payments(role: Role, config: Path | None) -> tuple[Any, ...]:
    """Every payment beside jobs in the ledger of one role; none where there is no ledger."""
    from relaymesh.cli.ledgers import open_existing_ledger
    from relaymesh.cli.settings_source import load_settings

    async with open_existing_ledger(load_settings(config), role) as ledger:
        return () if ledger is None else await ledger.find_payments()


async def _check_ledger(role: Role, config: Path | None, open_ms: int) -> dict[str, Any] | None:
    from relaymesh.cli.clock import system_clock
    from relaymesh.cli.ledgers import ALL_JOBS, open_existing_ledger
    from relaymesh.cli.settings_source import load_settings
    from relaymesh.ports.ledger_audit import audit

    async with open_existing_ledger(load_settings(config), role) as ledger:
        if ledger is None:
            return None
        jobs = await ledger.find_jobs(ALL_JOBS)
        evidence = await ledger.find_evidence()
        sealed = await ledger.find_sealed()
        payments = await ledger.find_payments()
    rules = audit(jobs, sealed, payments, now_ms=system_clock().unix_ms, open_ms=open_ms)
    return {
        "side": role,
        "jobs": len(jobs),
        "evidence": len(evidence),
        "rules": [
            {"name": rule.name, "holds": rule.holds, "figures": dict(rule.figures), "broken": list(rule.broken)}
            for rule in rules
        ],
    }


def _print_reports(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        print(f"The {report['side']}'s ledger: {report['jobs']} jobs, {report['evidence']} signed pieces of evidence")
        for rule in report["rules"]:
            figures = ", ".join(f"{name} {figure:,}" for name, figure in rule["figures"].items())
            print(f"{'holds' if rule['holds'] else 'FAILS'}  {rule['name']}: {figures}")
            for sentence in rule["broken"][:_SHOWN]:
                print(f"       {clean_line(sentence)}")
            if (more := len(rule["broken"]) - _SHOWN) > 0:
                print(f"       and {more} more; --json lists all")
    if not reports:
        print("There are no ledgers yet.", file=sys.stderr)
