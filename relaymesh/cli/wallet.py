"""`relaymesh wallet`: connect a Lightning wallet, see what is in it, pay and be paid by hand."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaymesh.cli.options import ConfigOption, JsonOption, WalletOption, wallet_flags
from relaymesh.cli.running import guarded, run
from relaymesh.errors import RelayMeshError, RemoteProtocolError, UsageError
from relaymesh.units import AmountMsat

if TYPE_CHECKING:
    from relaymesh.adapters.lnd_file import LndConnection
    from relaymesh.ports.lightning import PaymentOutcome, Transaction
    from relaymesh.settings import Settings

STANDARD_INPUT = "-"
LONGEST_CONNECTION = 4_096

wallet_commands = typer.Typer(no_args_is_help=True, help="Connect a Lightning wallet, look into it, pay and be paid.")


@wallet_commands.command("connect", short_help="Connect a wallet, and remember it.")
@guarded
def connect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="WALLET",
            help="Core Lightning's lightning-rpc socket, the https:// address of LND's REST interface, a file with a "
            "nostr+walletconnect:// or lndconnect:// string, or - to give that string on standard input.",
        ),
    ],
    macaroon: Annotated[Path | None, typer.Option(help="LND's macaroon file.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="LND's tls.cert; without it the machine has to trust LND's certificate.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that the wallet answers, and remember it in the settings file.

    A wallet connection (NIP-47) and LND's macaroon are secrets: they are kept in a file that only you can read.
    """
    from relaymesh.cli.settings_source import data_directory, load_settings

    if target.lower().startswith(("nostr+walletconnect:", "lndconnect:")):
        raise UsageError(
            "a wallet connection is a secret, and others on this machine can read a command line: give it on standard "
            "input to `relaymesh wallet connect -`"
        )
    is_lnd = target.lower().startswith(("https:", "http:"))
    if is_lnd == (macaroon is None) or (certificate is not None and not is_lnd):
        raise UsageError("LND's https:// address and --macaroon belong together, with --certificate where it needs one")
    directory = data_directory(load_settings(config))
    is_new = True
    if macaroon is not None:
        path = _keep_lnd(directory, target, macaroon, certificate)
    elif target == STANDARD_INPUT:
        path = _keep(directory)
    else:
        path, is_new = Path(target).expanduser().absolute(), False
    run(lambda: _connect(path, config, is_new=is_new, as_json=as_json))


async def _connect(path: Path, config: Path | None, *, is_new: bool, as_json: bool) -> None:
    from relaymesh.cli.settings_source import remember
    from relaymesh.cli.wallet_wiring import forget_connection, open_wallet
    from relaymesh.settings import Wallet

    flags = wallet_flags(path)
    entries = {name: value or "" for name, value in flags.items()}
    try:
        async with open_wallet(Wallet(entries["lightning_rpc"], entries["connection_file"])) as wallet:
            info = await wallet.info()
    except RelayMeshError:
        if is_new:
            forget_connection(path)
        raise
    settings = remember(config, "wallet", entries)
    if as_json:
        print(json.dumps({"public_key": info.public_key, "network": info.network, "settings": str(settings)}))
    else:
        print(f"Connected {info.alias or info.public_key} on {info.network}; remembered in {settings}.")


