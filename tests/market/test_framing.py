"""An honest node cannot be framed: whatever it ever signed, recombined by whoever wants, proves nothing against it."""

import base64
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.market.fraud import decide
from relaymesh.market.pricing import TranchePlan, cost_within
from relaymesh.nostr.event import Event, UnsignedEvent, VerifiedEvent
from relaymesh.nostr.keys import verify
from relaymesh.protocol.codec import read_offer
from relaymesh.protocol.evidence import Verifier
from relaymesh.protocol.fraud_proof import DisclosedLeaf, Disclosure, FraudClaim, FraudProof, accuse
from relaymesh.protocol.metering import MeteredUnits
from relaymesh.protocol.offer import PriceRow
from relaymesh.protocol.sealed_leaves import pack_leaves
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp
from tests.market import builders, fraud_builders
from tests.market.evidence_builders import CLIENT, NODE, STRANGER, make_tranche
from tests.market.fraud_builders import NOW, SECRET

texts = st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3).map(lambda pieces: pieces[:1] * len(pieces))
CLAIMS: tuple[FraudClaim, ...] = ("price-over-quote", "quote-over-offer", "equivocation")


@dataclass
class Life:
    """Everything that one honest node has signed, and what others may know of it."""

    said: list[Disclosure] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)

    def offers(self) -> list[VerifiedEvent]:
        return [event for each in self.said if isinstance(event := each.event, VerifiedEvent) and event.kind == 38_770]


@st.composite
def price_rows(draw: st.DrawFn) -> PriceRow:
    row = draw(builders.rows)
    return row.model_copy(update={"input_msat": AmountMsat(0)}) if row.unit in ("second", "job") else row


def sell(draw: st.DrawFn, life: Life) -> None:
    """A current offer, a renewal of it, a republication, or one of another label."""
    offers = life.offers()
    seq, rows = NOW + len(offers), tuple(draw(st.lists(price_rows(), min_size=1, max_size=2)))
    label = draw(st.sampled_from(["main", "main/2"]))
    life.said.append(Disclosure(fraud_builders.offer(*rows, label=label, seq=seq, at=seq)))
    if draw(st.booleans()):
        again = fraud_builders.offer(*rows, label=label, seq=seq, at=seq + 600)
        life.said.append(Disclosure(again))


def work(draw: st.DrawFn, life: Life, number: int) -> None:
    """A quote on one of the offers, word for word, and a job under it with its one record."""
    offered = draw(st.sampled_from(life.offers()))
    row = draw(st.sampled_from(read_offer(offered).offer.rows))
    entropy = bytes((number,)) * 64
    limit = draw(st.sampled_from([None, 5_000]))
    quoted = fraud_builders.quote(offered, row, max_msat=limit, entropy=entropy)
    life.said.append(quoted)
    # What a client chooses: the job id, by the session and the nonce that it names.
    job, session = draw(st.sampled_from(["0b" * 32, "0c" * 32])), f"{number:02x}" * 32
    client = draw(st.sampled_from([CLIENT, STRANGER]))
    changes = bill(draw, row)
    life.said.append(
        Disclosure(
            fraud_builders.record(quoted, client=client, at=NOW + 20 + number, job=job, session=session, **changes)
        )
    )


def bill(draw: st.DrawFn, row: PriceRow) -> dict[str, Any]:
    """What the record says of a job whose first tranches were paid: finished, stopped early, or lost in a crash."""
    input_units = 0 if row.unit in ("second", "job") else draw(st.integers(0, 2_000))
    output_units = 1 if row.unit == "job" else draw(st.integers(0, 2_000))
    if cost_within(row, input_units, output_units, AmountMsat(MAXIMUM_INTEGER)) is None:
        input_units = output_units = 0
    plan = TranchePlan(row, input_units, output_units, draw(st.none() | st.integers(1, 500)))
    paid = draw(st.integers(0, plan.count))
    tranches = tuple(make_tranche(plan.price(place), plan.units(place), 0) for place in range(paid))
    charged = sum(tranche.msat for tranche in tranches)
    delivered = draw(st.integers(0, sum(tranche.units_paid for tranche in tranches)))
    is_lost = draw(st.booleans())
    counted = {"token": "tokens", "byte": "bytes"}.get(row.unit)
    units = dict.fromkeys(("input_tokens", "output_tokens", "input_bytes", "output_bytes", "seconds", "jobs"), 0)
    if counted is not None:
        units |= {f"input_{counted}": input_units, f"output_{counted}": 0 if is_lost else delivered}
    elif not is_lost:
        units["jobs" if row.unit == "job" else "seconds"] = delivered
    if is_lost:
        units["input_tokens"] = 0
    return {
        "units": MeteredUnits(**units),
        "first_output_at_ms": None if is_lost or not delivered else 1_790_000_000_500,
        "status": "failed" if is_lost else "ok",
        "charged_msat": AmountMsat(charged),
        "max_msat": AmountMsat(draw(st.integers(charged, MAXIMUM_INTEGER))),
        "tranches": tranches,
    }


