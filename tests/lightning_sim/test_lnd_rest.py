"""The simulated network speaks LND's REST interface in LND's own words, as its source and documentation have them."""

import base64
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relaymesh.errors import UsageError
from relaymesh.lightning_sim import LightningNetwork, NetworkPlan, WalletPlan
from relaymesh.lightning_sim.lnd_rest import LndService, serve_lnd

pytestmark = pytest.mark.anyio

PREIMAGE = bytes(range(224, 256))
HASH = hashlib.sha256(PREIMAGE).digest()
IN_PATH = base64.urlsafe_b64encode(HASH).decode()


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Caller:
    """Somebody with curl."""

    network: LightningNetwork
    service: LndService
    session: aiohttp.ClientSession

    async def ask(self, name: str, method: str, path: str, body: Any = None) -> tuple[int, list[dict[str, Any]]]:
        headers = {"Grpc-Metadata-macaroon": self.service.macaroons[name].read_bytes().hex()}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.service.url + path, data=data, headers=headers) as response:
            return response.status, [json.loads(line) for line in (await response.text()).splitlines()]

    async def invoice(self, **changes: Any) -> str:
        body = {"memo": "a job", "value_msat": "5000", "expiry": "600", "r_preimage": encode(PREIMAGE), **changes}
        status, (told,) = await self.ask("node", "POST", "/v1/invoices", body)
        assert status == 200 and set(told) == {"r_hash", "payment_request", "add_index", "payment_addr"}
        return str(told["payment_request"])

    async def pay(self, text: str, **changes: Any) -> tuple[int, list[dict[str, Any]]]:
        body = {"payment_request": text, "fee_limit_msat": "5000", "no_inflight_updates": True, **changes}
        return await self.ask("buyer", "POST", "/v2/router/send", body)


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    plan = NetworkPlan((WalletPlan("buyer", 1_000_000), WalletPlan("node", 0)), payment_latency_ms=2)
    async with (
        LightningNetwork.start(tmp_path, plan, lambda: time.time_ns() // 1_000_000) as network,
        serve_lnd(network) as service,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(service.certificate)))
        ) as session,
    ):
        yield Caller(network, service, session)


async def test_an_invoice_is_told_in_base64_and_numbers_in_text(caller: Caller) -> None:
    text = await caller.invoice()
    status, (told,) = await caller.ask("node", "GET", f"/v1/invoice/{HASH.hex()}")
    assert status == 200
    assert {name: told[name] for name in ("memo", "r_preimage", "r_hash", "value_msat", "expiry", "state")} == {
        "memo": "a job",
        "r_preimage": encode(PREIMAGE),
        "r_hash": encode(HASH),
        "value_msat": "5000",
        "expiry": "600",
        "state": "OPEN",
    }
    assert (told["payment_request"], told["amt_paid_msat"], told["settled"]) == (text, "0", False)
    status, paid = await caller.pay(text)
    assert (status, len(paid), paid[0]["result"]["status"]) == (200, 1, "SUCCEEDED")
    assert paid[0]["result"]["payment_preimage"] == PREIMAGE.hex()
    _, (told,) = await caller.ask("node", "GET", f"/v1/invoice/{HASH.hex()}")
    assert (told["state"], told["amt_paid_msat"]) == ("SETTLED", "5000")
    _, (last,) = await caller.ask("node", "GET", f"/v2/invoices/subscribe/{IN_PATH}")
    assert last == {"result": told}


async def test_every_refusal_has_lnds_code_status_and_words(caller: Caller) -> None:
    text = await caller.invoice()
    own = {"payment_request": text, "fee_limit_msat": "9"}
    late = await caller.invoice(r_preimage=encode(b"\x01" * 32), expiry="1")
    caller.network.simulation.ledger.put(_expired(caller, late))
    for (name, method, path, body), status, code, words in (
        (("node", "GET", f"/v1/invoice/{'11' * 32}", None), 404, 5, "unable to locate invoice"),
        (("node", "GET", "/v1/invoice/11", None), 500, 2, "payment hash must be exactly 32 bytes, is instead 1"),
        (
            ("node", "POST", "/v1/invoices", {"value_msat": "1", "r_preimage": encode(PREIMAGE)}),
            500,
            2,
            "invoice with payment hash already exists",
        ),
        (("node", "POST", "/v2/router/send", own), 500, 2, "self-payments not allowed"),
        (("buyer", "POST", "/v2/router/send", {"payment_request": late}), 500, 2, "invoice expired. Valid until "),
        (("buyer", "GET", f"/v2/router/track/{IN_PATH}", None), 404, 5, "payment isn't initiated"),
        (("buyer", "GET", "/v1/unheard-of", None), 404, 5, "Not Found"),
    ):
        told_status, (told,) = await caller.ask(name, method, path, body)
        error = told["error"] if path.startswith("/v2/") else told
        assert (told_status, error["code"], error["details"]) == (status, code, []), path
        assert error["message"].startswith(words)


