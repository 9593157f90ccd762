"""What a person sees of the demonstration (rich); with `--json` nothing is shown but the object at the end."""

import json
from typing import TYPE_CHECKING, Any, Protocol

from relaymesh.cli.terminal import program_name

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from relaymesh.cli.demo_mesh import Mesh
    from relaymesh.cli.demo_story import DemoReport
    from relaymesh.market.selection import Selection


class DemoScreen(Protocol):
    """What the story tells, step by step."""

    def starting(self, nodes: int) -> None:
        """Processes are being started."""
        ...

    def market(self, offers: list[dict[str, Any]]) -> None:
        """Every node is in view."""
        ...

    def asking(self, prompt: str) -> None:
        """A chat completion will be bought."""
        ...

    def embedding(self, count: int) -> None:
        """Embeddings will be bought."""
        ...

    def chose(self, selection: "Selection") -> None:
        """Nodes were chosen, with reasons."""
        ...

    def quoted(self, quote: dict[str, Any]) -> None:
        """A node quoted or refused."""
        ...

    def opened(self, label: str, settlement: str) -> None:
        """A session was agreed on, to be paid in a form that was chosen for a reason."""
        ...

    def answer(self, data: str) -> None:
        """A piece of the answer."""
        ...

    def embedded(self, sentences: tuple[str, ...], vectors: list[str]) -> None:
        """The vectors arrived."""
        ...

    def settled(self, job: dict[str, Any], reason: str) -> None:
        """A job ended."""
        ...

    def balances(self, report: "DemoReport") -> None:
        """The money was counted."""
        ...

    def staying(self, mesh: "Mesh") -> None:
        """The mesh stays up."""
        ...


class QuietScreen:
    """Shows nothing."""

    def __getattr__(self, step: str) -> Any:
        return lambda *arguments: None


