"""Settings come from one TOML file, strictly; what it leaves out is the default; the example is true."""

from pathlib import Path

import pytest

from relaymesh.configuration import build_settings
from relaymesh.errors import UsageError
from relaymesh_relay.settings import Access, Limits, Settings, read_settings

EXAMPLE = Path(__file__).parents[2] / "relay" / "relay.example.toml"


def test_the_example_holds_every_setting_at_its_default() -> None:
    assert read_settings(EXAMPLE) == Settings()
    text = EXAMPLE.read_text()
    for section in ("identity", "network", "storage", "limits", "rates", "access", "negentropy"):
        assert f"[{section}]" in text
        for name in getattr(Settings(), section).__dataclass_fields__:
            assert f"\n{name} = " in text, name


def test_what_a_file_leaves_out_keeps_its_default() -> None:
    assert build_settings({}, Settings) == Settings()
    settings = build_settings({"limits": {"proof_of_work_by_kind": [[1, 20]]}}, Settings)
    assert settings == Settings(limits=Limits(proof_of_work_by_kind=((1, 20),)))
    settings = build_settings({"access": {"denied_kinds": [4, 1059]}}, Settings)
    assert settings == Settings(access=Access(denied_kinds=(4, 1059)))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"nonsense": {}}, r"know no \[nonsense\]"),
        ({"limits": 5}, "limits must be a table"),
        ({"limits": {"limt": 5}}, r"know no limits\.limt"),
        ({"limits": {"limit": "5"}}, r"limits\.limit has the wrong form"),
        ({"limits": {"limit": -5}}, r"limits\.limit must be at least 0"),
        ({"limits": {"limit": True}}, r"limits\.limit has the wrong form"),
        ({"access": {"denied_kinds": ["a"]}}, r"access\.denied_kinds.* has the wrong form"),
        ({"storage": {"synchronous": "OFF"}}, r"storage\.synchronous has the wrong form"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(document: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_settings(document, Settings)


@pytest.mark.parametrize("content", [b"[limits", b"\xff"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "relay.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"TOML|UTF-8"):
        read_settings(file)
