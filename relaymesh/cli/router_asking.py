"""Asking routers from the command line: what they rank, what came of computing it again, and what nodes quote."""

from typing import Any

from relaymesh.cli.router_wiring import open_router_records, read_routers
from relaymesh.cli.settings_source import data_directory
from relaymesh.cli.terminal import clean_line, short_npub
from relaymesh.cli.wiring import open_market
from relaymesh.errors import RelayError, UsageError
from relaymesh.machines.opening_events import RouterAnswered, RoutingRequest
from relaymesh.market.consensus import OWN_WEIGHT_MILLI, Opinion, combine
from relaymesh.nostr.event import PublicKey
from relaymesh.nostr.identifiers import encode_public_key
from relaymesh.protocol.ranking import Ranking
from relaymesh.roles.buying import Wanted
from relaymesh.roles.market_view import MarketView
from relaymesh.roles.negotiation import collect_quotes
from relaymesh.roles.routers import Examined, RouterExaminer
from relaymesh.settings import Settings


async def consult(
    settings: Settings, names: tuple[str, ...], wanted: Wanted, policy: str | None, asks: int
) -> dict[str, Any]:
    """Ask the routers; everything that is told about their answers, as JSON."""
    answers: list[RouterAnswered] = []
    async with open_market(settings) as (market, relays), open_router_records(data_directory(settings)) as records:
        selection = await market.wait_for_choice(wanted.to_request(), settings.client.discovery_seconds)
        if not market.is_in_view:
            raise RelayError(market.unreachable)
        if not selection.chosen:
            raise UsageError("no node is in view that could serve this job, so there is nothing to rank")
        routing = RoutingRequest(read_routers(names) or _announced(market), policy, asks)
        if not routing.routers:
            raise UsageError("no router announces itself; `relaymesh router serve` starts one, --router names one")
        collected = await collect_quotes(
            relays, market.clock, selection, way="routed", routing=routing, on_router=answers.append
        )
        examiner = RouterExaminer(relays, market, market.clock, records)
        examined = [await examiner.examine(answer) for answer in answers]
        records.update(examiner.records)
    own = tuple(choice.candidate.offer.node for choice in selection.chosen)
    return {
        "asked": list(routing.routers),
        "routers": [_describe(each) for each in examined],
        "quotes": [
            {
                "node": bid.choice.candidate.offer.node,
                "label": bid.choice.candidate.offer.label,
                "model": bid.quote.row.model,
                "max_msat": bid.quote.max_msat,
                "estimated_msat": bid.quote.estimated_msat,
            }
            for bid in collected.quotes
        ],
        "own": list(own),
        "together": list(combine([Opinion(own, OWN_WEIGHT_MILLI), *(each.opinion for each in examined)])),
    }


def _announced(market: MarketView) -> tuple[PublicKey, ...]:
    return tuple(sorted(each.router for each in market.directory.routers(market.clock().timestamp)))


def _describe(examined: Examined) -> dict[str, Any]:
    found, compared = examined.recomputation, examined.comparison
    return {
        "router": encode_public_key(examined.router),
        "public_key": examined.router,
        "ranking": None if examined.signed is None else examined.signed.ranking.to_fields(),
        "refusal": None if examined.refusal is None else examined.refusal.to_wire(),
        "bolt11": examined.bolt11,
        "is_right": examined.is_right,
        "faults": [] if found is None else list(found.faults),
        "missing": [] if found is None else list(found.missing),
        "agreement_milli": None if compared is None else compared.agreement_milli,
        "is_same_registry": None if compared is None else compared.is_same_registry,
        "differences": []
        if compared is None
        else [
            {
                "node": each.node,
                "offer_id": each.offer_id,
                "theirs": each.theirs,
                "ours": each.ours,
                "reason": each.reason,
            }
            for each in compared.differences
        ],
        "weight_milli": examined.weight_milli,
    }


def tell(answer: dict[str, Any]) -> None:
    """The same for a person."""
    from rich.console import Console

    console = Console()
    for each in answer["routers"]:
        if each["ranking"] is None:
            print(f"{short_npub(each['public_key'])}: {clean_line(each['refusal'])}")
            continue
        console.print(_table(each))
        for line in _verdict(each):
            print(line)
    together = ", ".join(map(short_npub, answer["together"]))
    print(f"Together, each by its weight, the best are {together}.")
    for quote in answer["quotes"]:
        price = f"{clean_line(quote['model'])} at most {quote['max_msat']:,} msat"
        print(f"{short_npub(quote['node'])}/{quote['label']} quotes {price}")


def _table(each: dict[str, Any]) -> Any:
    from rich.table import Table

    ranking = Ranking.model_validate(each["ranking"], strict=False)
    title = (
        f"{short_npub(each['public_key'])} ranks by {ranking.policy}: "
        f"{ranking.eligible} of {ranking.considered} eligible"
    )
    table = Table("", "node", "price (msat)", "score", "made of", "asked", title=title, title_justify="left")
    for place, row in enumerate(ranking.rows, start=1):
        terms = ", ".join(f"{name} {figure:,}" for name, figure in row.terms.items())
        is_out = row.excluded is not None
        table.add_row(
            "" if is_out else str(place),
            f"{short_npub(row.node)}/{row.label}",
            "" if row.estimated_msat is None else f"{row.estimated_msat:,}",
            "" if row.score_msat is None else f"{row.score_msat:,}",
            clean_line(row.excluded) if row.excluded is not None else terms,
            "yes" if row.asked else "",
        )
    return table


def _verdict(answer: dict[str, Any]) -> list[str]:
    """What came of computing it again and of comparing it, a line each."""
    if answer["missing"]:
        lines = [f"It cites {len(answer['missing'])} events that nobody can show, so it cannot be computed again."]
    elif answer["faults"]:
        lines = ["It does not come out when it is computed again, and is ignored:"]
        lines += [f"  {clean_line(fault)}" for fault in answer["faults"]]
    else:
        lines = ["Computed again from the events that it cites, it comes out the same."]
    if answer["agreement_milli"] is not None:
        same = "the same events" if answer["is_same_registry"] else "other events"
        lines.append(f"It agrees with the view from here by {answer['agreement_milli'] / 10:.1f}%, from {same}.")
    for each in answer["differences"]:
        theirs, ours = (f"place {each[side]}" if each[side] else "no place" for side in ("theirs", "ours"))
        lines.append(f"  {short_npub(each['node'])}: {theirs} there, {ours} here: {clean_line(each['reason'])}")
    if not answer["weight_milli"]:
        lines.append("It is on probation, or was found wrong: it weighs nothing yet.")
    return lines
