"""`relaymesh router …`: rank nodes for others, or ask those who do, and compute again what they say."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.buying import NOT_SERVED, MaximumOption, ModelOption, OutputOption, PromptArgument
from relaymesh.cli.options import ConfigOption, JsonOption, RelayOption, WalletOption, wallet_flags
from relaymesh.cli.running import guarded, run
from relaymesh.errors import UsageError

if TYPE_CHECKING:
    from relaymesh.cli.router_wiring import ServingRouter
    from relaymesh.nostr.keys import KeyPair
    from relaymesh.protocol.router_announcement import SignedRouterAnnouncement
    from relaymesh.roles.buying import Wanted
    from relaymesh.settings import Settings

router_commands = typer.Typer(no_args_is_help=True, help="Rank nodes for others, or ask who does.")
FeeOption = Annotated[int | None, typer.Option("--fee-msat", help="What a ranking costs; nothing by default.", min=0)]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="balanced, cheapest, fastest or trusted; the router's own otherwise.")
]
AsksOption = Annotated[
    int, typer.Option("--asks", help="To how many nodes each router passes the request on.", min=0, max=8)
]
RouterOption = Annotated[
    list[str] | None, typer.Option("--router", help="A router's npub; may be given several times.")
]


@router_commands.callback()
def _router() -> None:
    """Rank nodes for others, or ask who does."""


@router_commands.command("serve", short_help="Rank nodes for whoever asks, until Ctrl-C.")
@guarded
def serve(
    config: ConfigOption = None,
    relay: RelayOption = None,
    policy: PolicyOption = None,
    fee_msat: FeeOption = None,
    wallet: WalletOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the market in view, announce it, and rank nodes for whoever asks, until Ctrl-C.

    A router sees the shape of a job and never the job, and no payment for one.
    """
    settings, key = _load(config, relay, policy=policy, fee_msat=fee_msat, wallet=wallet)
    run(lambda: _serve(settings, key, as_json))


@router_commands.command("announce", short_help="Say once that this router is there.")
@guarded
def announce(
    config: ConfigOption = None,
    relay: RelayOption = None,
    policy: PolicyOption = None,
    fee_msat: FeeOption = None,
    wallet: WalletOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish this router's announcement once, for example from another machine than the one that serves."""
    settings, key = _load(config, relay, policy=policy, fee_msat=fee_msat, wallet=wallet)

    async def command() -> None:
        from relaymesh.cli.router_wiring import open_silent_router

        async with open_silent_router(settings, key) as role:
            _tell_announcement(await role.announce(), settings, as_json, "Announced")

    run(command)


@router_commands.command("ask", short_help="Ask one router for a ranking, and its nodes for quotes.")
@guarded
def ask(
    router: Annotated[str, typer.Argument(help="The router's npub.")],
    prompt: PromptArgument = None,
    policy: PolicyOption = None,
    asks: AsksOption = 3,
    model: ModelOption = None,
    max_msat: MaximumOption = None,
    output_tokens: OutputOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask one router to rank nodes for a job, compute its ranking again, and show what the nodes quote.

    Router and nodes learn the job's size, not the prompt. Nothing is bought.
    """
    settings, wanted = _load_job(config, relay, prompt, model=model, max_msat=max_msat, output_tokens=output_tokens)
    run(lambda: _consult(settings, (router,), wanted, policy, asks, as_json))


@router_commands.command("compare", short_help="Ask several routers, and compare them with one's own view.")
@guarded
def compare(
    prompt: PromptArgument = None,
    router: RouterOption = None,
    policy: PolicyOption = None,
    model: ModelOption = None,
    max_msat: MaximumOption = None,
    output_tokens: OutputOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask several routers to rank nodes for a job, and say where they differ from what is seen from here, and why.

    Without --router those of the settings are asked, or else all that announce themselves.
    """
    settings, wanted = _load_job(config, relay, prompt, model=model, max_msat=max_msat, output_tokens=output_tokens)
    run(lambda: _consult(settings, tuple(router or settings.client.routers), wanted, policy, 0, as_json))


def _load(
    config: Any, relay: list[str] | None, *, policy: str | None, fee_msat: int | None, wallet: Any
) -> "tuple[Settings, KeyPair]":
    from relaymesh.adapters.key_files import load_or_create_key
    from relaymesh.cli.passphrase import passphrase_for
    from relaymesh.cli.settings_source import data_directory, load_settings

    flags: dict[str, dict[str, Any]] = {
        "network": {"relays": relay or None},
        "wallet": wallet_flags(wallet),
        "router": {"policy": policy, "fee_msat": fee_msat},
    }
    settings = load_settings(config, flags)
    key_file = data_directory(settings) / "router.key"
    return settings, load_or_create_key(key_file, passphrase=passphrase_for(key_file))


def _load_job(
    config: Any,
    relay: list[str] | None,
    prompt: str | None,
    *,
    model: str | None,
    max_msat: int | None,
    output_tokens: int | None,
) -> "tuple[Settings, Wanted]":
    from relaymesh.cli.buying import read_prompt, wanted_chat
    from relaymesh.cli.settings_source import load_settings

    settings = load_settings(config, {"network": {"relays": relay or None}})
    text = read_prompt(prompt)
    return settings, wanted_chat(text, settings, model=model, max_msat=max_msat, output_tokens=output_tokens)


async def _serve(settings: "Settings", key: "KeyPair", as_json: bool) -> None:
    import anyio
    import structlog

    from relaymesh.cli.router_wiring import open_router

    log = structlog.get_logger(__name__)
    async with open_router(settings, key) as router:
        _tell_announcement(router.announcement, settings, as_json, "Ranking")
        try:
            await anyio.sleep_forever()
        finally:
            log.info("router_stopped", **_counts(router))


def _counts(router: "ServingRouter") -> dict[str, int]:
    counters, citations = router.role.counters, router.role.citations
    return {
        "heard": counters.heard,
        "answered": counters.answered,
        "asked": counters.asked,
        "fees_paid": counters.paid,
        "cited": citations.published,
    }


def _tell_announcement(
    announcement: "SignedRouterAnnouncement", settings: "Settings", as_json: bool, done: str
) -> None:
    from relaymesh.nostr.identifiers import encode_public_key

    said = announcement.announcement
    name = encode_public_key(announcement.router)
    relays = list(settings.network.relays)
    if as_json:
        facts = {"router": name, "public_key": announcement.router, "announcement_id": announcement.event.id}
        facts_of = {"policies": list(said.policies), "formula": said.formula, "fee_msat": said.fee_msat}
        print(json.dumps({**facts, **facts_of, "relays": relays}), flush=True)
        return
    price = f"{said.fee_msat:,} msat each" if said.fee_msat else "nothing"
    ends = "; Ctrl-C ends it" if done == "Ranking" else ""
    print(f"{done} as {name} on {', '.join(relays)}, by {said.policies[0]} unless asked otherwise, for {price}{ends}.")
    sys.stdout.flush()


async def _consult(
    settings: "Settings", names: tuple[str, ...], wanted: "Wanted", policy: str | None, asks: int, as_json: bool
) -> int:
    from relaymesh.cli.router_asking import consult, tell

    answer = await consult(settings, names, wanted, policy, asks)
    if not answer["routers"]:
        raise UsageError("no router answered; `relaymesh router serve` starts one, --router names one")
    if as_json:
        print(json.dumps(answer))
    else:
        tell(answer)
    return 0 if any(each["is_right"] for each in answer["routers"]) else NOT_SERVED
