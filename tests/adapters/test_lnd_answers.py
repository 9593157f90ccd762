"""What LND may answer beside the usual: pieces, several lines, nonsense, a no in the middle, another address."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relaymesh.adapters import lnd_link
from relaymesh.adapters.invoices import InvoiceDraft, encode_invoice
from relaymesh.adapters.lnd import LndWallet
from relaymesh.adapters.lnd_file import read_lnd_files
from relaymesh.adapters.lnd_replies import read_invoice_state, read_network, read_payment, read_usable
from relaymesh.cli.clock import system_clock
from relaymesh.errors import LightningError
from relaymesh.ports.lightning import (
    InvoiceState,
    InvoiceStatus,
    PaymentFailed,
    PaymentRequest,
    PaymentSucceeded,
    PaymentUnknown,
)
from relaymesh.units import AmountMsat
from tests.adapters.certificates import make_tls

pytestmark = pytest.mark.anyio

PREIMAGE = b"\x07" * 32
HASH = hashlib.sha256(PREIMAGE).hexdigest()
PAID = {"payment_hash": HASH, "payment_preimage": PREIMAGE.hex(), "value_msat": "5000", "fee_msat": "7"}
SUCCEEDED = {**PAID, "status": "SUCCEEDED"}
IN_FLIGHT = {**PAID, "status": "IN_FLIGHT", "payment_preimage": "00" * 32}
NOT_INITIATED = (404, json.dumps({"error": {"code": 5, "message": "payment isn't initiated", "details": []}}))
Answer = tuple[int, str]


class ScriptedLnd:
    """Answers what a test says, by path."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.wallet: Callable[[], Any]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.path, json.loads(body) if body else {}))
        path = next((each for each in self.answers if request.path.startswith(each)), None)
        if path is None:
            return web.Response(status=404, text="{}")
        told = self.answers[path]
        status, text = told.pop(0) if len(told) > 1 else told[0]
        response = web.StreamResponse(status=status, headers={"Location": "/elsewhere"})
        await response.prepare(request)
        for start in range(0, len(text), 100):  # in pieces that have nothing to do with lines
            await response.write(text[start : start + 100].encode())
        return response


@pytest.fixture
async def lnd(tmp_path: Path) -> AsyncIterator[ScriptedLnd]:
    server, _ = make_tls(tmp_path, "localhost")
    scripted = ScriptedLnd()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", scripted.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
    macaroon = tmp_path / "macaroon"
    macaroon.write_bytes(b"secret")
    macaroon.chmod(0o600)
    connection = read_lnd_files(f"https://localhost:{runner.addresses[0][1]}", macaroon, tmp_path / "certificate.pem")

    @asynccontextmanager
    async def wallet() -> AsyncIterator[LndWallet]:
        async with LndWallet.open(connection, tmp_path / "book", system_clock) as opened:
            yield opened

    scripted.wallet = wallet
    yield scripted
    await runner.cleanup()


def _order(deadline_ms: int = 500) -> PaymentRequest:
    now = system_clock().timestamp
    draft = InvoiceDraft("bcrt", AmountMsat(5_000), HASH, "bb" * 32, now, 600, "a job")
    return PaymentRequest(encode_invoice(draft, b"\x01" * 32), HASH, AmountMsat(9), deadline_ms)


def _lines(*results: dict[str, Any]) -> Answer:
    return 200, "".join(json.dumps({"result": result}) + "\n" for result in results)


async def test_a_payment_is_what_its_last_line_says(lnd: ScriptedLnd) -> None:
    lnd.answers = {"/v2/router/track": [NOT_INITIATED], "/v2/router/send": [_lines(IN_FLIGHT, IN_FLIGHT, SUCCEEDED)]}
    async with lnd.wallet() as wallet:
        assert await wallet.pay(_order()) == PaymentSucceeded(PREIMAGE, AmountMsat(5_000), AmountMsat(7))
    (path, body) = lnd.asked[-1]
    assert path == "/v2/router/send"
    assert (body["fee_limit_msat"], body["no_inflight_updates"], body["timeout_seconds"]) == ("9", True, 1)
    track = base64.urlsafe_b64encode(bytes.fromhex(HASH)).decode()
    assert lnd.asked[0][0] == f"/v2/router/track/{track}"


@pytest.mark.parametrize(
    "answer",
    [
        _lines(),
        _lines(IN_FLIGHT),
        _lines({**SUCCEEDED, "payment_preimage": "11" * 32}),
        _lines({**SUCCEEDED, "payment_hash": "11" * 32}),
        (200, json.dumps({"error": {"code": 2, "message": "router rpc server shutting down"}}) + "\n"),
        (502, "<html>Bad Gateway</html>"),
        (200, "[1]\n"),
        (307, "{}"),
    ],
)
async def test_an_answer_that_says_nothing_leaves_the_payment_in_doubt(lnd: ScriptedLnd, answer: Answer) -> None:
    lnd.answers = {"/v2/router/send": [answer], "/v2/router/track": [NOT_INITIATED, _lines(IN_FLIGHT)]}
    async with lnd.wallet() as wallet:
        assert isinstance(await wallet.pay(_order()), PaymentUnknown)
        assert isinstance(await wallet.lookup_payment(HASH), PaymentUnknown)
        lnd.answers["/v2/router/track"] = [_lines(SUCCEEDED)]
        assert isinstance(await wallet.lookup_payment(HASH), PaymentSucceeded)
    assert sum(path == "/v2/router/send" for path, _ in lnd.asked) == 1