@wallet_commands.command("balance", short_help="Show what the wallet has, and what may be spent of it.")
def balance(wallet: WalletOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what the wallet has, what it can send and receive now, and what is left of the spending limits."""

    async def command() -> None:
        from relaymesh.cli.spending import describe_allowance, find_allowances
        from relaymesh.cli.wallet_wiring import open_wallet

        settings = _settings(config, wallet)
        async with open_wallet(settings.wallet) as opened:
            info = await opened.info()
        allowances = await find_allowances(settings)
        if as_json:
            amounts = {
                "balance_msat": info.balance_msat,
                "spendable_msat": info.spendable_msat,
                "receivable_msat": info.receivable_msat,
            }
            limits = [describe_allowance(each) for each in allowances]
            print(json.dumps({"public_key": info.public_key, "network": info.network, **amounts, "limits": limits}))
        else:
            inbound = "" if info.receivable_msat is None else f", {info.receivable_msat:,} can be received now"
            print(f"{info.balance_msat:,} msat on {info.network}: {info.spendable_msat:,} can be sent now{inbound}")
            for each in allowances:
                print(f"{each.left_msat:,} msat left {each.period} ({each.setting} is {each.limit_msat:,})")

    run(command)


@wallet_commands.command("pay", short_help="Pay an invoice, once.")
def pay(
    invoice: Annotated[str, typer.Argument(help="A BOLT 11 invoice.")],
    payee: Annotated[str | None, typer.Option(help="The Lightning node that is to be paid; no other is.")] = None,
    max_fee_msat: Annotated[int | None, typer.Option(help="The most that routing may cost.", min=0)] = None,
    wallet: WalletOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pay an invoice, if nothing speaks against it; given again, it is not paid again."""

    async def command() -> int:
        from relaymesh.adapters.invoices import decode_invoice_on_loop
        from relaymesh.cli.clock import system_clock
        from relaymesh.cli.ledgers import open_ledger
        from relaymesh.cli.spending import open_spending, payment_policy
        from relaymesh.cli.wallet_wiring import open_wallet
        from relaymesh.ports.lightning import PaymentRequest
        from relaymesh.protocol.payment import find_flaw

        settings = _settings(config, wallet)
        try:
            read = await decode_invoice_on_loop(invoice.strip().removeprefix("lightning:"))
        except RemoteProtocolError as error:
            raise UsageError(str(error)) from error
        policy = payment_policy(settings.wallet)
        fee_msat = policy.maximum_fee(read.amount_msat) if max_fee_msat is None else AmountMsat(max_fee_msat)
        async with open_wallet(settings.wallet) as opened, open_ledger(settings, "client") as ledger:
            info = await opened.info()
            flaw = find_flaw(read, network=info.network, now=system_clock().timestamp, payee=payee)
            if flaw is not None:
                raise UsageError(flaw)
            spending = await open_spending(opened, ledger, settings.wallet, info.network)
            request = PaymentRequest(read.bolt11, read.payment_hash, fee_msat, policy.deadline_ms)
            return _tell_outcome(await spending.pay(request), read.payment_hash, as_json)

    run(command)


@wallet_commands.command("invoice", short_help="Ask for money.")
def invoice(
    amount_msat: Annotated[int, typer.Argument(metavar="MSAT", help="How much.", min=1)],
    description: Annotated[str, typer.Option(help="What for; the payer reads it.")] = "",
    expiry_seconds: Annotated[int, typer.Option("--expiry", help="For so many seconds it can be paid.", min=1)] = 3600,
    wait: Annotated[bool, typer.Option(help="Wait until it is paid or has expired.")] = False,
    wallet: WalletOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue an invoice."""

    async def command() -> int:
        import secrets

        from relaymesh.cli.wallet_wiring import open_wallet
        from relaymesh.ports.lightning import InvoiceRequest, InvoiceStatus

        label = f"relaymesh-by-hand-{secrets.token_hex(16)}"
        async with open_wallet(_settings(config, wallet).wallet) as opened:
            request = InvoiceRequest(label, AmountMsat(amount_msat), description, expiry_seconds)
            issued = await opened.create_invoice(request)
            facts = {"bolt11": issued.bolt11, "payment_hash": issued.payment_hash, "expires_at": issued.expires_at}
            print(json.dumps(facts) if as_json else issued.bolt11, flush=True)
            if not wait:
                return 0
            status = (await opened.wait_invoice(label)).status
        print(json.dumps({"status": status.value}) if as_json else f"The invoice is {status.value}.")
        return 0 if status is InvoiceStatus.PAID else 1

    run(command)


@wallet_commands.command("history")
def history(
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=1_000)] = 20,
    wallet: WalletOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the wallet paid and was paid, newest first."""

    async def command() -> None:
        from relaymesh.cli.wallet_wiring import open_wallet

        async with open_wallet(_settings(config, wallet).wallet) as opened:
            found = await opened.transactions(limit)
        if as_json:
            print(json.dumps({"transactions": [_facts(each) for each in found]}))
            return
        for each in found:
            print(_line(each))
        if not found:
            print("Nothing was paid or received yet.")

    run(command)


def _settings(config: Path | None, wallet: Path | None) -> "Settings":
    from relaymesh.cli.settings_source import load_settings

    return load_settings(config, {"wallet": wallet_flags(wallet)})


def _tell_outcome(outcome: "PaymentOutcome", payment_hash: str, as_json: bool) -> int:
    from relaymesh.ports.lightning import PaymentSucceeded, PaymentUnknown

    facts: dict[str, Any] = {"payment_hash": payment_hash}
    if isinstance(outcome, PaymentSucceeded):
        paid = {"amount_msat": outcome.amount_msat, "fee_msat": outcome.fee_msat}
        facts |= {"outcome": "paid", **paid, "preimage": outcome.preimage.hex()}
        words = f"Paid {outcome.amount_msat:,} msat and {outcome.fee_msat:,} for routing."
    elif isinstance(outcome, PaymentUnknown):
        facts |= {"outcome": "unknown", "reason": outcome.reason}
        words = f"Nobody can say yet whether it was paid ({outcome.reason}): give it again later, it is paid once."
    else:
        facts |= {"outcome": "failed", "code": outcome.code, "reason": outcome.reason}
        words = f"Not paid: {outcome.reason}."
    is_paid = isinstance(outcome, PaymentSucceeded)
    if as_json:
        print(json.dumps(facts))
    else:
        print(words, file=sys.stdout if is_paid else sys.stderr)
    return 0 if is_paid else 1


def _facts(each: "Transaction") -> dict[str, Any]:
    return {
        "direction": each.direction.value,
        "state": each.state.value,
        "payment_hash": each.payment_hash,
        "amount_msat": each.amount_msat,
        "fee_msat": each.fee_msat,
        "description": each.description,
        "at": each.at,
    }


def _line(each: "Transaction") -> str:
    from datetime import UTC, datetime

    from relaymesh.cli.terminal import clean_text
    from relaymesh.ports.lightning import Direction, TransactionState

    sign = "+" if each.direction is Direction.INCOMING else "−"
    when = datetime.fromtimestamp(each.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    state = "" if each.state is TransactionState.SETTLED else f" ({each.state.value})"
    return f"{when}  {sign}{each.amount_msat:>15,} msat{state}  {clean_text(each.description)}".rstrip()


# ── a connection, kept ────────────────────────────────────────────────────────────────────────────────────────────────


def _keep(directory: Path) -> Path:
    """Read the connection and keep it in a file of its own."""
    from relaymesh.adapters.lnd_file import is_lnd_text, parse_lnd_connection
    from relaymesh.adapters.wallet_connect_file import parse_connection, save_connection

    text = _read_connection()
    if is_lnd_text(text):
        return _save_lnd(directory, parse_lnd_connection(text))
    connection = parse_connection(text)
    path = directory / f"connection-{connection.wallet[:16]}"
    save_connection(path, connection)
    return path


def _keep_lnd(directory: Path, url: str, macaroon: Path, certificate: Path | None) -> Path:
    """Copy what LND wrote for us into a file of our own, which only its owner can read."""
    from relaymesh.adapters.lnd_file import read_lnd_files

    certificate = None if certificate is None else certificate.expanduser()
    return _save_lnd(directory, read_lnd_files(url, macaroon.expanduser(), certificate))


def _save_lnd(directory: Path, connection: "LndConnection") -> Path:
    from hashlib import sha256

    from relaymesh.adapters.lnd_file import format_lnd_connection, save_lnd_connection

    path = directory / f"connection-lnd-{sha256(format_lnd_connection(connection).encode()).hexdigest()[:16]}"
    save_lnd_connection(path, connection)
    return path


def _read_connection() -> str:
    """The string, from whoever feeds standard input; a person types it unseen."""
    if sys.stdin.isatty():
        return str(typer.prompt("Wallet connection", hide_input=True, err=True))
    return sys.stdin.read(LONGEST_CONNECTION)
