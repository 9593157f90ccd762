"""The specification is whole: every kind, message, field and link is there, and what is reserved says so."""

import dataclasses
import re
from typing import Any, get_args

import pytest

from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.session_messages import InvoiceMessage, JobMessage, SessionMessage
from tests.house import tree
from tests.nips.contents import CONTENTS
from tests.nips.test_files import load

DOCUMENTS = (
    "nips/README.md",
    "nips/RM-01.md",
    "nips/RM-02.md",
    "nips/RM-03.md",
    "nips/RM-04.md",
    "nips/RM-05.md",
    "docs/decisions.md",
)
SPOKEN = {int(content.kind) for content in CONTENTS}
OTHERS = {
    int(kind)
    for kind in (
        Kind.GENERIC_REPOST,
        Kind.RELAY_LIST,
        Kind.AUTHENTICATION,
        Kind.TRUSTED_ASSERTION,
        Kind.WALLET_INFORMATION,
        Kind.WALLET_REQUEST,
        Kind.WALLET_RESPONSE,
        Kind.WALLET_NOTIFICATION,
    )
}
RESERVED_MESSAGES = {"QUOTE"}


def read(path: str) -> str:
    return (tree.ROOT / path).read_text(encoding="utf-8")


def rows(path: str) -> list[list[str]]:
    lines = [line for line in read(path).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def anchors(path: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_kind_is_specified_or_marked_reserved() -> None:
    table = {int(row[0]): row[3] for row in rows("nips/README.md") if row[0].isdigit()}
    assert set(table) == {int(kind) for kind in Kind} - OTHERS
    assert {kind for kind, where in table.items() if where.startswith("reserved: ")} == set(table) - SPOKEN


def test_every_field_table_stands_in_the_document_that_the_kind_belongs_to() -> None:
    table = {int(row[0]): row[3] for row in rows("nips/README.md") if row[0].isdigit()}
    for content in CONTENTS:
        document = f"nips/{table[int(content.kind)][1:6]}.md"
        assert f"<!-- generated: fields-{content.name} -->" in read(document)


def test_every_message_of_a_session_is_specified() -> None:
    specified = {match[1]: row[2] for row in rows("nips/RM-02.md") if (match := re.match(r'`\["([A-Z]+)"', row[0]))}
    types = {kind.__name__.removesuffix("Message").upper() for kind in get_args(SessionMessage)}
    assert set(specified) == types
    assert {name for name, note in specified.items() if note.startswith("reserved")} == RESERVED_MESSAGES


@pytest.mark.parametrize(("document", "message"), [("nips/RM-02.md", JobMessage), ("nips/RM-03.md", InvoiceMessage)])
def test_every_field_of_a_job_and_an_invoice_is_specified(document: str, message: type[Any]) -> None:
    named = {row[0].strip("`") for row in rows(document)}
    assert {field.name for field in dataclasses.fields(message)} - {"job_id"} <= named


def test_the_example_job_shows_every_message_of_a_job_that_goes_well() -> None:
    shown = {each["message"][0] for each in load("examples/session-messages.json")}
    assert shown == {"JOB", "CREDIT", "INVOICE", "PAID", "OUTPUT", "END", "METERING", "RECEIPT"}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_to_headings_that_exist(path: str) -> None:
    folder = path.rpartition("/")[0]
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", read(path)):
        place = (tree.ROOT / folder / target).resolve().relative_to(tree.ROOT).as_posix() if target else path
        broken += [] if anchor in anchors(place) else [f"{target}#{anchor}"]
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS)
def test_lines_are_as_long_as_everywhere(path: str) -> None:
    long = [line for line in read(path).splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long


@pytest.mark.parametrize("path", DOCUMENTS)
def test_files_that_are_named_exist(path: str) -> None:
    named = set(re.findall(r"`((?:schemas|examples|vectors)/[\w.-]*)`", read(path)))
    assert not [name for name in named if not (tree.ROOT / "nips" / name).exists()]
