"""Key files: an identity's secret key, the ledger's key, a wallet's connection, each alone in its owner's file.

An identity is kept as `nsec1…` (NIP-19) or, under a passphrase, as `ncryptsec1…` (NIP-49). The ledger's key is 64 hex
characters. A file comes into being whole or not at all, and none is ever overwritten. These functions block, those
with a passphrase for a tenth of a second: call them before the event loop starts, or in a thread.
"""

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from relaymesh.adapters.ledger_encryption import KEY_BYTES
from relaymesh.errors import UsageError
from relaymesh.nostr.event import is_hex_32
from relaymesh.nostr.identifiers import decode_secret_key, encode_secret_key
from relaymesh.nostr.key_encryption import ENTROPY_BYTES, KeySecurity, decrypt_secret_key, encrypt_secret_key
from relaymesh.nostr.keys import KeyPair

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
MAXIMUM_BYTES: Final = 4096
"""No key is longer; a file that is was named by mistake."""

_ENCRYPTED_PREFIX: Final = "ncryptsec1"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

ResultT = TypeVar("ResultT")


def load_or_create_key(path: Path, *, passphrase: str | None = None) -> KeyPair:
    """The identity in this file; a new one, written there, where there is no file.

    Raises:
        UsageError: As for `load_key`, or the file cannot be written.
    """
    return _load_or_create(path, lambda: load_key(path, passphrase=passphrase), lambda: _new_key(path, passphrase))


def load_key(path: Path, *, passphrase: str | None = None) -> KeyPair:
    """The identity in this file.

    Args:
        path: The file: one line, `nsec1…` or `ncryptsec1…`.
        passphrase: What an `ncryptsec1…` opens with; None for an `nsec1…`.

    Raises:
        UsageError: There is no such file, others can read it, it holds no key, or the passphrase is wrong, missing or
            for a key that has none.
    """
    text = read_secret(path)
    is_encrypted = text.startswith(_ENCRYPTED_PREFIX)
    if is_encrypted and passphrase is None:
        raise UsageError(f"the key in {path} is encrypted (ncryptsec1…): give its passphrase")
    if not is_encrypted and passphrase is not None:
        raise UsageError(f"the key in {path} is not encrypted: leave the passphrase out, or encrypt the key first")
    try:
        secret = decode_secret_key(text) if passphrase is None else decrypt_secret_key(text, passphrase)
    except UsageError as error:
        raise UsageError(f"the key file {path} cannot be used: {error}") from error
    return KeyPair(secret)


def create_key(path: Path, key: KeyPair, *, passphrase: str | None = None) -> None:
    """Write an identity into a new file, encrypted if there is a passphrase.

    Raises:
        UsageError: There is such a file already (it stays as it is), or it cannot be written.
    """
    if passphrase is None:
        text = encode_secret_key(key.reveal_secret())
    else:
        entropy = secrets.token_bytes(ENTROPY_BYTES)
        security = KeySecurity.NOT_HANDLED_INSECURELY
        text = encrypt_secret_key(key.reveal_secret(), passphrase, entropy, security=security)
    write_secret(path, text)


def load_or_create_ledger_key(path: Path) -> bytes:
    """The 32-byte ledger key in this file; a new one, written there, where there is no file.

    Raises:
        UsageError: As for `load_ledger_key`, or the file cannot be written.
    """
    return _load_or_create(path, lambda: load_ledger_key(path), lambda: _new_ledger_key(path))


def load_ledger_key(path: Path) -> bytes:
    """The 32-byte key that a ledger's sensitive fields are encrypted under (`relaymesh.adapters.sql_ledger`).

    Raises:
        UsageError: There is no such file, others can read it, or it holds something else.
    """
    text = read_secret(path)
    if not is_hex_32(text):
        raise UsageError(f"the ledger key file {path} must hold {KEY_BYTES} bytes as {2 * KEY_BYTES} hex characters")
    return bytes.fromhex(text)


def _load_or_create(path: Path, load: Callable[[], ResultT], create: Callable[[], None]) -> ResultT:
    if not path.exists():
        # Another process may be quicker, and a file may vanish: what is there afterwards is what counts.
        try:
            create()
        except UsageError:
            if not path.exists():
                raise
    return load()


def _new_key(path: Path, passphrase: str | None) -> None:
    create_key(path, KeyPair.generate(), passphrase=passphrase)


def _new_ledger_key(path: Path) -> None:
    write_secret(path, secrets.token_bytes(KEY_BYTES).hex())


def read_secret(path: Path) -> str:
    """The one line of a file that only its owner can read.

    Raises:
        UsageError: There is no such file, others can read it, or it is empty, too long or no text.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # does not hang on a pipe
        try:
            _check_is_private(path, os.fstat(descriptor).st_mode)
            data = os.read(descriptor, MAXIMUM_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise UsageError(f"there is no key file {path}") from None
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}") from error
    if not data.strip():
        raise UsageError(f"the key file {path} is empty: restore it, or remove it to begin with a new key")
    if len(data) > MAXIMUM_BYTES or not data.isascii():
        raise UsageError(f"the key file {path} holds something other than a key")
    return data.decode("ascii").strip()


def _check_is_private(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UsageError(f"the key file {path} must be a plain file")
    if mode & _OTHERS:
        shown = f"{stat.S_IMODE(mode):04o}"
        raise UsageError(f"others can read or change the key file {path} (mode {shown}): run chmod 600 {path}")


def keep_secret(path: Path, text: str) -> None:
    """Write a new file for its owner alone; where it holds just this already, nothing is done.

    Raises:
        UsageError: There is another file of that name (it stays as it is), or it cannot be written.
    """
    if not path.exists() or read_secret(path) != text:
        write_secret(path, text)


def write_secret(path: Path, text: str) -> None:
    """Write a new file for its owner alone, complete and durable before it appears under its name.

    Raises:
        UsageError: There is such a file already (it stays as it is), or it cannot be written.
    """
    if not path.name:
        raise UsageError(f"expected a key file's name, got {path}")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(descriptor)
            _give_name(draft, path)
        finally:
            with suppress(OSError):
                draft.unlink()
        _make_durable(path.parent)
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be written: {error.strerror}") from error


def _give_name(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)  # unlike a rename, this never replaces what is there
    except FileExistsError:
        raise UsageError(f"there is a file {path} already, and keys are never overwritten") from None


def _make_durable(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
