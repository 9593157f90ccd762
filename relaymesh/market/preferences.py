"""Preferences: what a buyer may say about providers, in the shape that OpenRouter made known (RM-04, "Preferences").

A preference narrows a request or orders its answer; every one that is accepted is enforced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.market.policy import Policy
from relaymesh.market.request import MAXIMUM_CEILING_MSAT, BuyerRequest, PriceCeiling
from relaymesh.nostr.event import PublicKey, is_hex_32
from relaymesh.nostr.identifiers import decode_public_key
from relaymesh.protocol.fields import MAXIMUM_QUANTITY, DataCollection

Sort = Literal["price", "latency", "throughput"]

SORTS: Final = MappingProxyType(
    {
        "price": Policy("price", 1_000, 0, 0, 0, 0, 0, 0, 0),
        "latency": Policy("latency", 0, 1_000, 0, 0, 0, 0, 0, 0),
        "throughput": Policy("throughput", 0, 0, 1_000, 0, 0, 0, 0, 0),
    }
)
"""What `sort` means: one thing alone, and nobody near-equal but equals."""

PERCENTILES: Final = ("p50", "p90")
_MAXIMUM_NODES: Final = 100
_FIELDS: Final = frozenset(
    (
        "order",
        "only",
        "ignore",
        "sort",
        "max_price",
        "allow_fallbacks",
        "require_parameters",
        "quantizations",
        "data_collection",
        "preferred_max_latency",
        "preferred_min_throughput",
    )
)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """A figure that is preferred for half of the jobs, and for 90 of 100; None where nothing is."""

    p50: int | None = None
    p90: int | None = None


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a buyer says about providers; nothing by default.

    Args:
        order: Nodes to try first, best first.
        only: The only nodes to deal with; None for all.
        ignore: Nodes not to deal with.
        sort: What alone counts, instead of a policy; None leaves it to the policy.
        max_price: The highest prices to look at.
        allow_fallbacks: False tries the nodes of `order` alone or, without one, the best node alone.
        require_parameters: Whether a node must state that it takes every parameter of the job's body.
        quantizations: The quantizations that will do, `unknown` for a node that does not say; empty for all.
        data_collection: `deny` wants nodes that promise to forget prompts and outputs.
        preferred_max_latency_ms: Nodes of whom a slower first output is known come last, by percentile.
        preferred_min_throughput_per_1000s: Nodes of whom a lower speed is known come last: output tokens per 1,000 s.
    """

    order: tuple[PublicKey, ...] = ()
    only: frozenset[PublicKey] | None = None
    ignore: frozenset[PublicKey] = frozenset()
    sort: Sort | None = None
    max_price: PriceCeiling | None = None
    allow_fallbacks: bool = True
    require_parameters: bool = False
    quantizations: tuple[str, ...] = ()
    data_collection: DataCollection = "allow"
    preferred_max_latency_ms: Percentiles = Percentiles()
    preferred_min_throughput_per_1000s: Percentiles = Percentiles()

    def narrow(self, request: BuyerRequest, parameters: Sequence[str] = ()) -> BuyerRequest:
        """The request with these preferences.

        Args:
            parameters: The parameters that the job's body uses beyond what every node takes.
        """
        allowed = [set(each) for each in (request.allow, self.only) if each is not None]
        if self.order and not self.allow_fallbacks:
            allowed.append(set(self.order))
        wanted = (*request.capabilities, *(parameters if self.require_parameters else ()))
        latency, throughput = self.preferred_max_latency_ms, self.preferred_min_throughput_per_1000s
        return replace(
            request,
            capabilities=tuple(dict.fromkeys(wanted)),
            allow=frozenset(set.intersection(*allowed)) if allowed else None,
            ignore=request.ignore | self.ignore,
            order=self.order or request.order,
            maximum_price=self.max_price or request.maximum_price,
            quantizations=self.quantizations or request.quantizations,
            data_collection="deny" if self.data_collection == "deny" else request.data_collection,
            preferred_first_output_ms=_first(latency.p50, request.preferred_first_output_ms),
            preferred_slow_first_output_ms=_first(latency.p90, request.preferred_slow_first_output_ms),
            preferred_units_per_1000s=_first(throughput.p50, request.preferred_units_per_1000s),
            preferred_slow_units_per_1000s=_first(throughput.p90, request.preferred_slow_units_per_1000s),
        )

    def policy(self, otherwise: Policy) -> Policy:
        """What counts: what `sort` says or, without it, another policy."""
        return otherwise if self.sort is None else SORTS[self.sort]

    def count(self, count: int) -> int:
        """How many nodes to ask: one where it may not be anybody else."""
        return count if self.allow_fallbacks or self.order else 1


