"""Credit: the buyer's key that vouches for sessions, what a node lends to whom, and what it never got back."""

import json
import sys
from pathlib import Path
from typing import Any

from relaymesh.adapters.key_files import load_key
from relaymesh.cli.ledgers import open_existing_ledger
from relaymesh.cli.passphrase import passphrase_for
from relaymesh.errors import UsageError
from relaymesh.market.unpaid_work import UnpaidWork
from relaymesh.nostr.identifiers import decode_public_key, encode_public_key
from relaymesh.nostr.keys import KeyPair
from relaymesh.roles.node_credit import recall_unpaid
from relaymesh.settings import Node as NodeOptions
from relaymesh.settings import Settings
from relaymesh.units import AmountMsat


def load_credit_key(settings: Settings) -> KeyPair | None:
    """The key of `client.credit_key_file`; None where there is none. UsageError if the file holds no key."""
    if not settings.client.credit_key_file:
        return None
    path = Path(settings.client.credit_key_file).expanduser()
    return load_key(path, passphrase=passphrase_for(path))


def unpaid_work(node: NodeOptions) -> UnpaidWork:
    """What a node lends and risks, as it is set; UsageError where that makes no sense."""
    if node.credit_msat < 0 or node.max_unpaid_unknown_msat < 0:
        raise UsageError("node.credit_msat and node.max_unpaid_unknown_msat must be at least 0")
    lines = {decode_public_key(key): AmountMsat(node.credit_msat) for key in node.credit_keys}
    return UnpaidWork(AmountMsat(node.max_unpaid_unknown_msat), lines, forgiven=node.forgiven_jobs)


async def show_debts(settings: Settings, *, as_json: bool) -> None:
    """Print what was delivered on credit and never paid, by who vouched for it, and what is left of each line."""
    work = unpaid_work(settings.node)
    async with open_existing_ledger(settings, "node") as ledger:
        if ledger is not None:
            await recall_unpaid(ledger, work)
    keys = dict.fromkeys((*work.lines, *(debt.guarantor for debt in work.debts)))
    found: list[dict[str, Any]] = [
        {
            "key": encode_public_key(key),
            "line_msat": work.lines.get(key, 0),
            "owed_msat": work.at_stake_msat(key),
            "debts": [
                {"job_id": debt.job[1], "tranche": debt.tranche, "amount_msat": debt.amount_msat}
                for debt in work.debts
                if debt.guarantor == key
            ],
        }
        for key in keys
    ]
    if as_json:
        print(json.dumps(found))
        return
    for each in found:
        print(f"{each['key']}  owes {each['owed_msat']:,} of a line of {each['line_msat']:,} msat")
        for debt in each["debts"]:
            print(f"  {debt['job_id']}  tranche {debt['tranche']}  {debt['amount_msat']:,} msat")
    if not work.debts:
        print("Nothing is owed.", file=sys.stderr)