def deliver(draw: st.DrawFn, life: Life, number: int) -> None:
    """A job in sealed tranches, of which as many as were paid are on its one record, and whose leaves open."""
    offered = draw(st.sampled_from(life.offers()))
    row = draw(st.sampled_from(read_offer(offered).offer.rows))
    quoted = fraud_builders.quote(offered, row, entropy=bytes((0x80 + number,)) * 64)
    client, job, pieces = draw(st.sampled_from([CLIENT, STRANGER])), f"{0x80 + number:02x}" * 32, draw(texts)
    input_units = 0 if row.unit in ("second", "job") else draw(st.integers(0, 2_000))
    size = len(pieces[0].encode())
    plan = TranchePlan(row, input_units, size * len(pieces) if row.unit != "job" else 1, size)
    places = range(min(plan.count, len(pieces)))
    for place in places:
        plaintexts = pack_leaves((pieces[place],))
        sealed = fraud_builders.leaves(plaintexts, job=job, tranche=place, quote_id=quoted.event.id)
        said: dict[str, Any] = {"quote_id": quoted.event.id, "job": job, "tranche": place, "msat": plan.price(place)}
        event = fraud_builders.commit(sealed, client=client, texts=plaintexts, units=plan.units(place), **said)
        again = fraud_builders.commit(
            sealed, client=client, texts=plaintexts, units=plan.units(place), at=NOW + 9, **said
        )
        life.said += [Disclosure(event), Disclosure(again)]
        life.leaves += sealed
    paid = tuple(make_tranche(plan.price(place), plan.units(place), 0) for place in places[: draw(st.integers(0, 3))])
    units = {"input_bytes": input_units, "input_tokens": input_units}
    changes: dict[str, Any] = {
        "job": job,
        "tranches": paid,
        "charged_msat": AmountMsat(sum(tranche.msat for tranche in paid)),
    }
    record = fraud_builders.record(
        quoted, client=client, units=fraud_builders.units(**units), max_msat=MAXIMUM_INTEGER, **changes
    )
    life.said += [quoted, Disclosure(record)]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    life = Life()
    for _ in range(draw(st.integers(1, 2))):
        sell(draw, life)
    for number in range(1, draw(st.integers(1, 2)) + 1):
        work(draw, life, number)
    deliver(draw, life, draw(st.integers(0, 1)))
    return life


def forge(draw: Callable[[st.SearchStrategy[Any]], Any], event: Event) -> Event:
    """The event as an adversary would like it: changed, and signed with a key of his own or not at all."""
    changed = replace(
        event,
        content=draw(st.sampled_from([event.content, event.content.replace("1", "9"), event.content[:-1], "{}"])),
        created_at=Timestamp(event.created_at + draw(st.integers(0, 1))),
    )
    if draw(st.booleans()):
        return changed
    unsigned = UnsignedEvent(STRANGER.public_key, changed.created_at, changed.kind, changed.tags, changed.content)
    signed = STRANGER.sign(unsigned)
    # as whoever he likes: under the honest node's name, with the signature or the id of another event
    name = draw(st.sampled_from([STRANGER.public_key, NODE.public_key]))
    return replace(Event(*(getattr(signed, each) for each in Event.__dataclass_fields__)), public_key=name)


@settings(max_examples=60)
@given(lives(), st.data())
def test_an_honest_node_is_never_proven_to_cheat(life: Life, data: st.DataObject) -> None:
    known = {event.id: event for each in life.said if isinstance(event := each.event, VerifiedEvent)}

    def check(event: Event) -> VerifiedEvent:
        genuine = known.get(event.id)
        return genuine if genuine is not None and _same(genuine, event) else verify(event)

    draw = data.draw
    forged = [Disclosure(forge(draw, each.event), each.plaintext) for each in life.said[:3]]
    plaintexts = [each.plaintext for each in life.said if each.plaintext is not None]
    swapped = [Disclosure(each.event, draw(st.sampled_from([*plaintexts, "{}"]))) for each in life.said[:5]]
    ciphertexts = [*life.leaves, *(leaf[:-1] for leaf in life.leaves), b"", bytes(40)]
    pool = [*life.said, *forged, *swapped]
    for claim in CLAIMS:
        tries = itertools.chain(((each,) for each in pool), itertools.product(pool, repeat=2))
        for evidence in tries:
            _expect_nothing(accuse(claim, *evidence), check)
    for each, ciphertext, index in itertools.product(pool, ciphertexts, range(3)):
        secret = draw(st.sampled_from([SECRET, bytes(32)])) if index == 2 else SECRET
        leaf = DisclosedLeaf(index=index, ciphertext=base64.b64encode(ciphertext).decode(), preimage=secret.hex())
        _expect_nothing(accuse("bad-ciphertext", each, leaf=leaf), check)


def _expect_nothing(proof: FraudProof, check: Verifier) -> None:
    verdict = decide(proof.model_copy(update={"accused": NODE.public_key}), check)
    assert not verdict.is_proven, verdict


def _same(genuine: Event, event: Event) -> bool:
    return all(getattr(genuine, name) == getattr(event, name) for name in Event.__dataclass_fields__)
