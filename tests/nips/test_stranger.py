"""A client written from the documents alone buys a job from our node, pays it, and both hold each other's signature."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio.testing

from relaymesh.nostr.event import parse_event
from relaymesh.nostr.filters import Filter
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.ports.lightning import PaymentRequest, PaymentSucceeded
from relaymesh.ports.memory_lightning import decode_memory_invoice
from relaymesh.ports.relays import Delivered, Relays
from relaymesh.ports.sessions import Connection
from relaymesh.protocol.evidence import read_receipt
from relaymesh.protocol.fields import Order
from relaymesh.protocol.offer import SettlementTerm
from relaymesh.units import AmountMsat
from tests.house import tree
from tests.nips import stranger
from tests.nips.stranger import Json, Key, Session
from tests.roles.market import PROMPT, Market, MarketNode, chat_body, loop_clock

OUTPUT_BYTES, MAXIMUM_MSAT, BUDGET_MSAT = 40, 4_000, 50_000
EPHEMERAL, CLIENT = Key(b"\x21" * 32), Key(b"\x22" * 32)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio, on a clock that jumps to the next deadline when everybody waits."""
    clock = trio.testing.MockClock(autojump_threshold=0.0)
    clock.jump(3_600)
    return "trio", {"clock": clock}


def now() -> int:
    return loop_clock().timestamp


async def ask(relays: Relays, request: Json, kind: int) -> Json:
    """Send a sealed event; the first answer of this kind."""
    answers = Filter(kinds=(kind,), tags=(("p", (CLIENT.public,)),))
    with anyio.fail_after(5):
        async with relays.subscribe((answers,)) as deliveries:
            await relays.publish(parse_event(request))
            async for delivery in deliveries:
                if isinstance(delivery, Delivered):
                    return delivery.event.to_json()
    raise AssertionError("the relay said nothing more")


async def negotiate(
    market: Market, offer_event: Json, way: str, order: str = "prepay"
) -> tuple[Json, Json, Session, Json]:
    """From an offer to a session: quote event, quote, session, accept."""
    relays, node, body = market.connect_relays(), offer_event["pubkey"], chat_body()
    offer = json.loads(offer_event["content"])
    wanted = {
        "model": "echo",
        "job_type": "chat",
        "shape": {"input_tokens": 20, "input_bytes": len(body), "output_tokens": 8, "output_bytes": OUTPUT_BYTES},
        "budget_msat": BUDGET_MSAT,
        "settlement": [order],
    }
    relied_on = {"offer_id": offer_event["id"], "offer_seq": offer["seq"]}
    if way == "posted":
        asked, quote_event, answers = {**wanted, **relied_on, "ephemeral_key": EPHEMERAL.public}, {}, ""
        quoted_for = ""
    else:
        request = stranger.call_event(CLIENT, wanted, now=now(), bits=16)
        if way == "directed":
            request = stranger.seal_event(
                CLIENT, 28770, node, {**wanted, **relied_on}, answers="", now=now(), entropy=b"\x31" * 64
            )
        quote_event = await ask(relays, request, 28771)
        asked, answers = {"quote": quote_event, "term": 0, "ephemeral_key": EPHEMERAL.public}, quote_event["id"]
        quoted_for = request["id"]
    request = stranger.seal_event(CLIENT, 28772, node, asked, answers=answers, now=now(), entropy=b"\x32" * 64)
    accept_event = await ask(relays, request, 28773)
    accept = stranger.open_event(accept_event, CLIENT, kind=28773, answers=request["id"])
    assert accept["request_id"] == request["id"] and accept["term"] == 0
    if way == "posted":
        quote_event, quoted_for = accept["quote"], request["id"]
    quote = stranger.open_event(quote_event, CLIENT, kind=28771, answers=quoted_for)
    assert quote["row"] in offer["rows"] and quote["offer_id"] == offer_event["id"]
    assert quote_event["pubkey"] == node and (quote["max_msat"] is None) is (way == "posted")
    return quote_event, quote, Session.agree(EPHEMERAL, node, request, accept_event, accept, b"\x33" * 32), accept


