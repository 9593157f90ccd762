"""Settings from a file, from the environment and from flags: one typed value, and one sentence where it is wrong."""

import re
import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymesh.configuration import (
    build_settings,
    format_document,
    merge_documents,
    parse_document,
    read_environment,
)
from relaymesh.errors import UsageError
from relaymesh.settings import Node, Settings, Surge

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
)
NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


def test_what_is_left_out_keeps_its_default() -> None:
    assert build_settings({}, Settings) == Settings()
    settings = build_settings({"node": {"label": "gpu"}}, Settings)
    assert settings == Settings(node=Node(label="gpu"))


def test_the_later_source_wins_setting_by_setting() -> None:
    file = {"node": {"label": "file", "port": 1}, "network": {"relays": ["ws://file"]}}
    environment = {"node": {"label": "environment"}}
    merged = merge_documents(file, environment, {"node": {"port": 3}})
    assert merged == {"node": {"label": "environment", "port": 3}, "network": {"relays": ["ws://file"]}}


@pytest.mark.parametrize(
    ("variable", "value", "table", "expected"),
    [
        ("RELAYMESH_NODE_PORT", "99", "node", {"port": 99}),
        ("RELAYMESH_NODE_LABEL", "99", "node", {"label": "99"}),
        ("RELAYMESH_NETWORK_ALLOW_PRIVATE", "true", "network", {"allow_private": True}),
        ("RELAYMESH_NETWORK_RELAYS", "ws://a, ws://b", "network", {"relays": ["ws://a", "ws://b"]}),
        ("RELAYMESH_NETWORK_RELAYS", '["ws://a"]', "network", {"relays": ["ws://a"]}),
    ],
)
def test_a_variable_is_read_as_its_setting_needs(
    variable: str, value: str, table: str, expected: dict[str, object]
) -> None:
    assert read_environment({variable: value, "OTHER": "x"}, Settings, "RELAYMESH") == {table: expected}


def test_a_variable_that_does_not_fit_is_refused_by_name() -> None:
    document = read_environment({"RELAYMESH_NODE_PORT": "many"}, Settings, "RELAYMESH")
    with pytest.raises(UsageError, match=r"node\.port"):
        build_settings(document, Settings)


def test_a_variable_that_was_mistyped_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="RELAYMESH_CLIENT_MAXMSAT; known are RELAYMESH_CLIENT_MAX_MSAT"):
        read_environment({"RELAYMESH_CLIENT_MAXMSAT": "5"}, Settings, "RELAYMESH")


def test_a_host_without_a_name_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"node\.host"):
        build_settings({"node": {"host": ""}}, Settings)


def test_a_port_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"node\.port"):
        build_settings({"node": {"port": 65_536}}, Settings)


def test_what_is_no_toml_names_its_source() -> None:
    with pytest.raises(UsageError, match=r"here\.toml"):
        parse_document("a = ", "here.toml")


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4))
def test_what_is_written_is_read_back(document: dict[str, dict[str, object]]) -> None:
    assert tomllib.loads(format_document(document)) == document


@given(st.dictionaries(NAMES, st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=4)), max_size=4))
def test_any_document_becomes_settings_or_one_sentence(document: dict[str, object]) -> None:
    with suppress(UsageError):
        assert isinstance(build_settings(document, Settings), Settings)


def test_a_table_in_a_table_is_read_checked_and_written_like_any_other() -> None:
    document = parse_document("[node]\nqueue = 3\n[node.surge]\nmaximum_permille = 2000\n", "here")
    settings = build_settings(document, Settings)
    assert settings.node == Node(queue=3, surge=Surge(maximum_permille=2_000))
    assert parse_document(format_document(document), "there") == document


@pytest.mark.parametrize(
    ("surge", "sentence"),
    [
        ({"colour": 1}, "the settings know no node.surge.colour"),
        ({"step_permille": -1}, "the setting node.surge.step_permille must be at least 0"),
        ({"step_permille": "x"}, "the setting node.surge.step_permille has the wrong form"),
        (7, "the setting node.surge must be a table"),
    ],
)
def test_what_is_wrong_in_a_table_in_a_table_is_said_by_its_whole_name(surge: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        build_settings({"node": {"surge": surge}}, Settings)


def test_a_variable_reaches_into_a_table_in_a_table_and_keeps_what_the_file_says_beside_it() -> None:
    variables = {"RELAYMESH_NODE_SURGE_MAXIMUM_PERMILLE": "3000", "RELAYMESH_NODE_LABEL": "gpu"}
    document = read_environment(variables, Settings, "RELAYMESH")
    assert document == {"node": {"surge": {"maximum_permille": 3_000}, "label": "gpu"}}
    merged = merge_documents({"node": {"surge": {"step_permille": 50}}}, document)
    assert build_settings(merged, Settings).node.surge == Surge(maximum_permille=3_000, step_permille=50)
