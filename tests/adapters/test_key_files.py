"""Key files: private, never overwritten, complete or absent, and never shown."""

import os
import stat
import threading
from pathlib import Path

import pytest

from relaymesh.adapters.key_files import (
    create_key,
    load_key,
    load_ledger_key,
    load_or_create_key,
    load_or_create_ledger_key,
)
from relaymesh.errors import UsageError
from relaymesh.nostr.identifiers import encode_public_key, encode_secret_key
from relaymesh.nostr.keys import KeyPair

SECRET = b"\x17" * 32
NSEC = encode_secret_key(SECRET)
PASSPHRASE = "correct horse"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "node.nsec"


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal_of(path: Path, passphrase: str | None = None) -> str:
    """What is said when the file is refused, which is one sentence with its name and without its content."""
    with pytest.raises(UsageError) as refused:
        load_key(path, passphrase=passphrase)
    said = str(refused.value)
    assert str(path) in said
    assert NSEC not in said and SECRET.hex() not in said and PASSPHRASE not in said
    return said


def test_a_key_is_made_once_and_then_loaded(path: Path) -> None:
    key = load_or_create_key(path)
    assert load_or_create_key(path).public_key == key.public_key == load_key(path).public_key
    assert path.read_text() == encode_secret_key(key.reveal_secret()) + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_two_keys_are_different(tmp_path: Path) -> None:
    assert load_or_create_key(tmp_path / "a").public_key != load_or_create_key(tmp_path / "b").public_key
    assert load_or_create_ledger_key(tmp_path / "c") != load_or_create_ledger_key(tmp_path / "d")


def test_a_key_under_a_passphrase_is_encrypted_on_the_disk(path: Path) -> None:
    key = load_or_create_key(path, passphrase=PASSPHRASE)
    assert path.read_text().startswith("ncryptsec1")
    assert "the password is wrong" in refusal_of(path, "another")
    assert "give its passphrase" in refusal_of(path)
    assert encode_secret_key(key.reveal_secret()) not in path.read_text()


def test_a_passphrase_for_a_key_that_has_none_is_refused(path: Path) -> None:
    write(path, NSEC)
    assert "not encrypted" in refusal_of(path, PASSPHRASE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_a_file_that_others_can_use_is_refused_with_what_to_do(path: Path, mode: int) -> None:
    write(path, NSEC, mode)
    assert refusal_of(path) == f"others can read or change the key file {path} (mode {mode:04o}): run chmod 600 {path}"
    path.chmod(0o600)
    assert load_key(path).reveal_secret() == SECRET


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_only_its_owner_can_use_is_taken(path: Path, mode: int) -> None:
    write(path, f"  {NSEC}\r\n", mode)
    assert load_key(path).reveal_secret() == SECRET


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (encode_public_key(KeyPair(SECRET).public_key), "expected a secret key (nsec1…), got a public key"),
        (SECRET.hex(), "expected a secret key"),
        (NSEC[:-1], "expected a secret key"),
        (f"{NSEC}\n{NSEC}", "expected a secret key"),
        (NSEC + " " * 5_000, "something other than a key"),
        ("ключ", "something other than a key"),
        (b"\xff\xfe", "something other than a key"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal_of(write(path, content))


def test_a_missing_file_is_named(path: Path) -> None:
    assert refusal_of(path) == f"there is no key file {path}"
    assert not path.parent.exists()


def test_what_is_no_plain_file_is_refused_without_waiting(path: Path) -> None:
    path.parent.mkdir()
    assert "must be a plain file" in refusal_of(path.parent)
    os.mkfifo(path, 0o600)
    assert "must be a plain file" in refusal_of(path)


def test_a_link_to_a_private_file_is_followed(path: Path) -> None:
    write(path, NSEC)
    link = path.with_name("link")
    link.symlink_to(path)
    assert load_key(link).reveal_secret() == SECRET


def test_a_key_is_never_overwritten(path: Path) -> None:
    write(path, "something precious", 0o644)
    for attempt in (lambda: create_key(path, KeyPair(SECRET)), lambda: load_or_create_key(path)):
        with pytest.raises(UsageError):
            attempt()
    assert path.read_text() == "something precious"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    with pytest.raises(UsageError, match="never overwritten"):
        create_key(path, KeyPair(SECRET))


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"the key file .* cannot be written: "):
        load_or_create_key(tmp_path / "file" / "key")


@pytest.mark.parametrize("folder", ["", "/"])
def test_a_key_file_without_a_name_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="expected a key file's name"):
        create_key(Path(folder), KeyPair(SECRET))


def test_a_disk_that_fails_leaves_no_half_a_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        load_or_create_key(path)
    assert list(path.parent.iterdir()) == []


def test_many_who_start_at_once_end_up_with_the_same_key(path: Path) -> None:
    loaded: list[bytes] = []
    threads = [threading.Thread(target=lambda: loaded.append(load_or_create_ledger_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 8
    assert set(loaded) == {load_ledger_key(path)}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_ledger_key_is_kept_as_hex(path: Path) -> None:
    key = load_or_create_ledger_key(path)
    assert path.read_text() == key.hex() + "\n"
    assert load_ledger_key(path) == key
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [NSEC, "ab" * 31, "AB" * 32, "xy" * 32])
def test_what_is_no_ledger_key_is_refused_without_being_shown(path: Path, content: str) -> None:
    write(path, content)
    with pytest.raises(UsageError) as refused:
        load_ledger_key(path)
    assert str(refused.value) == f"the ledger key file {path} must hold 32 bytes as 64 hex characters"
