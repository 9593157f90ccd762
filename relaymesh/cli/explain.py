"""`relaymesh explain`: whom a job would be asked of, why, and why not the others; and whether that is so, later."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.buying import (
    NOT_SERVED,
    MaximumOption,
    ModelOption,
    OutputOption,
    PolicyOption,
    PreferOption,
    PromptArgument,
    SettlementOption,
)
from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption
from relaymesh.cli.running import fail, guarded, run
from relaymesh.cli.terminal import clean_line, clean_text, short_npub
from relaymesh.errors import RelayError, RemoteProtocolError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from relaymesh.market.explanation import Explanation
    from relaymesh.market.selection import Selection
    from relaymesh.roles.buying import Wanted
    from relaymesh.settings import Settings

LARGEST_RECORD_BYTES = 512 * 1024 * 1024


@guarded
def explain(
    prompt: PromptArgument = None,
    model: ModelOption = None,
    max_msat: MaximumOption = None,
    output_tokens: OutputOption = None,
    policy: PolicyOption = None,
    prefer: PreferOption = None,
    settlement: SettlementOption = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the choice and all it rests on into this file.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Choose again from such a file, and fail at the first difference.")
    ] = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which nodes would be asked for a job, term by term, and why each other is not.

    Nobody is asked anything. With --replay nothing is looked up either: the choice is made again from stored events.
    """
    from relaymesh.cli.buying import read_prompt, wanted_chat
    from relaymesh.cli.settings_source import load_settings

    if replay is not None:
        _show(_choose_again(replay), as_json)
        return
    settings = load_settings(config, {"network": {"relays": relay or None}, "client": {"settlement": settlement}})
    wanted = wanted_chat(
        read_prompt(prompt),
        settings,
        model=model,
        max_msat=max_msat,
        output_tokens=output_tokens,
        policy=policy,
        prefer=prefer,
    )

    run(lambda: _explain(settings, wanted, save, as_json))


async def _explain(settings: "Settings", wanted: "Wanted", save: Path | None, as_json: bool) -> int:
    selection = await _choose(settings, wanted)
    if save is not None:
        _save(selection, save)
    _show(selection, as_json)
    return 0 if selection.chosen else NOT_SERVED


async def _choose(settings: "Settings", wanted: "Wanted") -> "Selection":
    from relaymesh.cli.wiring import open_market

    async with open_market(settings) as (market, _):
        selection = await market.wait_for_choice(
            wanted.to_request(),
            settings.client.discovery_seconds,
            policy=wanted.counting,
            count=wanted.preferences.count(settings.client.candidates),
        )
        if not market.is_in_view:
            raise RelayError(market.unreachable)
    return selection


def _save(selection: "Selection", file: Path) -> None:
    from relaymesh.market.replay import record

    try:
        file.write_text(json.dumps(record(selection), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the choice cannot be written to {file}: {error.strerror}") from error


def _choose_again(file: Path) -> "Selection":
    from relaymesh.market.replay import first_difference, read_record
    from relaymesh.nostr.keys import verify

    try:
        if file.stat().st_size > LARGEST_RECORD_BYTES:
            raise UsageError(f"{file} is larger than any record of a choice")
        recorded = read_record(json.loads(file.read_text(encoding="utf-8")), verify)
    except OSError as error:
        raise UsageError(f"the record cannot be read from {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected JSON in {file}, got something else: {error}") from error
    except RemoteProtocolError as error:
        raise UsageError(f"{file} does not hold: {error}") from error
    difference = first_difference(recorded)
    if difference is not None:
        fail(f"the choice in {file} does not come out again: {clean_line(difference)}")
    return recorded.choose_again()


def _show(selection: "Selection", as_json: bool) -> None:
    from rich.console import Console

    from relaymesh.market.explanation import explain as tell

    told = tell(selection)
    if as_json:
        print(json.dumps(told.to_json()))
        return
    if told.rows:
        Console().print(_table(told))
    print(clean_text(told.sentence()))
    if told.settlement is not None:
        print(f"Settlement is {clean_line(told.settlement)}")


def _table(told: "Explanation") -> "Table":
    """The chosen, the runners-up and the excluded: all in msat, the lower score the better."""
    from rich.markup import escape
    from rich.table import Table

    from relaymesh.market.score import Terms

    table = Table("", "node", "model", "at most", "score", *Terms._fields, "why", title=f"policy {told.policy}")
    for row in told.rows:
        why = f"{row.reason}: {row.detail}" if row.reason else ", ".join(row.standing)
        place = "→" if row.chosen else str(row.rank or "")
        terms: list[str] = ["" for _ in Terms._fields] if row.terms is None else [f"{each:,}" for each in row.terms]
        table.add_row(
            place,
            f"{short_npub(row.node)}/{row.label}",
            escape(clean_line(row.model)),
            _amount(row.ceiling_msat),
            _amount(row.score_msat),
            *terms,
            escape(clean_line(why)),
        )
    return table


def _amount(figure: Any) -> str:
    return "" if figure is None else f"{figure:,}"
