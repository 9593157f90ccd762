"""Omissions: a relay is suspected of what it had every chance to deliver, and of nothing else."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market import omissions as omissions_module
from relaymesh.market.omissions import GRACE_SECONDS, Omissions, RelayReport
from relaymesh.nostr.event import EventId
from relaymesh.units import Timestamp

HONEST, OTHER = "ws://honest.example", "ws://other.example"
NOW = 1_000


def at(second: int) -> Timestamp:
    return Timestamp(NOW + second)


def event_id(number: int) -> EventId:
    return EventId(number.to_bytes(32).hex())


@dataclass
class Watched:
    """Two relays, both complete from the beginning, and what is told of them."""

    omissions: Omissions[str] = field(default_factory=lambda: Omissions(lambda address, _: address != "elsewhere"))

    def __post_init__(self) -> None:
        for url in (HONEST, OTHER):
            self.omissions.relay_complete(url, at(0))

    def placed(self, number: int, *, address: str = "address", second: int = 1, created: int | None = None) -> None:
        made = at(second if created is None else created)
        self.omissions.placed(HONEST, address, event_id(number), made, at(second))

    def carried(self, number: int, *, address: str = "address", second: int) -> None:
        self.omissions.carried(OTHER, address, event_id(number), at(second))

    def report(self, second: int) -> RelayReport[str]:
        self.omissions.judge(at(second))
        return next(report for report in self.omissions.reports() if report.relay_url == OTHER)


def test_what_a_relay_has_not_delivered_in_time_it_withholds() -> None:
    watched = Watched()
    watched.placed(1)
    assert watched.report(GRACE_SECONDS) == RelayReport(OTHER)
    missing = (("address", event_id(1)),)
    assert watched.report(1 + GRACE_SECONDS) == RelayReport(OTHER, withheld=1, missing=missing)
    honest, _ = watched.omissions.reports()
    assert honest == RelayReport(HONEST, delivered=1)


def test_what_its_author_publishes_elsewhere_is_not_expected_of_a_relay() -> None:
    watched = Watched()
    watched.placed(1, address="elsewhere")
    assert watched.report(100) == RelayReport(OTHER)


def test_who_delivers_within_the_grace_is_not_suspected() -> None:
    watched = Watched()
    watched.placed(1)
    watched.carried(1, second=GRACE_SECONDS)
    assert watched.report(100) == RelayReport(OTHER, delivered=1)


def test_who_delivers_late_withholds_it_no_more_and_it_is_counted() -> None:
    watched = Watched()
    watched.placed(1)
    watched.carried(1, second=GRACE_SECONDS + 1)
    assert watched.report(100) == RelayReport(OTHER, delivered=1, withheld=1, late=1)


def test_what_was_made_before_a_relay_was_followed_is_not_held_against_it() -> None:
    watched = Watched()
    watched.placed(1, address="old", created=-1)
    watched.omissions.relay_gone(OTHER)
    watched.placed(2, address="while it was gone", second=2)
    watched.omissions.relay_complete(OTHER, at(5))
    watched.placed(3, address="from the future", second=4, created=30)  # its author's clock is ahead
    watched.placed(4, address="after", second=5)
    watched.placed(5, address="in time", second=6)
    watched.carried(5, address="in time", second=7)
    assert watched.report(100).missing == (("after", event_id(4)),)


def test_who_was_gone_when_the_grace_ended_is_not_suspected() -> None:
    watched = Watched()
    watched.placed(1)
    watched.omissions.relay_gone(OTHER)
    assert watched.report(100) == RelayReport(OTHER)


def test_a_relay_that_says_again_that_it_is_complete_gains_nothing_by_it() -> None:
    watched = Watched()
    watched.placed(1)
    watched.omissions.relay_complete(OTHER, at(5))
    assert watched.report(100).withheld == 1


def test_what_is_replaced_is_not_missed() -> None:
    watched = Watched()
    watched.placed(1)
    watched.placed(2, second=5)
    watched.carried(2, second=6)
    assert watched.report(100).withheld == 0
    watched.placed(3, second=101)
    assert watched.report(200).missing == (("address", event_id(3)),)
    watched.placed(4, second=201)
    watched.carried(4, second=202)
    assert watched.report(300) == RelayReport(OTHER, delivered=2, withheld=1)


def test_what_is_sent_again_long_after_accuses_nobody() -> None:
    watched = Watched()
    watched.placed(1)
    watched.carried(1, second=2)
    watched.report(100)
    watched.omissions.carried(HONEST, "address", event_id(1), at(150))  # a reconnect
    assert watched.report(300).withheld == 0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omissions_module, "MAXIMUM_WITHHELD", 3)
    watched = Watched()
    for number in range(5):
        watched.placed(number, address=f"{number}")
    report = watched.report(100)
    assert report.withheld == 5
    assert [address for address, _ in report.missing] == ["2", "3", "4"]
    monkeypatch.setattr(omissions_module, "MAXIMUM_YOUNG", 2)
    for number in range(5, 10):
        watched.placed(number, address=f"{number}", second=200)
    assert watched.report(300).withheld == 7


steps = st.tuples(
    st.sampled_from(["place", "carry", "gone", "complete"]),
    st.sampled_from([HONEST, OTHER, "ws://third.example"]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 6),
)


@given(st.lists(steps, max_size=40))
def test_only_what_stands_is_missing_and_only_from_relays_that_never_brought_it(
    drawn: list[tuple[str, str, str, int]],
) -> None:
    omissions: Omissions[str] = Omissions(lambda *_: True, grace_seconds=3)
    standing: dict[str, EventId] = {}
    brought: set[tuple[str, EventId]] = set()
    second = 0
    for number, (verb, url, address, elapsed) in enumerate(drawn):
        second += elapsed
        if verb == "gone":
            omissions.relay_gone(url)
        elif verb == "complete":
            omissions.relay_complete(url, at(second))
        elif verb == "place" or address not in standing:
            standing[address] = event_id(number)
            omissions.placed(url, address, standing[address], at(second), at(second))
            brought.add((url, standing[address]))
        else:
            omissions.carried(url, address, standing[address], at(second))
            brought.add((url, standing[address]))
        for report in omissions.reports():
            assert all(standing[address] == missing for address, missing in report.missing)
            assert not any((report.relay_url, missing) in brought for _, missing in report.missing)
            assert report.late <= report.withheld
            assert len(report.missing) <= report.withheld - report.late
