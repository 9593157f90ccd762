"""Requests to a wallet over relays that lose, refuse and close, on a clock that jumps to the next deadline."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio.testing
from websockets.asyncio.server import ServerConnection

from relaymesh.adapters.wallet_connect_link import WalletLink, WalletRefused, WalletSilent, WalletUnreachable
from relaymesh.adapters.websocket_relays import WebSocketRelays
from relaymesh.machines.relay_connection_interface import RelayConnectionSettings
from relaymesh.nostr.event import VerifiedEvent, parse_event
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.kinds import Kind
from relaymesh.nostr.wallet_connect import (
    NIP04,
    NIP44,
    WalletAbilities,
    WalletError,
    WalletNotification,
    WalletResponse,
    build_abilities,
    build_response,
)
from relaymesh.ports.memory_relays import MemoryRelay
from relaymesh.units import Timestamp
from tests.adapters.scripted_relay import ScriptedRelay, event_text, say, scripted_relay
from tests.adapters.scripted_wallet import NOW, ScriptedWallet, clock, scripted_wallet

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0.0)}


def _same(method: str, parameters: dict[str, Any]) -> WalletResponse | None:
    return WalletResponse(method, parameters)


def _silence(method: str, parameters: dict[str, Any]) -> WalletResponse | None:
    return None


@asynccontextmanager
async def _link(wallet: ScriptedWallet, told: list[WalletNotification] | None = None) -> AsyncIterator[WalletLink]:
    hear = (told if told is not None else []).append
    async with WalletLink(wallet.connection, wallet.relay.connect(), clock, hear) as link:
        yield link


async def test_a_call_brings_what_the_wallet_answers() -> None:
    async with scripted_wallet(_same) as wallet, _link(wallet) as link:
        wallet.announce()
        assert await link.call("get_info", {"a": 1}, 5) == {"a": 1}
        assert wallet.heard == [("get_info", {"a": 1})]


async def test_a_no_is_the_wallets_own_with_code_and_words() -> None:
    def deny(method: str, parameters: dict[str, Any]) -> WalletResponse:
        return WalletResponse(method, error=WalletError("QUOTA_EXCEEDED", "enough for today"))

    async with scripted_wallet(deny) as wallet, _link(wallet) as link:
        wallet.announce()
        with pytest.raises(WalletRefused, match="enough for today") as refused:
            await link.call("get_info", {}, 5)
        assert refused.value.code == "QUOTA_EXCEEDED"


async def test_a_lost_answer_is_asked_for_again_until_the_deadline() -> None:
    answers = iter([None, None, WalletResponse("get_info", {"third": 3})])

    async with scripted_wallet(lambda method, parameters: next(answers)) as wallet, _link(wallet) as link:
        wallet.announce()
        assert await link.call("get_info", {}, 60) == {"third": 3}
        assert len(set(wallet.ids)) == 3


async def test_silence_ends_at_the_deadline() -> None:
    async with scripted_wallet(_silence) as wallet, _link(wallet) as link:
        wallet.announce()
        began = anyio.current_time()
        with pytest.raises(WalletSilent):
            await link.call("get_info", {}, 7)
        assert anyio.current_time() - began == pytest.approx(7, abs=0.01)


async def test_a_late_answer_to_the_first_request_ends_the_call() -> None:
    async with scripted_wallet(_silence) as wallet, _link(wallet) as link, anyio.create_task_group() as tasks:
        wallet.announce()
        results: list[dict[str, Any]] = []

        async def call() -> None:
            results.append(await link.call("get_info", {}, 60))

        tasks.start_soon(call)
        await anyio.sleep(5)
        assert len(wallet.ids) == 2
        wallet.answer(wallet.ids[0], WalletResponse("get_info", {"late": True}))
        await anyio.wait_all_tasks_blocked()
        assert results == [{"late": True}]


async def test_a_second_answer_a_strangers_and_one_to_nothing_change_nothing() -> None:
    async with scripted_wallet(_silence) as wallet, _link(wallet) as link:
        wallet.announce()
        asked = await link.ask("pay_invoice", {}, 60)
        await anyio.wait_all_tasks_blocked()
        wallet.answer(wallet.ids[0], WalletResponse("pay_invoice", {"from": "stranger"}), KeyPair(b"\x23" * 32))
        wallet.answer("ab" * 32, WalletResponse("pay_invoice", {"to": "nothing"}))
        await anyio.wait_all_tasks_blocked()
        assert not asked.ended.is_set()
        wallet.answer(wallet.ids[0], WalletResponse("pay_invoice", {"number": 1}))
        wallet.answer(wallet.ids[0], WalletResponse("pay_invoice", {"number": 2}))
        await anyio.wait_all_tasks_blocked()
        assert asked.result() == {"number": 1}


async def test_a_payment_is_asked_for_once_however_long_the_silence() -> None:
    async with scripted_wallet(_silence) as wallet, _link(wallet) as link:
        wallet.announce()
        asked = await link.ask("pay_invoice", {}, 60)
        with anyio.move_on_after(120):
            await asked.ended.wait()
        assert len(wallet.heard) == 1
        with pytest.raises(WalletSilent):
            asked.result()


async def test_a_request_says_until_when_it_may_be_carried_out() -> None:
    seen: list[VerifiedEvent] = []
    relay = MemoryRelay()

    def look(event: VerifiedEvent) -> bool:
        if event.kind == Kind.WALLET_REQUEST:
            seen.append(event)
        return False

    relay.loses = look
    async with scripted_wallet(_same, relay) as wallet, _link(wallet) as link:
        wallet.announce()
        await link.call("get_info", {}, 30)
    assert seen[0].tag_value("expiration") == str(NOW + 30 + 1)
    assert seen[0].tag_value("encryption") == NIP44


async def test_nobody_listening_is_out_of_reach_and_not_silence() -> None:
    relay = MemoryRelay(says_mute=True)
    wallet = ScriptedWallet(relay, _same)
    wallet.announce()
    async with _link(wallet) as link:
        with pytest.raises(WalletUnreachable, match="no one was listening"):
            await link.call("get_info", {}, 5)
        asked = await link.ask("pay_invoice", {}, 5)
        await anyio.wait_all_tasks_blocked()
        assert asked.ended.is_set() and asked.refusal


async def test_a_wallet_that_comes_back_within_the_deadline_is_asked() -> None:
    relay = MemoryRelay(says_mute=True)
    ScriptedWallet(relay, _same).announce()
    async with _link(ScriptedWallet(relay, _same)) as link, anyio.create_task_group() as tasks:
        results: list[dict[str, Any]] = []

        async def call() -> None:
            results.append(await link.call("get_info", {"a": 1}, 20))

        tasks.start_soon(call)
        await anyio.sleep(3)
        async with scripted_wallet(_same, relay):
            await anyio.sleep(5)
        assert results == [{"a": 1}]


async def test_a_relay_that_was_away_is_followed_again() -> None:
    async with scripted_wallet(_same) as wallet, _link(wallet) as link:
        wallet.announce()
        assert await link.call("get_info", {}, 5) == {}
        wallet.relay.fail()
        with pytest.raises(WalletUnreachable, match="relay does not answer"):
            await link.call("get_info", {}, 5)
        wallet.relay.recover()
        assert await link.call("get_info", {"again": 1}, 30) == {"again": 1}


async def test_without_an_info_event_nothing_is_asked() -> None:
    async with scripted_wallet(_same) as wallet, _link(wallet) as link:
        with pytest.raises(WalletUnreachable, match="no info event"):
            await link.call("get_info", {}, 5)
        assert wallet.heard == []


@pytest.mark.parametrize("encryptions", [(NIP04,), (), ("nip99",)])
async def test_a_wallet_without_the_newer_encryption_is_refused_in_a_sentence(encryptions: tuple[str, ...]) -> None:
    async with scripted_wallet(_same) as wallet, _link(wallet) as link:
        wallet.announce(encryptions=encryptions)
        with pytest.raises(WalletUnreachable, match="NIP-04"):
            await link.call("get_info", {}, 5)
        assert wallet.heard == []


async def test_what_the_connection_does_not_offer_is_not_asked_for() -> None:
    async with scripted_wallet(_same) as wallet, _link(wallet) as link:
        wallet.announce(frozenset({"get_info"}))
        with pytest.raises(WalletUnreachable, match="does not offer pay_invoice"):
            await link.ask("pay_invoice", {}, 5)
        assert wallet.heard == []


async def test_a_newer_info_event_counts_and_an_older_one_does_not() -> None:
    async with scripted_wallet(_same) as wallet, _link(wallet) as link:
        wallet.announce(frozenset({"get_info"}), created_at=Timestamp(NOW + 1))
        await anyio.wait_all_tasks_blocked()
        assert (await link.abilities(5)).methods == {"get_info"}
        wallet.announce(frozenset({"pay_invoice"}), created_at=Timestamp(NOW + 2))
        await anyio.wait_all_tasks_blocked()
        assert (await link.abilities(5)).methods == {"pay_invoice"}


async def test_notifications_are_passed_on() -> None:
    told: list[WalletNotification] = []
    async with scripted_wallet(_same) as wallet, _link(wallet, told):
        await anyio.wait_all_tasks_blocked()
        notification = WalletNotification("payment_received", {"payment_hash": "ab" * 32})
        wallet.notify(notification)
        await anyio.wait_all_tasks_blocked()
        assert told == [notification]


class TestOverASocket:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_a_subscription_that_the_relay_closes_for_good_is_opened_anew(self) -> None:
        wallet = ScriptedWallet(MemoryRelay(), _same)
        info = wallet.key.sign(build_abilities(wallet.key.public_key, WalletAbilities(frozenset({"get_info"})), NOW))
        subscriptions: list[str] = []

        async def script(relay: ScriptedRelay, connection: ServerConnection, message: list[Any]) -> None:
            if message[0] == "REQ":
                subscriptions.append(message[1])
                if len(subscriptions) == 1:
                    await say(connection, "CLOSED", message[1], "restricted: not now")
                    return
                await connection.send(event_text(message[1], info))
                await say(connection, "EOSE", message[1])
            if message[0] == "EVENT":
                event = verify(parse_event(message[1]))
                await say(connection, "OK", event.id, True, "")
                answer = build_response(
                    wallet.key,
                    wallet.client.public_key,
                    event.id,
                    WalletResponse("get_info", {"a": 1}),
                    nonce=b"\x01" * 32,
                    created_at=NOW,
                )
                await connection.send(event_text(subscriptions[-1], answer))

        settings = RelayConnectionSettings(first_retry_ms=20, last_retry_ms=50)
        async with scripted_relay(script) as relay, WebSocketRelays((relay.url,), settings=settings) as relays:
            connection = type(wallet.connection)(wallet.key.public_key, (relay.url,), wallet.client)
            told: list[WalletNotification] = []
            async with WalletLink(connection, relays, clock, told.append) as link:
                assert await link.call("get_info", {}, 10) == {"a": 1}
        assert len(subscriptions) == 2
