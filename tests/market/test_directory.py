"""The directory: live state from relays that may lie, withhold, repeat and lag."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.market import directory as directory_module
from relaymesh.market import state_memory
from relaymesh.market.directory import Directory
from relaymesh.market.state import STATE_KINDS, Ignored
from relaymesh.nostr.event import UnsignedEvent, VerifiedEvent
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import SignedOffer, SignedStatus
from relaymesh.units import Timestamp
from tests.market.builders import MODEL, NOW, node, row, sign, signed_offer, signed_status

RELAY, OTHER_RELAY = "ws://one.example", "ws://two.example"


def filled(*states: SignedOffer | SignedStatus, now: int = NOW) -> Directory:
    """A directory that has heard all of this from one relay."""
    directory = Directory()
    for state in states:
        directory.apply(state.event, RELAY, Timestamp(now))
    return directory


def counted(directory: Directory) -> dict[Ignored, int]:
    """The reasons for which anything was ignored."""
    return {reason: count for reason, count in directory.ignored.items() if count}


def altered(
    state: SignedOffer | SignedStatus, *, content: dict[str, Any] | None = None, **changes: Any
) -> VerifiedEvent:
    """The same event with other fields in its content or other parts, signed again."""
    event = state.event
    fields = {**json.loads(event.content), **(content or {})}
    parts = {"created_at": event.created_at, "kind": event.kind, "tags": event.tags, "content": json.dumps(fields)}
    return sign(UnsignedEvent(event.public_key, **{**parts, **changes}))


# ── what is live ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_offers_and_statuses_become_candidates() -> None:
    offer, status = signed_offer(), signed_status(labels={"main": (2, 3)})
    directory = Directory()
    assert directory.apply(offer.event, RELAY, NOW)
    assert directory.apply(status.event, RELAY, NOW)
    [one] = directory.candidates(MODEL, "chat", NOW)
    assert (one.offer, one.row, one.status) == (offer, offer.offer.rows[0], status)
    assert one.load is not None and (one.load.free, one.load.queue) == (2, 3)
    assert directory.offers(NOW) == (offer,)
    assert directory.status(node(1), NOW) == status
    assert len(directory) == 1


def test_a_node_without_a_status_is_a_candidate_without_one() -> None:
    [one] = filled(signed_offer()).candidates(MODEL, "chat", NOW)
    assert one.status is None
    assert one.load is None


def test_a_status_may_come_before_the_offer_and_may_leave_a_label_out() -> None:
    [one] = filled(signed_status(labels={"other": (1, 0)}), signed_offer()).candidates(MODEL, "chat", NOW)
    assert one.status is not None and one.load is None


def test_candidates_are_the_rows_for_the_model_and_the_job_type() -> None:
    rows = (row(), row(unit="byte"), row(model="other"), row(model="embedder", job_types=("embedding",)))
    directory = filled(signed_offer(rows=rows), signed_offer(node(2), rows=(row(model="other"),)))
    assert [one.row.unit for one in directory.candidates(MODEL, "chat", NOW)] == ["token", "byte"]
    assert {one.offer.node for one in directory.candidates("other", "chat", NOW)} == {node(1), node(2)}
    assert directory.candidates(MODEL, "embedding", NOW) == ()
    assert directory.candidates("unheard of", "chat", NOW) == ()
    assert len(directory.candidates(None, "chat", NOW)) == 4
    assert [one.row.model for one in directory.candidates(None, "embedding", NOW)] == ["embedder"]


def test_labels_of_one_node_stand_beside_each_other() -> None:
    directory = filled(signed_offer(label="main"), signed_offer(label="main/2"))
    assert {offer.label for offer in directory.offers(NOW)} == {"main", "main/2"}


def test_a_label_belongs_to_its_author_alone() -> None:
    mine, theirs = signed_offer(node(1)), signed_offer(node(2), seq=NOW + 100, rows=(row(minimum_msat=1),))
    assert set(filled(mine, theirs).offers(NOW)) == {mine, theirs}


# ── replacement and rollback ──────────────────────────────────────────────────────────────────────────────────────


def test_a_higher_seq_replaces_and_a_lower_one_is_refused() -> None:
    old, new = signed_offer(seq=5), signed_offer(seq=6, rows=(row(model="newer"),))
    directory = filled(old, new)
    assert directory.offers(NOW) == (new,)
    assert directory.candidates(MODEL, "chat", NOW) == ()
    assert not directory.apply(old.event, OTHER_RELAY, NOW)
    assert directory.offers(NOW) == (new,)
    assert counted(directory) == {Ignored.ROLLED_BACK: 1}


def test_an_old_offer_does_not_come_back_when_the_new_one_has_ended() -> None:
    old, new = signed_offer(seq=5, valid_until=NOW + 1_000), signed_offer(seq=6, valid_until=NOW + 10)
    directory = filled(new)
    assert directory.offers(Timestamp(NOW + 10)) == ()
    assert not directory.apply(old.event, OTHER_RELAY, Timestamp(NOW + 11))
    assert counted(directory) == {Ignored.ROLLED_BACK: 1}


def test_an_expired_event_says_nothing_but_takes_away_what_it_replaced() -> None:
    old, withdrawn = signed_offer(seq=5), signed_offer(seq=6, valid_until=NOW - 1)
    directory = filled(old)
    assert directory.apply(withdrawn.event, OTHER_RELAY, NOW)
    assert directory.offers(NOW) == ()
    assert not directory.apply(old.event, RELAY, NOW)
    assert not filled().apply(withdrawn.event, RELAY, NOW)
    assert counted(directory) == {Ignored.EXPIRED: 1, Ignored.ROLLED_BACK: 1}
    assert directory.offers(Timestamp(NOW + 3_600)) == ()  # when what was taken away would have ended


def test_equal_content_under_an_equal_seq_is_a_republication_and_the_latest_counts() -> None:
    first = signed_status(expires_at=NOW + 100)
    again = signed_status(created_at=NOW + 50, expires_at=NOW + 150)
    directory = filled(first)
    assert directory.apply(again.event, RELAY, Timestamp(NOW + 50))
    assert directory.status(node(1), Timestamp(NOW + 120)) == again
    assert not directory.apply(first.event, RELAY, Timestamp(NOW + 60))
    assert directory.status(node(1), Timestamp(NOW + 120)) == again
    assert directory.status(node(1), Timestamp(NOW + 150)) is None
    later = signed_status(created_at=NOW + 160, expires_at=NOW + 200)
    assert directory.apply(later.event, RELAY, Timestamp(NOW + 160))


def test_of_republications_made_in_the_same_second_the_lowest_id_counts() -> None:
    pair = [signed_status(expires_at=NOW + 100), signed_status(expires_at=NOW + 101)]
    lowest = min(pair, key=lambda status: status.event.id)
    assert filled(*pair).status(node(1), NOW) == filled(*reversed(pair)).status(node(1), NOW) == lowest


def test_other_content_under_an_equal_seq_is_refused_and_kept_as_evidence() -> None:
    first, second = signed_offer(seq=5), signed_offer(seq=5, rows=(row(minimum_msat=1),))
    directory = filled(first, second)
    assert not directory.apply(second.event, OTHER_RELAY, NOW)
    assert directory.offers(NOW) == (first,)
    assert directory.equivocations == ((first.event, second.event),)
    assert counted(directory) == {Ignored.EQUIVOCATION: 2}


def test_equivocation_is_seen_after_the_first_has_ended_too() -> None:
    first, second = signed_offer(seq=5, valid_until=NOW + 1), signed_offer(seq=5, valid_until=NOW + 100)
    directory = filled(first)
    assert not directory.apply(second.event, RELAY, Timestamp(NOW + 1))
    assert counted(directory) == {Ignored.EQUIVOCATION: 1}


def test_evidence_of_equivocation_is_bounded() -> None:
    directory = Directory()
    for number in range(directory_module.MAXIMUM_EQUIVOCATIONS + 5):
        for price in (1, 2, 3):
            directory.apply(signed_offer(node(number), rows=(row(minimum_msat=price),)).event, RELAY, NOW)
    assert len(directory.equivocations) == directory_module.MAXIMUM_EQUIVOCATIONS


@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.sampled_from(["main", "main/2"]), st.integers(1, 4), st.integers(-1, 1)),
        min_size=1,
        max_size=7,
        unique_by=lambda drawn: drawn[:3],
    ),
    st.data(),
)
def test_whatever_order_relays_deliver_in_the_directory_is_the_same(
    drawn: list[tuple[int, str, int, int]], data: st.DataObject
) -> None:
    states = [signed_offer(node(who), label, seq=seq, valid_until=NOW + end) for who, label, seq, end in drawn]
    shuffled = data.draw(st.permutations(states * 2))
    highest: dict[str, SignedOffer] = {}
    for state in sorted(states, key=lambda state: state.offer.seq):
        highest[state.address] = state
    expected = {state for state in highest.values() if state.offer.valid_until > NOW}
    assert set(filled(*shuffled).offers(NOW)) == expected


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_state_ends_by_itself() -> None:
    directory = filled(signed_offer(valid_until=NOW + 100), signed_status(expires_at=NOW + 50))
    assert directory.status(node(1), Timestamp(NOW + 49)) is not None
    assert directory.status(node(1), Timestamp(NOW + 50)) is None
    [one] = directory.candidates(MODEL, "chat", Timestamp(NOW + 99))
    assert one.status is None
    assert directory.candidates(MODEL, "chat", Timestamp(NOW + 100)) == ()
    assert len(directory) == 0


def test_an_offer_ends_with_its_expiration_tag_when_that_is_earlier() -> None:
    offer = signed_offer()
    sooner = altered(offer, tags=(*offer.event.tags, ("expiration", str(NOW + 5))))
    directory = Directory()
    assert directory.apply(sooner, RELAY, NOW)
    assert len(directory.offers(Timestamp(NOW + 4))) == 1
    assert directory.offers(Timestamp(NOW + 5)) == ()


def test_events_may_come_from_a_minute_ahead_and_no_further() -> None:
    directory = Directory()
    assert directory.apply(signed_offer(created_at=NOW + 60).event, RELAY, NOW)
    assert not directory.apply(signed_offer(seq=NOW + 1, created_at=NOW + 61).event, RELAY, NOW)
    assert not directory.apply(signed_offer(node(2), valid_until=NOW).event, RELAY, NOW)
    assert counted(directory) == {Ignored.FROM_THE_FUTURE: 1, Ignored.EXPIRED: 1}


# ── relays ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_knows_which_relays_carried_what_is_live() -> None:
    offer, newer = signed_offer(seq=5), signed_offer(seq=6)
    directory = filled(offer)
    assert not directory.apply(offer.event, OTHER_RELAY, NOW)
    assert not directory.apply(offer.event, RELAY, NOW)
    assert directory.relays_of(offer.event.id) == (RELAY, OTHER_RELAY)
    directory.apply(newer.event, OTHER_RELAY, NOW)
    assert directory.relays_of(offer.event.id) == ()
    assert directory.relays_of(newer.event.id) == (OTHER_RELAY,)
    assert counted(directory) == {}


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_has_a_limited_number_of_offers() -> None:
    directory = Directory()
    limit = STATE_KINDS[Kind.OFFER].most_per_author
    for number in range(limit + 3):
        directory.apply(signed_offer(label=f"main/{number}").event, RELAY, NOW)
    assert len(directory) == limit
    assert counted(directory) == {Ignored.FULL: 3}
    assert directory.apply(signed_offer(label="main/0", seq=NOW + 1).event, RELAY, NOW)
    assert directory.apply(signed_status().event, RELAY, NOW)


def test_the_number_of_nodes_is_limited_and_room_is_made_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "MAXIMUM_NODES", 2)
    directory = filled(signed_offer(node(1), valid_until=NOW + 10), signed_status(node(2)))
    newcomer = signed_offer(node(3))
    assert not directory.apply(newcomer.event, RELAY, NOW)
    assert directory.apply(signed_status(node(1)).event, RELAY, NOW)
    assert directory.apply(signed_offer(node(2)).event, RELAY, NOW)
    assert not directory.apply(newcomer.event, RELAY, Timestamp(NOW + 10))
    assert directory.apply(newcomer.event, RELAY, Timestamp(NOW + 360))


def test_the_memory_of_what_has_ended_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_memory, "MAXIMUM_ENDED", 2)
    directory = filled(*(signed_offer(node(number), seq=6, valid_until=NOW + number) for number in (1, 2, 3)))
    assert directory.offers(Timestamp(NOW + 3)) == ()
    returned = [directory.apply(signed_offer(node(n), seq=5).event, RELAY, Timestamp(NOW + 3)) for n in (1, 2, 3)]
    assert returned == [True, False, False]


def test_what_ended_last_is_remembered_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_memory, "MAXIMUM_ENDED", 2)
    directory = Directory()
    for author, seq in ((1, 6), (2, 6), (1, 7), (3, 6)):
        directory.apply(signed_offer(node(author), seq=seq, valid_until=NOW - 1).event, RELAY, NOW)
    returned = [directory.apply(signed_offer(node(n), seq=5).event, RELAY, NOW) for n in (1, 2, 3)]
    assert returned == [False, True, False]


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────

PRICE = json.loads(signed_offer().event.content)["rows"][0]


@pytest.mark.parametrize(
    "content",
    [
        {"rows": [{**PRICE, "input_msat": -1}]},
        {"rows": [{**PRICE, "input_msat": 10**9 + 1}]},
        {"rows": [{**PRICE, "minimum_msat": 2**53}]},
        {"rows": [{**PRICE, "input_msat": 0.5}]},
        {"rows": [{**PRICE, "input_msat": float("nan")}]},
        {"rows": [{**PRICE, "input_msat": "40"}]},
        {"rows": [{**PRICE, "input_msat": True}]},
        {"rows": [{**PRICE, "per": 0}]},
        {"rows": [{**PRICE, "unit": "satoshi"}]},
        {"rows": [{**PRICE, "job_types": ["mining"]}]},
        {"rows": [{**PRICE, "model": f"model-{number}"} for number in range(10_000)]},
        {"rows": [{**PRICE, "model": f"model-{number}"} for number in range(8)]},
        {"rows": []},
        {"settlement": []},
        {"seq": -1},
        {"seq": None},
        {"valid_until": 2**53},
        {"ln_pubkey": "not a key"},
        {"v": 2},
        {"region": "not in the tags"},
    ],
)
def test_offers_that_break_a_rule_are_counted_and_never_raised(content: dict[str, Any]) -> None:
    directory = Directory()
    assert not directory.apply(altered(signed_offer(), content=content), RELAY, NOW)
    assert counted(directory) == {Ignored.INVALID: 1}


def test_what_an_offer_says_about_its_own_trust_is_not_even_read() -> None:
    directory = Directory()
    assert directory.apply(altered(signed_offer(), content={"trust": 10**9, "stake": 10**12}), RELAY, NOW)
    assert not hasattr(directory.offers(NOW)[0].offer, "trust")


def test_tags_that_contradict_the_content_are_refused() -> None:
    offer = signed_offer()
    for tags in ((), (("d", "main"),), (*offer.event.tags, ("m", "more")), (*offer.event.tags, ("r", "eu"))):
        assert filled().apply(altered(offer, tags=tags), RELAY, NOW) is False
    status = signed_status()
    without_expiration = tuple(tag for tag in status.event.tags if tag[0] != "expiration")
    assert filled().apply(altered(status, tags=without_expiration), RELAY, NOW) is False
    malformed = (*without_expiration, ("expiration", "soon"))
    assert filled().apply(altered(status, tags=malformed), RELAY, NOW) is False


@pytest.mark.parametrize(
    "more",
    [
        (("d", "other"),),
        (("t", "other"),),
        (("a", "x" * 101),),
        tuple(("e", str(number)) for number in range(9)),
        (("padding", "x" * 16_384),),
    ],
)
def test_state_with_more_tags_than_relays_should_index_is_invalid(more: tuple[tuple[str, ...], ...]) -> None:
    offer = signed_offer(region="eu")
    for state in (offer, signed_status()):
        directory = Directory()
        assert not directory.apply(altered(state, tags=(*state.event.tags, *more)), RELAY, NOW)
        assert counted(directory) == {Ignored.INVALID: 1}


def test_other_kinds_are_not_its_business() -> None:
    directory = Directory()
    for kind in (1, Kind.RECEIPT, Kind.QUOTE):
        assert not directory.apply(altered(signed_offer(), kind=int(kind)), RELAY, NOW)
    assert counted(directory) == {Ignored.OTHER_KIND: 3}


OFFER, STATUS = signed_offer(), signed_status()
text = st.text(st.characters(codec="utf-8"), max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(text, children, max_size=3),
    max_leaves=8,
)
tag_names = st.sampled_from(["t", "d", "m", "j", "r", "expiration"])
tag_values = text | st.sampled_from(["relaymesh", "main", "status", MODEL, "chat", str(NOW + 60), "9" * 17, "٣"])
tags = st.lists(st.lists(tag_names | tag_values, min_size=1, max_size=3).map(tuple), max_size=8).map(tuple)
fields = st.dictionaries(
    st.sampled_from([*json.loads(OFFER.event.content), *json.loads(STATUS.event.content)]),
    json_values,
    max_size=2,
)


@st.composite
def strange_events(draw: st.DrawFn) -> VerifiedEvent:
    """Events of any content, most of them nearly valid."""
    model = OFFER if draw(st.booleans()) else STATUS
    if draw(st.booleans()):
        return altered(model, content=draw(fields), tags=draw(tags | st.just(model.event.tags)))
    created_at = Timestamp(draw(st.integers(0, 2**53 - 1)))
    kind = draw(st.sampled_from([Kind.OFFER, Kind.STATUS]) | st.integers(0, 65_535))
    return sign(UnsignedEvent(model.node, created_at, int(kind), draw(tags), draw(text)))


@given(st.lists(st.tuples(strange_events(), st.integers(-100, 400)), max_size=6))
def test_nothing_that_a_peer_publishes_makes_it_raise_or_lose_count(events: list[tuple[VerifiedEvent, int]]) -> None:
    directory = Directory()
    for (event, elapsed), relay_url in zip(events, itertools.cycle([RELAY, OTHER_RELAY]), strict=False):
        now = Timestamp(NOW + elapsed)
        before, known = sum(directory.ignored.values()), bool(directory.relays_of(event.id))
        changed = directory.apply(event, relay_url, now)
        was_ignored = sum(directory.ignored.values()) > before
        assert changed or was_ignored or known
        assert len(directory) == len(directory.offers(now))
        assert all(offer.offer.valid_until > now for offer in directory.offers(now))
        status = directory.status(node(1), now)
        assert status is None or status.expires_at > now
