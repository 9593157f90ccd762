"""The relay without I/O, driven by hand: what is answered when, and who gets what."""

from typing import Any

import orjson

from relaymesh.nostr.event import VerifiedEvent
from relaymesh.units import Instant, Moment, Timestamp
from relaymesh_relay.connection import Connection
from relaymesh_relay.relay import HELD_AT_MOST, Relay
from relaymesh_relay.settings import Rates, Settings
from relaymesh_relay.store import Standing, to_document
from tests.relay.client import ALICE, NOW, sign

FRESH, KNOWN, FORGED = [Standing.FRESH], [Standing.KNOWN], [Standing.FORGED]
SHIPPED = Settings()
MOMENT = Moment(Instant(0), NOW * 1_000)


def connect(relay_settings: Settings = SHIPPED, *, address: str = "192.0.2.1", is_exempt: bool = True) -> Connection:
    return Connection(relay_settings, address=address, relay_urls=(), challenge="c", is_exempt=is_exempt, now=MOMENT)


def said(connection: Connection) -> list[Any]:
    outgoing, connection.outgoing = connection.outgoing, []
    return [orjson.loads(message) for message in outgoing]


def send(relay: Relay, connection: Connection, *message: Any) -> None:
    relay.receive(connection, orjson.dumps(message), MOMENT)


def publish(relay: Relay, connection: Connection, event: VerifiedEvent) -> None:
    send(relay, connection, "EVENT", event.to_json())


def ok(event: VerifiedEvent, accepted: bool = True, message: str = "") -> list[Any]:
    return ["OK", event.id, accepted, message]


def test_an_event_is_acknowledged_only_when_it_is_written() -> None:
    relay, connection, event = Relay(Settings()), connect(), sign()
    publish(relay, connection, event)
    checking = relay.take_unchecked()
    relay.checked(checking, FRESH)
    assert said(connection) == [] and relay.take_touched() == []
    writing = relay.take_unwritten()
    assert [submission.record.document for submission in writing] == [to_document(event)]
    relay.written(writing, FRESH)
    assert said(connection) == [ok(event)] and relay.take_touched() == [connection]


def test_a_failed_write_is_answered_with_an_error_and_the_event_may_come_again() -> None:
    relay, connection, event = Relay(Settings()), connect(), sign()
    for standings in (None, FRESH):
        publish(relay, connection, event)
        relay.checked(relay.take_unchecked(), FRESH)
        relay.written(relay.take_unwritten(), standings)
    refused, accepted = said(connection)
    assert refused[2] is False and refused[3].startswith("error:")
    assert accepted == ok(event)


def test_copies_that_come_meanwhile_are_answered_together_after_the_write() -> None:
    relay, one, other, event = Relay(Settings()), connect(), connect(), sign()
    publish(relay, one, event)
    relay.checked(relay.take_unchecked(), FRESH)
    publish(relay, other, event)
    assert relay.take_unchecked() == [] and said(other) == []
    relay.written(relay.take_unwritten(), FRESH)
    assert said(one) == said(other) == [ok(event)]
    assert (one.pending, other.pending) == (0, 0)


def test_a_copy_with_another_signature_is_checked_for_itself() -> None:
    relay, connection, event = Relay(Settings()), connect(), sign()
    send(relay, connection, "EVENT", event.to_json() | {"sig": "0" * 128})
    publish(relay, connection, event)
    checking = relay.take_unchecked()
    assert len(checking) == 2
    relay.checked(checking, FORGED + FRESH)
    relay.written(relay.take_unwritten(), FRESH)
    assert [answer[2] for answer in said(connection)] == [False, True]


def test_a_stored_event_that_comes_again_is_answered_at_once() -> None:
    relay, connection, event = Relay(Settings()), connect(), sign()
    for _ in range(2):
        publish(relay, connection, event)
        for submission in relay.take_unchecked():
            relay.checked([submission], FRESH)
            relay.written(relay.take_unwritten(), FRESH)
    assert said(connection) == [ok(event), ok(event, True, "duplicate: this event is stored already")]


def test_a_deleted_event_is_not_taken_for_stored() -> None:
    relay, connection, event = Relay(Settings()), connect(), sign()
    for each in (event, sign(kind=5, tags=[["e", event.id]])):
        publish(relay, connection, each)
        relay.checked(relay.take_unchecked(), FRESH)
        relay.written(relay.take_unwritten(), FRESH)
    publish(relay, connection, event)
    assert [submission.event.id for submission in relay.take_unchecked()] == [event.id]


