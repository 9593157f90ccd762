"""Offline verification finds every contradiction, blames no honest party, and is upset by nothing."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.errors import RemoteProtocolError
from relaymesh.machines.records import EvidenceRecord
from relaymesh.market.pricing import TranchePlan, charge
from relaymesh.market.verification import VerificationReport, verify_evidence
from relaymesh.nostr.keys import verify
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.evidence import read_receipt
from relaymesh.protocol.evidence_files import DisclosedQuote, PresentedEvidence
from relaymesh.protocol.metering import MeteredUnits
from relaymesh.units import AmountMsat, Timestamp
from tests.machines.pair import Pair, contract, order, price_row
from tests.market.evidence_builders import (
    CLIENT,
    NODE,
    ROW,
    STARTED_AT_MS,
    STRANGER,
    as_event,
    make_case,
    make_quote,
    make_tranche,
    sign_content,
)

SIGNATURES = ["the receipt's signature", "the receipt's content", "the record's signature", "the record's content"]
RELATIONS = [
    "the receipt is by the client that the record names",
    "the receipt names its record",
    "the receipt was signed after the record",
]
RECORD = [
    "its times are in order",
    "no output is counted where none was delivered",
    "no second is counted that did not pass",
    "its tranches add up to the charge",
    "the charge is within the job's limit",
    "no tranche delivers more than was paid",
]
RECEIPT = [
    "paid is what was charged",
    "both counted the same input bytes",
    "both counted the same output bytes",
    "both saw the same outcome",
]
QUOTE = [
    "the quote's signature",
    "the quote's plaintext",
    "the record cites this quote",
    "the node that made the record made the quote",
    "the quote was made to this client",
    "the job is of the quoted model and type",
    "the charge is within the quoted price",
]
UNITS = make_case().record.units
PRICE_UNCHECKED = "whether the price was kept: that needs the quote and its plaintext"


def names(report: VerificationReport) -> list[str]:
    return [check.name for check in report.checks]


def failures(report: VerificationReport) -> list[str]:
    assert report.holds == all(check.holds for check in report.checks)
    assert all(check.detail for check in report.checks)
    return [check.name for check in report.checks if not check.holds]


# ── honest evidence ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_honest_receipt_with_its_quote_holds_in_every_point() -> None:
    report = verify_evidence(make_case().presented(), verify)
    assert failures(report) == []
    assert names(report) == SIGNATURES + RELATIONS + RECORD + RECEIPT + QUOTE
    assert report.unchecked == ()
    assert report.metering is not None and report.metering.record.charged_msat == 340
    assert report.receipt is not None and report.receipt.paid_msat == 340
    assert report.quote is not None and report.quote.row == ROW


def test_without_the_quote_it_says_that_the_price_was_not_checked() -> None:
    report = verify_evidence(make_case().presented(with_quote=False), verify)
    assert failures(report) == []
    assert names(report) == SIGNATURES + RELATIONS + RECORD + RECEIPT
    assert report.unchecked == (PRICE_UNCHECKED,)


def test_a_record_alone_is_checked_and_called_the_nodes_word() -> None:
    report = verify_evidence(PresentedEvidence(make_case().metering()), verify)
    assert failures(report) == []
    assert names(report) == SIGNATURES[2:] + RECORD
    assert report.unchecked == ("whether the buyer agrees: a metering record alone is the node's word", PRICE_UNCHECKED)


def test_token_counts_are_called_the_nodes_word() -> None:
    quote = make_quote(ROW.model_copy(update={"unit": "token"}))
    report = verify_evidence(make_case(quote=quote, charged_msat=AmountMsat(0), tranches=()).presented(), verify)
    assert failures(report) == []
    assert report.unchecked == ("how many tokens there were: token counts are the node's word",)


def test_a_job_that_failed_before_its_first_output_and_cost_nothing_holds() -> None:
    units = MeteredUnits(input_tokens=0, output_tokens=0, input_bytes=1_000, output_bytes=0, seconds=0, jobs=0)
    case = make_case(
        status="failed", error="busy: full", first_output_at_ms=None, finished_at_ms=STARTED_AT_MS, units=units,
        charged_msat=AmountMsat(0), tranches=(),
    )  # fmt: skip
    assert failures(verify_evidence(case.presented(), verify)) == []


def test_a_prepaid_tranche_that_was_not_used_up_is_no_overcharge() -> None:
    units = MeteredUnits(input_tokens=9, output_tokens=9, input_bytes=1_000, output_bytes=10, seconds=3, jobs=1)
    case = make_case(units=units, charged_msat=AmountMsat(220), tranches=(make_tranche(220, 1_500, 10),))
    assert failures(verify_evidence(case.presented(), verify)) == []


@given(
    unit=st.sampled_from(["token", "byte", "second", "job"]),
    rates=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 10**6)),
    counts=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    tranche_units=st.none() | st.integers(1, 10**6),
)
@settings(max_examples=30)
def test_whoever_charges_what_the_plan_says_is_never_blamed_and_one_msat_more_is_seen(
    unit: Any, rates: tuple[int, int, int, int], counts: tuple[int, int], tranche_units: int | None
) -> None:
    row = ROW.model_copy(
        update={
            "unit": unit,
            "input_msat": rates[0],
            "output_msat": rates[1],
            "per": rates[2],
            "minimum_msat": rates[3],
        }
    )
    input_units, output_units = {"second": (0, 3), "job": (0, 1)}.get(unit, counts)
    units = MeteredUnits(
        input_tokens=counts[0],
        output_tokens=counts[1],
        input_bytes=counts[0],
        output_bytes=counts[1],
        seconds=3,
        jobs=1,
    )
    plan = TranchePlan(row, input_units, output_units, tranche_units)
    tranches = tuple(
        make_tranche(plan.price(index), plan.units(index), plan.units(index)) for index in range(plan.count)
    )
    honest = make_case(
        quote=make_quote(row), units=units, charged_msat=charge(row, units), tranches=tranches, max_msat=2**53 - 1
    )
    assert failures(verify_evidence(honest.presented(), verify)) == []
    last = tranches[-1].model_copy(update={"msat": tranches[-1].msat + 1})
    greedy = replace(
        honest,
        record=honest.record.model_copy(
            update={"charged_msat": honest.record.charged_msat + 1, "tranches": (*tranches[:-1], last)}
        ),
    )
    assert failures(verify_evidence(greedy.presented(), verify)) == ["the charge is within the quoted price"]


# ── one contradiction at a time ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"started_at_ms": STARTED_AT_MS + 301}, "its times are in order"),
        ({"first_output_at_ms": STARTED_AT_MS + 2_601}, "its times are in order"),
        ({"signed_at": Timestamp(1_790_000_001)}, "its times are in order"),
        ({"received_at": Timestamp(1_790_000_002)}, "the receipt was signed after the record"),
        ({"first_output_at_ms": None}, "no output is counted where none was delivered"),
        ({"units": UNITS.model_copy(update={"seconds": 4})}, "no second is counted that did not pass"),
        ({"tranches": (make_tranche(339, 2_500, 2_500),)}, "its tranches add up to the charge"),
        ({"max_msat": AmountMsat(339)}, "the charge is within the job's limit"),
        ({"tranches": (make_tranche(340, 2_500, 2_501),)}, "no tranche delivers more than was paid"),
        ({"receipt_changes": {"paid_msat": 339}}, "paid is what was charged"),
        ({"receipt_changes": {"outcome": "partial"}}, "both saw the same outcome"),
        ({"quote_id": "ab" * 32}, "the record cites this quote"),
        ({"model": "llama-3.1-70b-instruct"}, "the job is of the quoted model and type"),
        ({"job_type": "embedding"}, "the job is of the quoted model and type"),
        ({"signs_receipt": STRANGER}, "the receipt is by the client that the record names"),
    ],
)  # fmt: skip
def test_each_contradiction_fails_its_own_check_and_no_other(changes: dict[str, Any], failing: str) -> None:
    assert failures(verify_evidence(make_case(**changes).presented(), verify)) == [failing]


@pytest.mark.parametrize("name", ["input", "output"])
def test_the_buyers_own_count_of_bytes_is_held_against_the_nodes(name: str) -> None:
    counted = {**UNITS.model_dump(), f"{name}_bytes": 7}
    report = verify_evidence(make_case(receipt_changes={"units": counted}).presented(), verify)
    assert failures(report) == [f"both counted the same {name} bytes"]
    assert f"buyer 7, node {UNITS.model_dump()[f'{name}_bytes']}" in [c.detail for c in report.checks]


def test_a_charge_above_the_quoted_price_is_seen() -> None:
    case = make_case(charged_msat=AmountMsat(341), tranches=(make_tranche(341, 2_500, 2_500),))
    report = verify_evidence(case.presented(), verify)
    assert failures(report) == ["the charge is within the quoted price"]
    (detail,) = (check.detail for check in report.checks if not check.holds)
    assert detail == "charged 341 msat; 1000 input and 2500 output units (byte) cost 340 msat"


def test_more_seconds_than_the_buyer_waited_are_seen() -> None:
    row = ROW.model_copy(update={"unit": "second", "per": 1, "output_msat": AmountMsat(100)})
    tranches = (make_tranche(300, 3, 3),)
    case = make_case(quote=make_quote(row), charged_msat=AmountMsat(300), tranches=tranches)
    assert failures(verify_evidence(case.presented(), verify)) == []
    hasty = replace(case, receipt_changes={"total_in_ms": 2_000})
    assert failures(verify_evidence(hasty.presented(), verify)) == ["no more seconds are charged than the buyer waited"]


@pytest.mark.parametrize(
    ("quote", "failing"),
    [
        (make_quote(author=STRANGER), ["the node that made the record made the quote"]),
        (make_quote(client=STRANGER), ["the quote was made to this client"]),
        (replace(make_quote(), plaintext=make_quote().plaintext + " "), ["the quote's plaintext"]),
        (replace(make_quote(), plaintext=""), ["the quote's plaintext"]),
        (replace(make_quote(), event=as_event(make_quote().event, created_at=Timestamp(1))), ["the quote's signature"]),
        (DisclosedQuote(sign_content(NODE, Kind.QUOTE, (), ""), "{}"), ["the quote's plaintext"]),
    ],
)
def test_a_quote_that_is_not_this_jobs_is_seen(quote: DisclosedQuote, failing: list[str]) -> None:
    assert failures(verify_evidence(make_case(quote=quote).presented(), verify)) == failing


def test_another_sealed_message_is_no_quote() -> None:
    quote = make_quote()
    other = NODE.sign(replace(quote.event, kind=Kind.REFUSAL))
    report = verify_evidence(make_case(quote=DisclosedQuote(other, quote.plaintext)).presented(), verify)
    assert failures(report) == ["the quote's plaintext"]


# ── signatures ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes", [{"content": "{}"}, {"signature": "00" * 64}, {"id": "00" * 32}, {"public_key": STRANGER.public_key}]
)
def test_a_forged_receipt_is_not_looked_into(changes: dict[str, Any]) -> None:
    report = verify_evidence(PresentedEvidence(as_event(make_case().receipt(), **changes)), verify)
    assert names(report) == failures(report) == ["the receipt's signature"]
    assert report.receipt is None and report.metering is None


def test_a_forged_record_inside_a_receipt_is_seen() -> None:
    embedded = make_case().metering().to_json()
    for change in ({"content": "{}"}, {"sig": "00" * 64}, {"sig": 7}, {"kind": 1}):
        case = make_case(receipt_changes={"metering": {**embedded, **change}})
        report = verify_evidence(case.presented(), verify)
        assert "the record's signature" in failures(report)
        assert report.metering is None


def test_a_record_by_another_node_than_the_receipt_names_is_seen() -> None:
    other = make_case(node=STRANGER).metering()
    report = verify_evidence(make_case(receipt_changes={"metering": other.to_json()}).presented(), verify)
    assert failures(report) == ["the receipt names its record", "the node that made the record made the quote"]


def test_another_kind_of_event_is_no_evidence() -> None:
    report = verify_evidence(PresentedEvidence(sign_content(NODE, 1, (), "hello")), verify)
    assert failures(report) == ["it is a receipt or a metering record"]
    assert not report.holds


def test_structure_holds_exactly_where_a_reader_would_take_the_receipt() -> None:
    stranger = make_case(node=STRANGER).metering().to_json()
    for changes in ({}, {"signs_receipt": STRANGER}, {"receipt_changes": {"metering": stranger}}, {"client": STRANGER}):
        event = make_case(**changes).receipt()
        report = verify_evidence(PresentedEvidence(event), verify)
        try:
            read_receipt(event, verify)
            is_taken = True
        except RemoteProtocolError:
            is_taken = False
        assert is_taken == (not set(failures(report)) & {*SIGNATURES, *RELATIONS[:2]})


# ── hostile evidence ──────────────────────────────────────────────────────────────────────────────────────────────


def test_quantities_beyond_the_protocol_fail_and_do_not_raise() -> None:
    tranches = tuple(make_tranche(10, 10**9, 0) for _ in range(32))
    case = make_case(charged_msat=AmountMsat(320), tranches=tranches)
    report = verify_evidence(case.presented(), verify)
    assert failures(report) == ["the charge is within the quoted price"]
    assert "exceed the protocol's" in next(check.detail for check in report.checks if not check.holds)


def test_a_price_beyond_every_amount_does_not_raise() -> None:
    row = ROW.model_copy(update={"per": 1, "input_msat": AmountMsat(10**9), "output_msat": AmountMsat(10**9)})
    units = MeteredUnits(input_tokens=0, output_tokens=0, input_bytes=10**9, output_bytes=10**9, seconds=0, jobs=1)
    most = AmountMsat(2**53 - 1)
    case = make_case(
        quote=make_quote(row),
        units=units,
        charged_msat=most,
        max_msat=most,
        tranches=(make_tranche(most, 10**9, 10**9),),
    )
    assert failures(verify_evidence(case.presented(), verify)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("00" * 32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=60)
def test_no_signed_nonsense_upsets_it(data: st.DataObject) -> None:
    case = make_case()
    fields = case.record.to_fields()
    field = data.draw(st.sampled_from(sorted(fields)))
    fields[field] = data.draw(JSON)
    record = sign_content(NODE, Kind.METERING, (("p", CLIENT.public_key),), json.dumps(fields))
    receipt_fields = {**json.loads(case.receipt().content), "metering": record.to_json()}
    receipt_field = data.draw(st.sampled_from(["", *sorted(receipt_fields)]))
    if receipt_field:
        receipt_fields[receipt_field] = data.draw(JSON)
    tags = data.draw(st.sampled_from([(), (("p",),), (("p", NODE.public_key),), (("p", "x"), ("e", "y"))]))
    receipt = sign_content(CLIENT, Kind.RECEIPT, tags, json.dumps(receipt_fields))
    quote = DisclosedQuote(case.quote.event, data.draw(st.text(max_size=20) | st.just(case.quote.plaintext)))
    for event in (record, receipt):
        report = verify_evidence(PresentedEvidence(event, quote), verify)
        assert report.checks


def test_no_detail_repeats_what_a_party_wrote() -> None:
    poison = "\x1b[31mfree money\x1b[0m"
    quote = make_quote(ROW.model_copy(update={"model": poison}))
    case = make_case(
        quote=quote,
        model=poison + "!",
        error=poison,
        tokenizer=poison,
        receipt_changes={"note": poison, "outcome": "failed"},
    )
    report = verify_evidence(case.presented(), verify)
    assert len(failures(report)) == 2
    assert not any("money" in check.detail for check in report.checks)


# ── what our own machines make ────────────────────────────────────────────────────────────────────────────────────


@given(
    data=st.data(),
    unit=st.sampled_from(["byte", "token", "job", "second"]),
    tranche_units=st.none() | st.integers(1, 40),
    pieces=st.lists(st.text(min_size=1, max_size=12), max_size=8),
)
@settings(max_examples=25)
def test_every_job_that_two_honest_machines_complete_holds(
    data: st.DataObject, unit: str, tranche_units: int | None, pieces: list[str]
) -> None:
    agreed = contract(price_row(unit), tranche_units=tranche_units)
    pair = Pair(agreed=agreed, wanted=order(output_units=120), pieces=tuple(pieces))
    pair.start()
    pair.settle(lambda count: data.draw(st.integers(0, count - 1)))
    assert pair.outcome is not None and pair.outcome.receipt is not None
    kept = {record.event.kind: record for record in pair.client_ledger if isinstance(record, EvidenceRecord)}
    quote = DisclosedQuote(kept[Kind.QUOTE].event, kept[Kind.QUOTE].plaintext)
    assert failures(verify_evidence(PresentedEvidence(pair.outcome.receipt, quote), verify)) == []