@dataclass
class Job:
    """One job as the stranger lives it."""

    market: Market
    session: Session
    connection: Connection
    quote_event: Json
    quote: Json
    offer: Json
    job_id: str = ""
    paid: list[tuple[str, int]] = field(default_factory=list)
    output: str = ""
    record: Json = field(default_factory=dict)
    sealed: list[stranger.SealedTranche] = field(default_factory=list)

    async def run(self) -> None:
        nonce = b"\x34" * 32
        self.job_id = stranger.sha256(self.session.session_id + nonce).hex()
        job = {
            "client_nonce": nonce.hex(),
            "quote_id": self.quote_event["id"],
            "model": "echo",
            "job_type": "chat",
            "body": chat_body(),
            "output_units": OUTPUT_BYTES,
            "max_msat": MAXIMUM_MSAT,
        }
        await self.connection.send(self.session.frame(["JOB", self.job_id, job], ["CREDIT", self.job_id, 65_536]))
        while not self.record:
            frame = await self.connection.receive()
            assert isinstance(frame, bytes)
            for message in self.session.messages(frame):
                await self.take(message)

    async def take(self, message: list[Any]) -> None:
        match message:
            case ["INVOICE", self.job_id, invoice]:
                await self.pay(invoice)
            case ["SEALED", self.job_id, int(tranche), int(leaf), str(ciphertext)]:
                if tranche == len(self.sealed):
                    self.sealed.append(stranger.SealedTranche())
                assert leaf == len(self.sealed[tranche].leaves)
                self.sealed[tranche].leaves.append(base64.b64decode(ciphertext, validate=True))
            case ["COMMITMENT", event]:
                number, quote_id = len(self.sealed) - 1, self.quote_event["id"]
                node = self.quote_event["pubkey"]
                self.sealed[number].check(event, node, CLIENT.public, quote_id, self.job_id, number)
            case ["OUTPUT", self.job_id, int(), str(data)]:
                self.output += data
            case ["END", self.job_id]:
                pass
            case ["METERING", event]:
                self.take_record(event)
            case _:
                raise AssertionError(f"not in RM-02 at this place: {message[0]}")

    async def pay(self, invoice: Json) -> None:
        number, term = len(self.paid), self.quote["settlement"][0]
        price = (
            self.price(number)
            if self.sealed
            else stranger.tranche_price(
                self.quote["row"], len(chat_body()), OUTPUT_BYTES, term["tranche_units"], number
            )
        )
        assert invoice["order"] == term["order"] and invoice["tranche"] == number and invoice["msat"] == price
        assert price <= term["exposure_buyer_msat"]
        decoded = decode_memory_invoice(invoice["bolt11"])
        assert decoded.payee == self.offer["ln_pubkey"] and decoded.amount_msat == price
        outcome = await self.market.buyer.pay(
            PaymentRequest(invoice["bolt11"], decoded.payment_hash, AmountMsat(1_000))
        )
        assert isinstance(outcome, PaymentSucceeded)
        self.paid.append((decoded.payment_hash, price))
        if self.sealed:
            said = self.sealed[number].commitment
            assert (said["msat"], said["units"], said["payment_hash"]) == (
                price,
                invoice["units"],
                decoded.payment_hash,
            )
            self.output += self.sealed[number].open(outcome.preimage)
        await self.connection.send(self.session.frame(["PAID", self.job_id, number]))

    def price(self, number: int) -> int:
        """What a sealed tranche costs: all text so far, less what was paid."""
        assert len(self.sealed) == number + 1
        text_bytes = sum(sum(tranche.commitment["leaf_bytes"]) for tranche in self.sealed)
        return stranger.cost(self.quote["row"], len(chat_body()), text_bytes) - sum(price for _, price in self.paid)

    def take_record(self, event: Json) -> None:
        assert stranger.is_genuine(event) and stranger.tag(event, "p") == CLIENT.public
        self.record = event
        said = json.loads(event["content"])
        keys = {what: self.session.commitment_key(what, self.job_id) for what in (b"prompt", b"output", b"payment")}
        assert said["prompt_commitment"] == stranger.mac(keys[b"prompt"], chat_body().encode()).hex()
        assert said["output_commitment"] == stranger.mac(keys[b"output"], self.output.encode()).hex()
        for number, (tranche, paid) in enumerate(zip(said["tranches"], self.paid, strict=True)):
            salt = stranger.mac(keys[b"payment"], number.to_bytes(4))
            assert tranche["payment_commitment"] == stranger.sha256(salt + bytes.fromhex(paid[0])).hex()
            assert tranche["msat"] == paid[1]
        assert (said["status"], said["error"]) == ("ok", "stop")
        assert said["units"]["output_bytes"] == len(self.output.encode())

    def receipt(self) -> Json:
        said = json.loads(self.record["content"])
        content = {
            "v": 1,
            "metering": self.record,
            "outcome": "ok",
            "units": {**said["units"], "input_tokens": 0, "output_tokens": 0},
            "first_output_in_ms": 10,
            "total_in_ms": 20,
            "paid_msat": sum(price for _, price in self.paid),
        }
        tags = [["t", "relaymesh"], ["p", self.record["pubkey"]], ["e", self.record["id"]]]
        return CLIENT.sign(8771, tags, json.dumps(content, ensure_ascii=False), now())


async def wait_for_receipt(node: MarketNode) -> Json:
    with anyio.fail_after(5):
        while True:
            for record in await node.ledger.find_evidence():
                if record.event.kind == Kind.RECEIPT:
                    return record.event.to_json()
            await anyio.lowlevel.checkpoint()


def test_the_stranger_knows_nothing_of_our_code() -> None:
    [module] = [each for each in tree.modules("tests/nips/") if each.path.endswith("/stranger.py")]
    assert not [name for name, _ in tree.imports(module) if name.startswith(("relaymesh", "tests"))]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("way", "order"), [("directed", "prepay"), ("open", "prepay"), ("posted", "prepay"), ("directed", "sealed")]
)
async def test_a_client_written_from_the_documents_alone_buys_a_job(way: str, order: Order) -> None:
    async with Market().open() as market:
        node = await market.add_node(settlement=(SettlementTerm(order=order, tranche_units=16),))
        assert node.offer is not None
        offer_event = node.offer.event.to_json()
        assert stranger.is_genuine(offer_event)
        quote_event, quote, session, accept = await negotiate(market, offer_event, way, order)
        connection = await market.network.dialer().dial(accept["endpoints"][0])
        await connection.send(session.hello())
        ready = await connection.receive()
        assert isinstance(ready, str)
        session.ready(ready)
        offer = json.loads(offer_event["content"])
        job = Job(market, session, connection, quote_event, quote, offer)
        await job.run()
        assert job.output == PROMPT and len(job.paid) == 2 and len(job.sealed) == (2 if order == "sealed" else 0)
        receipt = job.receipt()
        await connection.send(session.frame(["RECEIPT", receipt]))
        assert await wait_for_receipt(node) == receipt
        await connection.send(session.frame(["BYE", "that was all"]))
        await connection.aclose()
    assert read_receipt(verify(parse_event(receipt)), verify).metering.record.charged_msat == sum(
        price for _, price in job.paid
    )