async def test_a_no_counts_only_where_lnd_does_not_know_the_payment(lnd: ScriptedLnd) -> None:
    refusal = (500, json.dumps({"error": {"code": 2, "message": "invoice expired. Valid until then", "details": []}}))
    lnd.answers = {"/v2/router/send": [refusal], "/v2/router/track": [NOT_INITIATED]}
    async with lnd.wallet() as wallet:
        failed = await wallet.pay(_order())
        assert isinstance(failed, PaymentFailed) and "invoice expired" in failed.reason
        lnd.answers["/v2/router/track"] = [NOT_INITIATED, _lines(IN_FLIGHT), _lines(SUCCEEDED)]
        assert isinstance(await wallet.pay(_order(5_000)), PaymentSucceeded)


async def test_a_failure_that_lnd_takes_back_was_none(lnd: ScriptedLnd) -> None:
    failed = {**PAID, "status": "FAILED", "failure_reason": "FAILURE_REASON_TIMEOUT"}
    lnd.answers = {
        "/v2/router/send": [_lines(failed)],
        "/v2/router/track": [NOT_INITIATED, _lines(IN_FLIGHT), _lines(IN_FLIGHT), _lines(SUCCEEDED)],
    }
    async with lnd.wallet() as wallet:
        assert isinstance(await wallet.pay(_order(1)), PaymentUnknown)
        assert isinstance(await wallet.pay(_order(5_000)), PaymentSucceeded)
        assert sum(path == "/v2/router/send" for path, _ in lnd.asked) == 1
        lnd.answers["/v2/router/track"] = [_lines(failed)]
        assert isinstance(await wallet.pay(_order(5_000)), PaymentFailed)


async def test_what_is_already_under_way_is_followed_and_never_called_failed(lnd: ScriptedLnd) -> None:
    taken = (409, json.dumps({"error": {"code": 6, "message": "payment is in transition", "details": []}}))
    lnd.answers = {
        "/v2/router/send": [taken],
        "/v2/router/track": [NOT_INITIATED, NOT_INITIATED, _lines(IN_FLIGHT), _lines(SUCCEEDED)],
    }
    async with lnd.wallet() as wallet:
        assert isinstance(await wallet.pay(_order(5_000)), PaymentSucceeded)


async def test_an_answer_without_end_is_not_read_to_its_end(lnd: ScriptedLnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lnd_link, "MAXIMUM_ANSWER_BYTES", 1_000)
    lnd.answers = {"/v1/getinfo": [(200, '{"alias": "' + "x" * 2_000 + '"}')]}
    async with lnd.wallet() as wallet:
        with pytest.raises(LightningError, match="more than 1000 bytes"):
            await wallet.info()


async def test_the_macaroon_goes_to_no_other_address(lnd: ScriptedLnd) -> None:
    lnd.answers = {"/v1/getinfo": [(307, "{}")]}
    async with lnd.wallet() as wallet:
        with pytest.raises(LightningError) as refused:
            await wallet.info()
    assert b"secret".hex() not in str(refused.value) and len(lnd.asked) == 1


def test_failures_have_the_codes_that_core_lightning_gives_them() -> None:
    codes = {"NO_ROUTE": 205, "INSUFFICIENT_BALANCE": 205, "INCORRECT_PAYMENT_DETAILS": 203, "TIMEOUT": 210, "X": 210}
    for reason, code in codes.items():
        failed = read_payment({**PAID, "status": "FAILED", "failure_reason": f"FAILURE_REASON_{reason}"}, HASH)
        assert isinstance(failed, PaymentFailed) and failed.code == code
    for status in ("IN_FLIGHT", "INITIATED", "UNKNOWN", None):
        assert isinstance(read_payment({**PAID, "status": status}, HASH), PaymentUnknown)


def test_states_networks_and_reserves_are_read_as_the_port_wants_them() -> None:
    assert read_invoice_state({"state": "SETTLED", "amt_paid_msat": "5"}) == InvoiceState(
        InvoiceStatus.PAID, AmountMsat(5)
    )
    states = {"OPEN": InvoiceStatus.OPEN, "ACCEPTED": InvoiceStatus.OPEN, "CANCELED": InvoiceStatus.EXPIRED}
    assert {name: read_invoice_state({"state": name}).status for name in states} == states
    with pytest.raises(LightningError):
        read_invoice_state({"state": "ELSE"})
    assert read_network({"chains": [{"network": "mainnet"}]}) == "bitcoin"
    channel = {"local_balance": "100", "local_constraints": {"chan_reserve_sat": "30"}}
    assert (read_usable(channel, "local"), read_usable({"local_balance": "-1"}, "remote")) == (70_000, 0)
    wrongs: tuple[Any, ...] = ("-1", "1.5", "1" * 20, None, [], 1.0, True)
    for wrong in wrongs:
        with pytest.raises(LightningError):
            read_usable({"local_balance": wrong}, "local")
