"""The parameters of a JSON-RPC command, checked and refused in Core Lightning's words."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from relaymesh.lightning_sim.answers import BAD_PARAMETERS, RpcFailure
from relaymesh.units import MAXIMUM_INTEGER

ANY_AMOUNT: Final = "any"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Args:
        name: As in Core Lightning's manual.
        read: Turns the JSON value into ours, or raises ValueError with what it should have been.
        is_required: Whether the command is refused without it.
    """

    name: str
    read: Callable[[Any], Any]
    is_required: bool = False


def read_parameters(declared: tuple[Parameter, ...], given: object) -> dict[str, Any]:
    """Check what was given, by name or in order; absent and null ones are left out.

    Raises:
        RpcFailure: −32602.
    """
    if isinstance(given, list):
        if len(given) > len(declared):
            raise RpcFailure(BAD_PARAMETERS, f"too many parameters: got {len(given)}, expected {len(declared)}")
        given = {parameter.name: value for parameter, value in zip(declared, given, strict=False)}
    if not isinstance(given, Mapping):
        raise RpcFailure(BAD_PARAMETERS, "Invalid params: should be an object or an array")
    unknown = given.keys() - {parameter.name for parameter in declared}
    if unknown:
        raise RpcFailure(
            BAD_PARAMETERS,
            f"unknown parameter: {min(unknown)}, this may be caused by a failure to autodetect key=value-style "
            "parameters. Please try using the -k flag and explicit key=value pairs of parameters.",
        )
    values: dict[str, Any] = {}
    for parameter in declared:
        value = given.get(parameter.name)
        if value is not None:
            values[parameter.name] = _read_one(parameter, value)
        elif parameter.is_required:
            raise RpcFailure(BAD_PARAMETERS, f"missing required parameter: {parameter.name}")
    return values


def _read_one(parameter: Parameter, value: object) -> Any:
    try:
        return parameter.read(value)
    except ValueError as error:
        token = json.dumps(value)
        raise RpcFailure(BAD_PARAMETERS, f"{parameter.name}: {error}: invalid token '{token}'") from error


def as_text(value: object) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError("should be a string")
    value.encode()
    return value


def as_label(value: object) -> str:
    """A label: a string or a number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("should be a string or number")
    return as_text(str(value))


def as_number(value: object) -> int:
    """A whole number, at least 0; also as a string."""
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**64:
        raise ValueError("should be an integer")
    return number


def as_small_number(value: object) -> int:
    """A whole number that fits 32 bits, at least 0."""
    number = as_number(value)
    if number >= 2**32:
        raise ValueError("should be an integer")
    return number


def as_flag(value: object) -> bool:
    """True or false; also as a string."""
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError("should be 'true' or 'false'")
    return value


def as_msat(value: object) -> int:
    """An amount: a number, or a number with `msat` or `sat` behind it."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    factor = 1
    if text.endswith("sat") and not text.endswith("msat"):
        text, factor = text.removesuffix("sat"), 1000
    text = text.removesuffix("msat")
    if not text.isascii() or not text.isdecimal() or int(text) * factor > MAXIMUM_INTEGER:
        raise ValueError("should be a millisatoshi amount")
    return int(text) * factor


def as_positive_msat(value: object) -> int | str:
    """A positive amount, or `any`."""
    if value == ANY_AMOUNT:
        return ANY_AMOUNT
    try:
        amount_msat = as_msat(value)
    except ValueError:
        amount_msat = 0
    if amount_msat < 1:
        raise ValueError("should be positive msat or 'any'")
    return amount_msat


def as_hex32(value: object) -> str:
    """32 bytes in hex."""
    text = value if isinstance(value, str) else ""
    if len(text) != 64 or any(character not in "0123456789abcdefABCDEF" for character in text):
        raise ValueError("should be 64 hex digits")
    return text.lower()


def as_anything(value: object) -> object:
    """Whatever the simulated network takes no notice of."""
    return value
