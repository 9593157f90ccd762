"""API keys of the gateway's own, each with a budget, so that a team can share one wallet.

They stand in a TOML file, one `[[key]]` each; a key itself is nowhere, its SHA-256 is.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from relaymesh.adapters.budget_file import Budget, BudgetFile, Exhausted, Reserved
from relaymesh.configuration import format_document, parse_document
from relaymesh.errors import UsageError
from relaymesh.gateway.failures import FORBIDDEN, PAYMENT_REQUIRED, UNAUTHORIZED, Failure, RequestFailed
from relaymesh.gateway.requests import Asked
from relaymesh.roles.driver import Clock
from relaymesh.units import AmountMsat

KEY_BYTES: Final = 24
_SCHEME: Final = "bearer "
_NO_KEY: Final = Failure(UNAUTHORIZED, "invalid_api_key", "this gateway wants an API key that it knows")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, and what may be spent with it, routing included; 0 is no limit.

    Args:
        name: Who has it; what was spent is kept under this name.
        sha256: Of the key, in hex.
        total_msat: The most that may ever be spent.
        day_msat: The most in any 24 hours.
        models: The only models, each with the most in any 24 hours; empty for all models.
    """

    name: str
    sha256: str
    total_msat: int = 0
    day_msat: int = 0
    models: dict[str, int] = field(default_factory=dict)

    def budget(self, model: str) -> Budget:
        """What may be spent on this model."""
        return Budget(self.total_msat, self.day_msat, self.models.get(model, 0))

    def narrow(self, asked: Asked) -> Asked:
        """The request with those of its models that this key may use; RequestFailed where there are none."""
        if not self.models:
            return asked
        allowed = tuple(self.models) if None in asked.models else tuple(self.models.keys() & set(asked.models))
        ordered = allowed if None in asked.models else tuple(each for each in asked.models if each in allowed)
        if not ordered:
            named = ", ".join(self.models)
            raise RequestFailed(Failure(FORBIDDEN, "model_not_allowed", f"this key is for {named} only", "model"))
        return replace(asked, models=ordered)


def read_keys(text: str, source: str) -> tuple[ApiKey, ...]:
    """The keys in a TOML document; `source` names it in the error.

    Raises:
        UsageError: It is not TOML, or something in it is unknown, of the wrong form, negative or there twice.
    """
    document = parse_document(text, source)
    entries = document.pop("key", [])
    known = set(ApiKey.__slots__)
    if document or not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise UsageError(f"expected nothing but [[key]] tables in {source}")
    unknown = sorted({name for each in entries for name in each} - known)
    if unknown:
        raise UsageError(f"a key in {source} has {', '.join(sorted(known))}, and no {unknown[0]}")
    try:
        keys = TypeAdapter(tuple[ApiKey, ...]).validate_json(orjson.dumps(entries), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the key {where} in {source} has the wrong form: {first['msg']}") from None
    for name, said in (("name", [key.name for key in keys]), ("sha256", [key.sha256 for key in keys])):
        if len(set(said)) < len(said) or not all(said):
            raise UsageError(f"expected every key in {source} to have a {name} of its own")
    if any(limit < 0 for key in keys for limit in (key.total_msat, key.day_msat, *key.models.values())):
        raise UsageError(f"a budget in {source} is below 0")
    return keys


def new_key(name: str, budget: Budget, models: Mapping[str, int]) -> tuple[str, str]:
    """A fresh key, and the TOML table that stands for it."""
    secret = f"rm-{secrets.token_urlsafe(KEY_BYTES)}"
    entry: dict[str, Any] = {"name": name, "sha256": hash_key(secret)}
    entry |= {"total_msat": budget.total_msat, "day_msat": budget.day_msat}
    table = format_document({"key": entry}).replace("[key]", "[[key]]", 1)
    limits = format_document({"key.models": {}}) if models else ""
    listed = "".join(f"{_quote(model)} = {limit}\n" for model, limit in models.items())
    return secret, f"{table}{limits}{listed}"


def _quote(name: str) -> str:
    return format_document({"": {"name": name}}).splitlines()[1].removeprefix("name = ")


def hash_key(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRing:
    """The keys that are known, and the file in which their spending is counted."""

    def __init__(self, keys: Sequence[ApiKey], file: BudgetFile, clock: Clock) -> None:
        self._keys = {key.sha256: key for key in keys}
        self._file, self._clock = file, clock

    def find(self, authorization: str) -> ApiKey:
        """The key in an `Authorization` header; RequestFailed where there is none that is known."""
        secret = authorization[len(_SCHEME) :] if authorization.lower().startswith(_SCHEME) else ""
        key = self._keys.get(hash_key(secret.strip()))
        if key is None:
            raise RequestFailed(_NO_KEY)
        return key

    def purse(self, key: ApiKey) -> "KeyPurse":
        """What one request with this key may spend."""
        return KeyPurse(key, self._file, self._clock)


class KeyPurse:
    """Implements `relaymesh.gateway.purchase.Purse` for one request with an API key."""

    def __init__(self, key: ApiKey, file: BudgetFile, clock: Clock) -> None:
        self._key, self._file, self._clock = key, file, clock
        self._reserved: Reserved | None = None

    async def reserve(self, model: str | None, most_msat: AmountMsat) -> AmountMsat | Failure | None:
        """Set aside what the key's budget leaves; a failure where that is nothing."""
        name, now_ms = model or "", self._clock().unix_ms
        reserved = await self._file.reserve(self._key.name, name, most_msat, self._key.budget(name), now_ms)
        if isinstance(reserved, Exhausted):
            said = f"{reserved.limit} of this key is {reserved.limit_msat} msat, and {reserved.spent_msat} are spent"
            return Failure(PAYMENT_REQUIRED, "key_budget_spent", f"{said} or set aside")
        self._reserved = reserved
        return reserved.msat

    async def settle(self, spent_msat: AmountMsat | None) -> None:
        """Count what it did cost."""
        if self._reserved is not None and spent_msat is not None:
            await self._file.settle(self._reserved.number, spent_msat)
        self._reserved = None
