"""Replay: a choice with all it rests on, as JSON, so that anybody can make it again and see the same (RM-04, "Replay").

Events are stored whole and their signatures checked again; what is no event (the request, what is known about nodes,
the policy, the seed, the time) is stored as it was. The reference chooses once more, and its explanation has to be the
stored one to the last integer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from relaymesh.errors import LocalProtocolError, RemoteProtocolError
from relaymesh.market.candidate import Candidate
from relaymesh.market.explanation import explain
from relaymesh.market.facts import Facts
from relaymesh.market.policy import Policy
from relaymesh.market.request import BuyerRequest, PriceCeiling
from relaymesh.market.selection import Selection, select
from relaymesh.market.standing import UNKNOWN, Standing
from relaymesh.nostr.event import Event, EventId, PublicKey, VerifiedEvent, parse_event
from relaymesh.nostr.kinds import Kind
from relaymesh.protocol.codec import SignedOffer, SignedStatus, read_offer, read_status
from relaymesh.protocol.quote import JobShape
from relaymesh.units import Timestamp

VERSION: Final = 2
Verify = Callable[[Event], VerifiedEvent]


def record(selection: Selection) -> dict[str, Any]:
    """A choice with all it rests on; prices whose offers are gone since are missing, and a replay will say so."""
    events: dict[EventId, VerifiedEvent] = {}
    standings: dict[PublicKey, Standing] = {}
    for one in selection.examined:
        candidate = selection.recall(one.facts)
        if one.facts.standing != UNKNOWN:
            standings[one.facts.node] = one.facts.standing
        for event in _events_of(candidate, one.facts):
            events[event.id] = event
    return {
        "version": VERSION,
        "now": selection.now,
        "seed": selection.seed.hex(),
        "count": selection.count,
        "policy": asdict(selection.policy),
        "request": _write_request(selection.request),
        "standings": {node: asdict(standing) for node, standing in sorted(standings.items())},
        "events": [event.to_json() for _, event in sorted(events.items())],
        "explanation": explain(selection).to_json(),
    }


@dataclass(frozen=True, slots=True)
class Recorded:
    """A choice as it was stored: `choose_again` makes it again from the same, `told` is what was said of it."""

    now: Timestamp
    seed: bytes
    count: int
    policy: Policy
    request: BuyerRequest
    standings: Mapping[PublicKey, Standing]
    candidates: tuple[Candidate, ...]
    told: Any

    def choose_again(self) -> Selection:
        """The choice that the reference makes from what is stored; RemoteProtocolError if nothing can be made of it."""
        try:
            return select(
                self.candidates,
                self.request,
                seed=self.seed,
                count=self.count,
                now=self.now,
                policy=self.policy,
                standings=self.standings,
            )
        except (TypeError, ValueError, AttributeError, LocalProtocolError) as error:
            raise RemoteProtocolError(
                f"the record's request or policy has a field of the wrong type: {error}"
            ) from error


def read_record(said: Any, verify: Verify) -> Recorded:
    """Read what `record` made, checking every signature.

    Raises:
        RemoteProtocolError: It is of another form, or an event in it is not what its author signed.
    """
    try:
        if said["version"] != VERSION:
            raise RemoteProtocolError(f"the record is of version {said['version']}, this program reads {VERSION}")
        return Recorded(
            now=Timestamp(_whole(said["now"])),
            seed=bytes.fromhex(said["seed"]),
            count=_whole(said["count"]),
            policy=Policy(**said["policy"]),
            request=_read_request(said["request"]),
            standings={PublicKey(node): _read_standing(each) for node, each in said["standings"].items()},
            candidates=tuple(_candidates(said["events"], said["request"], verify)),
            told=said["explanation"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, LocalProtocolError) as error:
        raise RemoteProtocolError(f"this is no record of a choice: {type(error).__name__} ({error})") from error


def first_difference(recorded: Recorded) -> str | None:
    """Choose again and compare: the first difference in one sentence; None where there is none."""
    again = explain(recorded.choose_again()).to_json()
    return _difference("the explanation", recorded.told, _as_json(again))


def _difference(where: str, stored: Any, computed: Any) -> str | None:
    if isinstance(stored, dict) and isinstance(computed, dict):
        for name in (*computed, *(each for each in stored if each not in computed)):
            if name not in stored or name not in computed:
                return f"{where} {'lacks' if name not in stored else 'has, and should not,'} {name}"
            found = _difference(f"{where}, {name}", stored[name], computed[name])
            if found is not None:
                return found
        return None
    if isinstance(stored, list) and isinstance(computed, list):
        for place, (one, other) in enumerate(zip(stored, computed, strict=False), start=1):
            found = _difference(f"{where} {place}", one, other)
            if found is not None:
                return found
        return None if len(stored) == len(computed) else f"{where}: {len(stored)} stored, {len(computed)} computed"
    same = type(stored) is type(computed) and stored == computed
    return None if same else f"{where}: stored {stored!r}, computed {computed!r}"


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else value


def _events_of(candidate: Candidate | None, facts: Facts) -> Iterator[VerifiedEvent]:
    if candidate is None:
        return
    yield candidate.offer.event
    status = candidate.status
    if status is not None and status.event.id == facts.load.status_id:
        yield status.event


def _candidates(events: Any, request: Any, verify: Verify) -> Iterator[Candidate]:
    offers: list[SignedOffer] = []
    statuses: dict[PublicKey, SignedStatus] = {}
    for each in events:
        event = verify(parse_event(each))
        if event.kind == Kind.OFFER:
            offers.append(read_offer(event))
        else:
            status = read_status(event)
            if status.node in statuses:
                raise RemoteProtocolError("the record has two statuses of one node")
            statuses[status.node] = status
    fitting = [(offer, row) for offer in offers for row in offer.offer.rows if request["job_type"] in row.job_types]
    # Where nobody offers the model, all others were looked at, so that it can be told.
    of_model = [(offer, row) for offer, row in fitting if request["model"] in (None, row.model)]
    for offer, row in of_model or fitting:
        yield Candidate(offer, row, statuses.get(offer.node))


# ── the request ───────────────────────────────────────────────────────────────────────────────────────────────────


def _write_request(request: BuyerRequest) -> dict[str, Any]:
    written = {field.name: getattr(request, field.name) for field in fields(request)}
    return {
        **written,
        "shape": request.shape.model_dump(),
        "estimate": None if request.estimate is None else request.estimate.model_dump(),
        "allow": None if request.allow is None else sorted(request.allow),
        "ignore": sorted(request.ignore),
        "maximum_price": None if request.maximum_price is None else asdict(request.maximum_price),
    }


def _read_request(said: dict[str, Any]) -> BuyerRequest:
    estimate, allow, price = said["estimate"], said["allow"], said["maximum_price"]
    listed = {name: tuple(said[name]) for name in ("capabilities", "orders", "scopes", "quantizations", "order")}
    return BuyerRequest(
        **{
            **said,
            **listed,
            "shape": JobShape.model_validate(said["shape"]),
            "estimate": None if estimate is None else JobShape.model_validate(estimate),
            "allow": None if allow is None else frozenset(allow),
            "ignore": frozenset(said["ignore"]),
            "maximum_price": None if price is None else PriceCeiling(**price),
        }
    )


def _read_standing(said: dict[str, Any]) -> Standing:
    return Standing(**{**said, "reasons": tuple(said["reasons"])})


def _whole(said: Any) -> int:
    if not isinstance(said, int) or isinstance(said, bool):
        raise RemoteProtocolError(f"expected a whole number in the record, got {said!r}")
    return said