def test_live_events_wait_for_the_end_of_the_stored_ones_and_come_once() -> None:
    relay, reader, writer = Relay(Settings()), connect(), connect()
    before, during = sign(content="before"), sign(content="during")
    publish(relay, writer, before)
    relay.checked(relay.take_unchecked(), FRESH)  # delivered to all who listen, not yet in the store
    send(relay, reader, "REQ", "q", {})
    publish(relay, writer, during)
    relay.checked(relay.take_unchecked(), FRESH)
    assert said(reader) == []
    (read,) = relay.take_reads()
    relay.found(read, [to_document(before)], is_finished=False)
    relay.found(read, [], is_finished=True)
    expected = [["EVENT", "q", before.to_json()], ["EOSE", "q"], ["EVENT", "q", during.to_json()]]
    assert said(reader) == expected


def test_an_event_on_its_way_to_the_disk_is_not_missed_by_who_asks_meanwhile() -> None:
    relay, reader, writer, event = Relay(Settings()), connect(), connect(), sign()
    publish(relay, writer, event)
    relay.checked(relay.take_unchecked(), FRESH)
    send(relay, reader, "REQ", "q", {"kinds": [1]})
    send(relay, reader, "REQ", "other", {"kinds": [7]})
    for read in relay.take_reads():
        relay.found(read, [], is_finished=True)
    assert said(reader) == [["EOSE", "q"], ["EVENT", "q", event.to_json()], ["EOSE", "other"]]


def test_too_many_live_events_do_not_wait_in_memory() -> None:
    relay, reader, writer = Relay(Settings()), connect(), connect()
    send(relay, reader, "REQ", "q", {})
    (read,) = relay.take_reads()
    assert read.subscription is not None and read.subscription.held is not None
    read.subscription.held.update({str(number).encode(): b"{}" for number in range(HELD_AT_MOST)})
    event = sign(kind=20_001)
    publish(relay, writer, event)
    relay.checked(relay.take_unchecked(), FRESH)
    assert said(reader) == [["EVENT", "q", event.to_json()]]


def test_what_is_found_for_a_closed_subscription_is_not_sent() -> None:
    relay, reader = Relay(Settings()), connect()
    send(relay, reader, "REQ", "q", {})
    (read,) = relay.take_reads()
    send(relay, reader, "CLOSE", "q")
    relay.found(read, [to_document(sign())], is_finished=True)
    assert said(reader) == [] and not read.is_wanted


def test_a_store_that_cannot_be_read_closes_the_subscription() -> None:
    relay, reader = Relay(Settings()), connect()
    send(relay, reader, "REQ", "q", {})
    relay.failed(relay.take_reads()[0])
    assert said(reader)[0][:2] == ["CLOSED", "q"] and reader.open_subscriptions == {}


def test_nothing_is_kept_of_a_connection_that_is_gone() -> None:
    relay, reader, writer, event = Relay(Settings()), connect(), connect(), sign(kind=20_001)
    for name in ("one", "two"):
        send(relay, reader, "REQ", name, {"kinds": [20_001]})
    relay.disconnect(reader)
    publish(relay, writer, event)
    relay.checked(relay.take_unchecked(), FRESH)
    assert said(writer) == [ok(event, False, "mute: no one was listening")]
    assert said(reader) == []


def test_addresses_share_one_rate_over_their_connections() -> None:
    rates = Rates(address_events_per_second=1, address_events_burst=2)
    relay = Relay(Settings(rates=rates))
    connections = [connect(is_exempt=False) for _ in range(3)]
    for number, connection in enumerate(connections):
        publish(relay, connection, sign(content=str(number)))
    assert said(connections[2])[0][3].startswith("rate-limited:")
    elsewhere = connect(address="192.0.2.2", is_exempt=False)
    publish(relay, elsewhere, sign(ALICE, content="elsewhere"))
    assert said(elsewhere) == []


def test_a_count_is_answered_unless_the_client_is_gone() -> None:
    relay, connection = Relay(Settings()), connect()
    send(relay, connection, "COUNT", "c", {})
    (read,) = relay.take_reads()
    assert read.now == Timestamp(NOW)
    relay.counted(read, 3)
    assert said(connection) == [["COUNT", "c", {"count": 3}]]
    relay.disconnect(connection)
    relay.counted(read, 3)
    assert said(connection) == []