async def test_a_payment_is_made_once_and_refused_from_then_on(caller: Caller) -> None:
    text = await caller.invoice()
    caller.network.hold_payments("node")
    async with caller.session.post(
        f"{caller.service.url}/v2/router/send",
        data=json.dumps({"payment_request": text, "fee_limit_msat": "5000"}),
        headers={"Grpc-Metadata-macaroon": caller.service.macaroons["buyer"].read_bytes().hex()},
    ) as response:
        first = json.loads(await response.content.readline())
        assert first["result"]["status"] == "IN_FLIGHT" and first["result"]["payment_preimage"] == "00" * 32
        status, (told,) = await caller.pay(text)
        assert (status, told["error"]["code"], told["error"]["message"]) == (409, 6, "payment is in transition")
        caller.network.release_payments("node")
        assert json.loads(await response.content.readline())["result"]["status"] == "SUCCEEDED"
    status, (told,) = await caller.pay(text)
    assert (status, told["error"]["code"], told["error"]["message"]) == (409, 6, "invoice is already paid")


async def test_what_cannot_be_sent_is_a_payment_that_failed_and_is_on_record(caller: Caller) -> None:
    dear = await caller.invoice(value_msat="2000000")
    status, (told,) = await caller.pay(dear)
    assert (status, told["result"]["status"]) == (200, "FAILED")
    assert told["result"]["failure_reason"] == "FAILURE_REASON_INSUFFICIENT_BALANCE"
    cheap = await caller.invoice(r_preimage=encode(b"\x02" * 32))
    _, (told,) = await caller.pay(cheap, fee_limit_msat="0")
    assert told["result"]["failure_reason"] == "FAILURE_REASON_NO_ROUTE"
    _, (tracked,) = await caller.ask("buyer", "GET", f"/v2/router/track/{IN_PATH}")
    assert tracked["result"]["status"] == "FAILED"
    _, (listed,) = await caller.ask("buyer", "GET", "/v1/payments?include_incomplete=true")
    assert [each["status"] for each in listed["payments"]] == ["FAILED", "FAILED"]
    _, (listed,) = await caller.ask("buyer", "GET", "/v1/payments")
    assert listed["payments"] == []


async def test_pages_go_backwards_and_say_where_the_next_one_begins(caller: Caller) -> None:
    for number in range(5):
        await caller.invoice(r_preimage=encode(bytes([number]) * 32), memo=str(number))
    path, seen = "/v1/invoices?reversed=true&num_max_invoices=2", []
    offset = 0
    while True:
        _, (page,) = await caller.ask("node", "GET", f"{path}&index_offset={offset}")
        if not page["invoices"]:
            break
        seen += [each["memo"] for each in reversed(page["invoices"])]
        offset = int(page["first_index_offset"])
    assert seen == ["4", "3", "2", "1", "0"]


async def test_nobody_is_let_in_without_the_wallets_own_macaroon(caller: Caller) -> None:
    for macaroon, words in ((None, "expected 1 macaroon, got 0"), ("00", "verification failed")):
        headers = {} if macaroon is None else {"Grpc-Metadata-macaroon": macaroon}
        async with caller.session.get(f"{caller.service.url}/v1/getinfo", headers=headers) as response:
            told = await response.json()
        assert response.status == 500 and told["code"] == 2 and told["message"].startswith(words)
    for name in ("buyer", "node"):
        _, (told,) = await caller.ask(name, "GET", "/v1/getinfo")
        assert told["alias"] == name and told["chains"] == [{"chain": "bitcoin", "network": "regtest"}]


async def test_certificate_and_macaroons_outlive_a_restart_and_a_taken_port_is_said(
    caller: Caller, tmp_path: Path
) -> None:
    kept = [caller.service.certificate, *caller.service.macaroons.values()]
    before = [path.read_bytes() for path in kept]
    async with serve_lnd(caller.network) as again:
        assert [path.read_bytes() for path in kept] == before and again.url != caller.service.url
    with pytest.raises(UsageError, match="cannot be served at port"):
        async with serve_lnd(caller.network, int(caller.service.url.rpartition(":")[2])):
            pytest.fail("served twice")


def _expired(caller: Caller, text: str) -> Any:
    invoice = caller.network.simulation.ledger.invoice_with_text(text)
    assert invoice is not None
    return replace(invoice, expires_at=1_700_000_000)