class RichScreen:
    """Shows everything as it happens."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        self._offers: list[dict[str, Any]] = []
        self._quotes: dict[tuple[str, str], dict[str, Any]] = {}
        self._job_type = "chat"
        self._is_in_answer = False
        self._live: Live | None = None

    def starting(self, nodes: int) -> None:
        """Processes are being started."""
        self._console.print(
            f"[bold]RelayMesh[/] starts a relay, a Lightning network and {nodes} nodes, each a process of its own …"
        )

    def market(self, offers: list[dict[str, Any]]) -> None:
        """Every node is in view."""
        self._offers = offers

    def asking(self, prompt: str) -> None:
        """A chat completion will be bought."""
        self._begin("chat", f'\n[bold]1.[/] A chat completion: [italic]"{prompt}"[/]')

    def embedding(self, count: int) -> None:
        """Embeddings will be bought."""
        self._begin("embedding", f"\n[bold]2.[/] Embeddings of {count} sentences, sealed until they are paid")

    def _begin(self, job_type: str, title: str) -> None:
        from rich.live import Live

        self._job_type = job_type
        self._console.print(title)
        self._live = Live(self._table(), console=self._console, refresh_per_second=4)
        self._live.start()

    def chose(self, selection: "Selection") -> None:
        """Nodes were chosen, with reasons."""

    def quoted(self, quote: dict[str, Any]) -> None:
        """A node quoted or refused."""
        self._quotes[quote["job_type"], quote["label"]] = quote
        if self._live is not None:
            self._live.update(self._table())

    def opened(self, label: str, settlement: str) -> None:
        """A session was agreed on, to be paid in a form that was chosen for a reason."""
        self._end_live()
        self._console.print(
            f"Shook hands with [bold]{label}[/] through the relay; from here on peer to peer and encrypted."
        )
        self._console.print(f"Settlement is {settlement}", markup=False)

    def answer(self, data: str) -> None:
        """A piece of the answer."""
        self._is_in_answer = True
        self._console.print(data, end="", style="cyan", markup=False, soft_wrap=True)

    def embedded(self, sentences: tuple[str, ...], vectors: list[str]) -> None:
        """The vectors arrived."""
        if vectors:
            first = json.loads(vectors[0]).get("embedding", [])
            shown = ", ".join(f"{value:.3f}" for value in first[:4])
            self._console.print(f'{len(vectors)} vectors of {len(first)}; "{sentences[0]}" is \\[{shown}, …]')

    def settled(self, job: dict[str, Any], reason: str) -> None:
        """A job ended."""
        self._end_live()
        if self._is_in_answer:
            self._console.print()
            self._is_in_answer = False
        if reason:
            self._console.print(f"Not done: {reason}", style="red", markup=False)
            return
        self._console.print(self._settlement_table(job))

    def balances(self, report: "DemoReport") -> None:
        """The money was counted."""
        from rich.table import Table

        table = Table("wallet", "before (msat)", "after (msat)", "change (msat)", title="Money", title_justify="left")
        for name, before in report.balances_before_msat.items():
            after = report.balances_after_msat[name]
            table.add_row(name, f"{before:,}", f"{after:,}", f"{after - before:+,}")
        table.add_row("hub (routing fees)", "", "", f"{report.fees_msat:+,}")
        self._console.print()
        self._console.print(table)
        verdict = "[green]nothing lost, to the msat[/]" if report.conserved else "[red]money is missing[/]"
        events = ", ".join(f"{count} × {kind}" for kind, count in sorted(report.events_by_kind.items()))
        self._console.print(f"Conserved: {verdict}. Events on the relay by kind: {events}; no prompt among them.")

    def staying(self, mesh: "Mesh") -> None:
        """The mesh stays up."""
        self._console.print("\n[bold]The mesh stays up; Ctrl-C ends it.[/] Try, in another terminal:")
        config, program = mesh.client_config, program_name()
        commands = (
            f"{program} offers --relay {mesh.relay_url}",
            f'{program} infer --config {config} "What is an offer?"',
            f"{program} wallet balance --config {config}",
            f"{program} receipts list --config {config}",
        )
        for command in commands:
            self._console.print(f"  {command}", soft_wrap=True, markup=False)
        self._console.print(f"Relay: {mesh.relay_url}")
        for label, facts in mesh.nodes.items():
            self._console.print(f"Node {label}: {facts['node']}", soft_wrap=True)

    def _table(self) -> "Table":
        from rich.markup import escape
        from rich.table import Table

        table = Table("node", "model", "msat in / out", "per", "free", "quote: at most")
        for offer in self._offers:
            if self._job_type not in offer["job_types"]:
                continue
            quote = self._quotes.get((self._job_type, offer["label"]))
            said = "" if quote is None else escape(quote.get("refusal", "")) or f"{quote['max_msat']:,} msat"
            prices = f"{offer['input_msat']:,} / {offer['output_msat']:,}"
            per = f"{offer['per']:,} {offer['unit']}s"
            table.add_row(offer["label"], offer["model"], prices, per, str(offer["free"]), said)
        return table

    def _settlement_table(self, job: dict[str, Any]) -> "Table":
        from rich.table import Table

        table = Table(title=f"\nSettlement with {job['label']}", title_justify="left", show_header=False)
        units = job["units"]
        first, total = job["time_to_first_output_ms"], job["total_ms"]
        term = job["settlement"]
        table.add_row("quoted", f"at most {job['quoted_max_msat']:,} msat")
        table.add_row(
            "settled by",
            f"{term['form']}; at stake were at most {term['exposure_buyer_msat']:,} msat of the buyer's "
            f"and {term['exposure_node_msat']:,} msat of the node's",
        )
        table.add_row(
            "metered",
            f"{units['input_bytes']} bytes in, {units['output_bytes']} bytes out "
            f"({units['input_tokens']} and {units['output_tokens']} tokens by the node's word)",
        )
        table.add_row("charged", f"{job['charged_msat']:,} msat")
        tranches = "1 tranche" if job["tranches"] == 1 else f"{job['tranches']} tranches"
        table.add_row("paid", f"{job['paid_msat']:,} msat in {tranches}, and {job['fees_msat']:,} msat routing fees")
        table.add_row("time", f"first output after {first} ms, all after {total} ms, payments included")
        table.add_row("node's record", f"{job['metering_id'][:32]}…, held by both")
        table.add_row("client's receipt", f"{job['receipt_id'][:32]}…, held by both")
        table.add_row("evidence", "[green]signed by both, and they agree[/]" if job["verified"] else "[red]disputed[/]")
        return table

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            if not self._console.is_terminal:
                self._console.print()  # a table that is not live ends without a line's end