NO_PREFERENCES: Final = Preferences()


def read_preferences(said: Mapping[str, Any]) -> Preferences:
    """Read preferences from a JSON object.

    `max_price` has `prompt` and `completion` in msat for 10^6 tokens and `request` in msat for a job;
    `preferred_max_latency` is in milliseconds and `preferred_min_throughput` in tokens per 1,000 seconds, each a number
    (of half the jobs) or an object of `p50` and `p90`.

    Raises:
        RemoteProtocolError: A field is unknown or of the wrong form; one sentence says which.
    """
    unknown = sorted(set(said) - _FIELDS)
    if unknown:
        raise RemoteProtocolError(f"expected provider preferences among {', '.join(sorted(_FIELDS))}, got {unknown[0]}")
    only = said.get("only")
    return Preferences(
        order=_nodes("order", said.get("order", ())),
        only=None if only is None else frozenset(_nodes("only", only)),
        ignore=frozenset(_nodes("ignore", said.get("ignore", ()))),
        sort=_one_of("sort", said.get("sort"), (None, *SORTS)),
        max_price=_ceiling(said.get("max_price")),
        allow_fallbacks=_flag("allow_fallbacks", said.get("allow_fallbacks", True)),
        require_parameters=_flag("require_parameters", said.get("require_parameters", False)),
        quantizations=_names("quantizations", said.get("quantizations", ())),
        data_collection=_one_of("data_collection", said.get("data_collection", "allow"), ("allow", "deny")),
        preferred_max_latency_ms=_percentiles("preferred_max_latency", said.get("preferred_max_latency", {})),
        preferred_min_throughput_per_1000s=_percentiles(
            "preferred_min_throughput", said.get("preferred_min_throughput", {})
        ),
    )


def read_node(text: str) -> PublicKey:
    """A node's key, as an npub or as 64 digits of hex; RemoteProtocolError if it is neither."""
    if is_hex_32(text):
        return PublicKey(text)
    try:
        return decode_public_key(text)
    except UsageError as error:
        raise RemoteProtocolError(str(error)) from error


def _names(name: str, said: Any) -> tuple[str, ...]:
    is_list = isinstance(said, Sequence) and not isinstance(said, str) and len(said) <= _MAXIMUM_NODES
    if not is_list or not all(isinstance(each, str) for each in said):
        raise RemoteProtocolError(f"{name} must be a list of at most {_MAXIMUM_NODES} texts")
    return tuple(dict.fromkeys(said))


def _nodes(name: str, said: Any) -> tuple[PublicKey, ...]:
    return tuple(dict.fromkeys(read_node(each) for each in _names(name, said)))


def _flag(name: str, said: Any) -> bool:
    if not isinstance(said, bool):
        raise RemoteProtocolError(f"{name} must be true or false")
    return said


def _one_of(name: str, said: Any, known: Sequence[Any]) -> Any:
    if said not in known:
        raise RemoteProtocolError(f"{name} must be one of {', '.join(str(each) for each in known if each is not None)}")
    return said


def _whole(name: str, said: Any, most: int) -> int:
    if not isinstance(said, int) or isinstance(said, bool) or not 0 <= said <= most:
        raise RemoteProtocolError(f"{name} must be a whole number from 0 to {most}")
    return said


def _ceiling(said: Any) -> PriceCeiling | None:
    if said is None:
        return None
    names = {"prompt": "input_msat", "completion": "output_msat", "request": "job_msat"}
    if not isinstance(said, Mapping) or not set(said) <= set(names):
        raise RemoteProtocolError("max_price must be an object of prompt, completion and request")
    return PriceCeiling(
        **{names[each]: _whole(f"max_price.{each}", value, MAXIMUM_CEILING_MSAT) for each, value in said.items()}
    )


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _percentiles(name: str, said: Any) -> Percentiles:
    figures = said if isinstance(said, Mapping) else {"p50": said}
    unknown = sorted(set(figures) - set(PERCENTILES))
    if unknown:
        raise RemoteProtocolError(f"{name} is known for p50 and p90 only, not for {unknown[0]}")
    return Percentiles(**{each: _whole(f"{name}.{each}", value, MAXIMUM_QUANTITY) for each, value in figures.items()})
