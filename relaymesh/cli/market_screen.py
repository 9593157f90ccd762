"""What a person sees of the market: prices with load and trust, relays with what they withhold, what was refused.

Everything in it that a stranger wrote is cleaned before it reaches a terminal.
"""

from typing import TYPE_CHECKING, Any, Final

from relaymesh.cli.terminal import clean_line, short_npub

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from relaymesh.cli.market_snapshot import MarketSnapshot

MEDIUM_WIDTH: Final = 110
"""From so many columns on there is room for which relay carries what, and for why a node is trusted."""
ROW_LINES: Final = 2
_LINES_BESIDE_ROWS: Final = 12
_NEEDED_WIDTHS: Final = {"load": 8, "trust": 7, "relays": 6}


def show_market(snapshot: "MarketSnapshot", width: int, height: int | None = None) -> "Group":
    """The whole view, no higher than `height` lines where that is given."""
    from rich.console import Group

    room = None if height is None else max(1, (height - _LINES_BESIDE_ROWS - len(snapshot.relays)) // ROW_LINES)
    shown = snapshot.rows[:room]
    hidden = len(snapshot.rows) - len(shown)
    numbers = {relay["relay"]: number for number, relay in enumerate(snapshot.relays, start=1)}
    parts: list[Any] = [_headline(snapshot, hidden), price_table(shown, numbers if width >= MEDIUM_WIDTH else None)]
    return Group(*parts, _relay_table(snapshot.relays), *_refused(snapshot))


def price_table(rows: "list[dict[str, Any]] | tuple[dict[str, Any], ...]", relays: dict[str, int] | None) -> "Table":
    """Prices, two lines each; also trust and which relay carries them, where the relays' numbers are given."""
    from rich.markup import escape
    from rich.table import Table

    wide = ("trust", "relays") if relays is not None else ()
    table = Table()
    for name in ("node", "model", "price (msat)", "load", *wide):
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=_NEEDED_WIDTHS.get(name))
    for row in rows:
        per = "" if row["per"] == 1 else f"{row['per']:,} "
        rates, unit = f"{row['input_msat']:,} in, {row['output_msat']:,} out", f"per {per}{row['unit']}s"
        least = f"at least {row['minimum_msat']:,}"
        cells = [
            f"{row['node'][:12]}…\n{row['label']}",
            f"{escape(clean_line(row['model']))}\n{', '.join(row['job_types'])}",
            f"{rates}\n{unit}" if relays is None else f"{rates} {unit}\n{least}",
            _load(row),
        ]
        if relays is not None:
            cells += [escape(_trust(row["standing"])), _carriers(row, relays)]
        table.add_row(*cells)
    return table


def _load(row: dict[str, Any]) -> str:
    if row["state"] != "up":
        return str(row["state"])
    waiting = f"\n{row['queue']} wait" if row["queue"] else ""
    return f"{row['free']} free{waiting}"


def _trust(standing: dict[str, Any] | None) -> str:
    if standing is None:
        return "unknown"
    words = [f"{standing['trust_milli'] / 10:g} %"]
    if standing["is_on_probation"]:
        words.append("on probation")
    words += [clean_line(reason) for reason in standing["reasons"]]
    return words[0] if len(words) == 1 else f"{words[0]}\n{', '.join(words[1:])}"


def _carriers(row: dict[str, Any], relays: dict[str, int]) -> str:
    carried = " ".join(str(number) for url, number in relays.items() if url in row["relays"])
    withheld = " ".join(str(number) for url, number in relays.items() if url in row["withheld_by"])
    return f"{carried}\nnot {withheld}" if withheld else carried


def _headline(snapshot: "MarketSnapshot", hidden: int) -> "Text":
    from rich.text import Text

    nodes = len({row["node"] for row in snapshot.rows})
    more = f"; {hidden} more do not fit" if hidden else ""
    return Text(f"{_many(nodes, 'node')}, {_many(len(snapshot.rows), 'price')}{more}")


def _relay_table(relays: tuple[dict[str, Any], ...]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "relay", "carries", "withholds")
    for number, relay in enumerate(relays, start=1):
        late = f" ({relay['withheld']} so far, {relay['late']} came late)" if relay["withheld"] else ""
        carries = f"{relay['carried']} of {relay['live']}" if relay["complete"] else "not heard yet"
        table.add_row(str(number), escape(clean_line(relay["relay"])), carries, f"{len(relay['missing'])}{late}")
    return table


def _refused(snapshot: "MarketSnapshot") -> "list[Text]":
    from rich.text import Text

    counts = {reason: count for reason, count in snapshot.ignored.items() if count}
    if not counts:
        return []
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    lines = [Text(f"refused: {listed}")]
    if snapshot.last_invalid is not None:
        last = snapshot.last_invalid
        lines.append(
            Text(f"last: {short_npub(last.author)} on {clean_line(last.relay_url)}: {clean_line(last.detail)}")
        )
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
