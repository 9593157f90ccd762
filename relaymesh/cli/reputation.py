"""`relaymesh reputation`: what one's own jobs, and those whom one trusts, say about a node."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, KeyOption, RelayOption
from relaymesh.cli.passphrase import passphrase_for
from relaymesh.cli.running import guarded, run
from relaymesh.cli.terminal import clean_line

if TYPE_CHECKING:
    from relaymesh.nostr.event import PublicKey
    from relaymesh.nostr.keys import KeyPair
    from relaymesh.settings import Settings

reputation_commands = typer.Typer(no_args_is_help=True, help="Show and publish what is believed about a node.")
ASSERTION_DAYS = 7
SECONDS_PER_DAY = 86_400


@reputation_commands.command("show", short_help="Show a node's standing, with its reasons.")
@guarded
def show(
    node: Annotated[str, typer.Argument(help="The node, as npub or in hex.")],
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish it as an assertion (38774) and its mirror (NIP-85).")
    ] = False,
    key: KeyOption = None,
    relay: RelayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a node's standing with its reasons: from the ledger's jobs, from those you trust, and from its manifest.

    Publishing signs with a long-term key of yours, which readers may trust: reader.key in the data folder, made when it
    is not there. It cites your receipts by id, which links the session keys they were made under to that key.
    """
    from relaymesh.adapters.key_files import load_or_create_key
    from relaymesh.cli.settings_source import data_directory, load_settings
    from relaymesh.nostr.identifiers import decode_public_key

    settings = load_settings(config, {"network": {"relays": relay or None}})
    subject = decode_public_key(node)
    pair = None
    if publish:
        path = key or data_directory(settings) / "reader.key"
        pair = load_or_create_key(path, passphrase=passphrase_for(path))

    async def command() -> None:
        shown = await _look(settings, subject, pair)
        print(json.dumps(shown) if as_json else _tell(shown))

    run(command)


async def _look(settings: "Settings", subject: "PublicKey", pair: "KeyPair | None") -> dict[str, Any]:
    from relaymesh.cli.clock import system_clock
    from relaymesh.cli.manifest import publish_events
    from relaymesh.cli.wiring import open_market
    from relaymesh.nostr.identifiers import encode_public_key
    from relaymesh.protocol.assertion import build_assertion_event, build_trusted_assertion
    from relaymesh.units import Timestamp

    async with open_market(settings) as (market, _):
        await market.wait_complete(settings.client.discovery_seconds)
        assert market.experience is not None
        now = system_clock().timestamp
        standing = market.experience.standing(market.directory, subject, now)
        until = Timestamp(now + ASSERTION_DAYS * SECONDS_PER_DAY)
        assertion = market.experience.reputation.make_assertion(subject, now, seq=now, valid_until=until)
    shown = {
        "node": encode_public_key(subject),
        "public_key": subject,
        "standing": asdict(standing),
        "assertion": assertion.to_fields(),
    }
    if pair is not None:
        event = pair.sign(build_assertion_event(assertion, subject, pair.public_key, now))
        mirror = pair.sign(build_trusted_assertion(assertion, subject, pair.public_key, now, event.id))
        await publish_events(settings, (event, mirror))
        shown |= {"assertion_id": event.id, "mirror_id": mirror.id}
    return shown


def _tell(shown: dict[str, Any]) -> str:
    standing = shown["standing"]
    good, bad = (standing[name] / 1_000 for name in ("successes_milli", "failures_milli"))
    limit = standing["job_limit_msat"]
    lines = [
        shown["node"],
        f"outcomes   {good:.1f} good, {bad:.1f} bad, by weight",
        f"trust      {standing['trust_milli'] / 10:.0f} of 100",
        f"probation  {'no' if not standing['is_on_probation'] else f'jobs up to {limit:,} msat'}",
    ]
    if standing["output_units_per_1000s"] is not None:
        lines.append(f"speed      {standing['output_units_per_1000s'] / 1_000:.1f} tokens a second")
    if standing["first_output_ms"] is not None:
        lines.append(f"begins     after {standing['first_output_ms']:,} ms")
    return "\n".join((*lines, *(f"because    {clean_line(reason)}" for reason in standing["reasons"])))
