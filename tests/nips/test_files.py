"""What the code writes below nips/ is up to date, and holds together: schemas, examples, vectors."""

import copy
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from relaymesh.errors import RemoteProtocolError
from relaymesh.market.verification import verify_evidence
from relaymesh.nostr.event import VerifiedEvent, is_hex_32, parse_event
from relaymesh.nostr.keys import KeyPair, verify
from relaymesh.nostr.proof_of_work import has_proof_of_work
from relaymesh.protocol.assertion import read_assertion
from relaymesh.protocol.codec import open_message, read_offer, read_plaintext, read_status
from relaymesh.protocol.content import check_content
from relaymesh.protocol.evidence import read_metering, read_receipt
from relaymesh.protocol.evidence_files import parse_evidence_text
from relaymesh.protocol.fraud_proof import FraudProof
from relaymesh.protocol.manifest import read_manifest
from relaymesh.protocol.open_request import read_open_request
from relaymesh.protocol.quote import Quote
from relaymesh.protocol.refusal import Refusal
from relaymesh.protocol.sealed_commitment import SealedCommitment
from relaymesh.protocol.sealed_leaves import read_leaf
from relaymesh.protocol.session_codec import decode_message
from relaymesh.protocol.session_messages import SealedMessage
from tests.house import tree
from tests.market.fraud_builders import SECRET
from tests.nips import contents, example_job, files
from tests.nips.contents import CONTENTS, Content
from tests.protocol.sealed_builders import sealed

ADVICE = "out of date: run `make docs`, and look at what changed, since others rely on it"


def load(path: str) -> Any:
    return json.loads((tree.ROOT / "nips" / path).read_text(encoding="utf-8"))


def example_event(name: str) -> VerifiedEvent:
    return verify(parse_event(load(f"examples/{name}.json")["event"]))


def example_text(content: Content) -> str:
    example = load(f"examples/{content.name}.json")
    return str(example["plaintext"] if content.is_sealed else example["event"]["content"])


@pytest.mark.parametrize("path", sorted(files.contents()))
def test_every_generated_file_is_up_to_date(path: str) -> None:
    assert (tree.ROOT / path).read_text(encoding="utf-8") == files.contents()[path], f"{path} is {ADVICE}"


def test_nothing_else_lies_among_the_generated_files() -> None:
    folders = ("nips/schemas/", "nips/examples/", "nips/vectors/")
    assert {path for path in tree.files() if path.startswith(folders)} == set(files.contents())


# ── schemas ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content.name)
def test_every_field_says_what_it_means(content: Content) -> None:
    schema = load(f"schemas/{content.name}.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    ours = [schema, *(part for name, part in schema.get("$defs", {}).items() if name != "Event")]
    silent = [name for part in ours for name, field in part["properties"].items() if not field.get("description")]
    assert not silent, "say it under Args: in the model's docstring, or in tests/nips/contents.py"


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value, also those below objects and lists."""
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for key, child in children:
        yield (*path, key)
        yield from _places(child, (*path, key))


SUBSTITUTES: tuple[Any, ...] = (
    None,
    -1,
    0,
    41,
    2**53 - 1,
    "",
    "x",
    "x" * 300,
    "a" * 64,
    "A" * 64,
    "wss://relay.example",
    "prepay",
    False,
    [],
    ["x"] * 20,
    ["wss://relay.example"],
    {},
    {"x": 1},
)
REMOVED = object()


def _variants(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The example with one thing in it changed or removed, everywhere and in many ways."""
    for path in _places(value):
        for substitute in (REMOVED, *SUBSTITUTES):
            changed = copy.deepcopy(value)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if substitute is REMOVED:
                del parent[path[-1]]
            else:
                parent[path[-1]] = substitute
            yield path, changed


def _is_read(content: Content, value: Any) -> bool:
    """Whether our own reader takes it: the model, and what stands around and inside it."""
    if content.is_sealed and not (type(value.get("v")) is int and is_hex_32(value.get("salt"))):
        return False
    try:
        content.model.from_text(json.dumps(value))
        for model_name, field in contents.EMBEDDED_EVENTS:
            if model_name == content.model.__name__ and (field != "guarantee" or value.get(field) is not None):
                parse_event(value[field])
        for disclosed in value.get("evidence", ()) if content.model is FraudProof else ():
            parse_event(disclosed["event"])
    except RemoteProtocolError:
        return False
    return True


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content.name)
def test_a_schema_takes_exactly_what_our_reader_takes(content: Content) -> None:
    validator = jsonschema.Draft202012Validator(load(f"schemas/{content.name}.json"))
    value = json.loads(example_text(content))
    assert validator.is_valid(value) and _is_read(content, value)
    assert validator.is_valid({**value, "unknown": {"field": [1]}})
    wrong = [
        f"{path}: the schema says {validator.is_valid(changed)}"
        for path, changed in _variants(value)
        if validator.is_valid(changed) != _is_read(content, changed)
    ]
    assert not wrong, "\n".join(wrong[:20])


# ── examples ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [each for each in CONTENTS if each.is_sealed], ids=lambda content: content.name)
def test_a_sealed_example_opens_for_its_recipient_and_is_what_its_plaintext_says(content: Content) -> None:
    event, keys = example_event(content.name), load("examples/keys.json")
    recipient = next(
        KeyPair(bytes.fromhex(keys[name]["secret_key"]))
        for name in ("node", "client_session")
        if keys[name]["public_key"] == event.tag_value("p")
    )
    message = open_message(event, recipient)
    assert not isinstance(message, Refusal)
    assert recipient.open(event.content, event.public_key) == example_text(content)
    assert read_plaintext(event, example_text(content)) == message
    assert event.tag_value("x") == hashlib.sha256(example_text(content).encode()).hexdigest()


def test_the_public_examples_are_read_by_our_own_code() -> None:
    assert read_offer(example_event("offer")).label == "main"
    assert read_status(example_event("status")).status.state == "up"
    metering = read_metering(example_event("metering"))
    assert read_receipt(example_event("receipt"), verify).metering == metering
    assert read_manifest(example_event("manifest")).label == "main"
    assertion = read_assertion(example_event("assertion"))
    assert assertion.subject == metering.event.public_key
    assert assertion.assertion.receipts == (example_event("receipt").id,)


def test_the_examples_are_one_job_each_event_naming_the_one_before() -> None:
    ids = {content.name: example_event(content.name).id for content in CONTENTS}
    said = {content.name: json.loads(example_text(content)) for content in CONTENTS}
    assert said["quote-request"]["offer_id"] == said["quote"]["offer_id"] == ids["offer"]
    assert example_event("quote").tag_value("e") == said["quote"]["request_id"] == ids["quote-request"]
    assert example_event("refusal").tag_value("e") == ids["quote-request"]
    assert example_event("session-request").tag_value("e") == said["session-request"]["quote"]["id"] == ids["quote"]
    assert example_event("session-accept").tag_value("e") == said["session-accept"]["request_id"]
    assert said["session-accept"]["request_id"] == ids["session-request"]
    assert said["forwarded-request"]["request"]["id"] == ids["open-request"]
    assert said["posted-request"]["offer_id"] == ids["offer"]
    assert example_event("posted-accept").tag_value("e") == said["posted-accept"]["request_id"] == ids["posted-request"]
    assert said["metering"]["quote_id"] == ids["quote"]
    assert said["metering"]["session"] == said["session-accept"]["session_id"]
    assert example_event("receipt").tag_value("e") == said["receipt"]["metering"]["id"] == ids["metering"]


def test_the_example_of_an_open_request_carries_its_work_and_of_a_posted_price_its_quote() -> None:
    assert has_proof_of_work(example_event("open-request"), 16)
    assert read_open_request(example_event("open-request")).model == "tiny"
    accept = json.loads(load("examples/posted-accept.json")["plaintext"])
    client = KeyPair(bytes.fromhex(load("examples/keys.json")["client_session"]["secret_key"]))
    quote = open_message(verify(parse_event(accept["quote"])), client)
    assert isinstance(quote, Quote) and quote.max_msat is None and quote.request_id == accept["request_id"]


def test_the_example_receipt_holds_in_every_point_that_can_be_checked_offline() -> None:
    quote = {"event": load("examples/quote.json")["event"], "plaintext": load("examples/quote.json")["plaintext"]}
    evidence = {"receipt": load("examples/receipt.json")["event"], "quote": quote}
    [presented] = parse_evidence_text(json.dumps(evidence))
    report = verify_evidence(presented, verify)
    assert report.holds, [check for check in report.checks if not check.holds]
    assert len(report.checks) > 15 and not report.unchecked


def test_the_example_job_ends_without_complaint_on_either_side() -> None:
    exchange, outcome = example_job.finish()
    assert outcome.is_verified and outcome.metering is not None
    assert outcome.paid_msat == outcome.metering.record.charged_msat > 0
    assert len(exchange.payment_hashes) == 2, "an example of one tranche shows no tranches"


def test_the_example_messages_are_what_a_session_carries() -> None:
    for each in load("examples/session-messages.json"):
        assert json.loads(json.dumps(decode_message(json.dumps(each["message"])).to_json())) == each["message"]


# ── vectors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_event_vectors_follow_from_nip_01() -> None:
    vectors = load("vectors/events.json")
    assert [each["name"] for each in vectors["events"]] == [content.name for content in CONTENTS]
    for each in (*vectors["events"], vectors["awkward"]):
        fields = each["unsigned"]
        array = [0, fields["pubkey"], fields["created_at"], fields["kind"], fields["tags"], fields["content"]]
        assert json.loads(each["serialisation"]) == array
        assert hashlib.sha256(each["serialisation"].encode()).hexdigest() == each["id"]
        if "signature" in each:
            verify(parse_event({**fields, "id": each["id"], "sig": each["signature"]}))


def _mac(key: str, message: bytes) -> str:
    return hmac.digest(bytes.fromhex(key), message, "sha256").hex()


def test_commitment_vectors_follow_from_the_specification() -> None:
    vectors, keys = load("vectors/commitments.json"), load("examples/keys.json")
    ids = {name: bytes.fromhex(vectors[name]) for name in ("session_id", "job_nonce", "job_id")}
    assert hashlib.sha256(ids["session_id"] + ids["job_nonce"]).digest() == ids["job_id"]
    ephemeral = KeyPair(bytes.fromhex(keys["client_ephemeral"]["secret_key"]))
    shared = [ephemeral.shared_secret(keys[name]["public_key"]) for name in ("node_ephemeral", "node")]
    salt = bytes.fromhex(vectors["session_request_id"] + vectors["session_accept_id"])
    secret = hmac.digest(salt, b"".join(shared), "sha256").hex()
    committed = vectors["commitment_keys"]
    for what, key in committed.items():
        assert _mac(secret, b"relaymesh/1 " + what.encode() + ids["job_id"] + b"\x01") == key
    assert _mac(committed["prompt"], vectors["body"].encode()) == vectors["prompt_commitment"]
    assert _mac(committed["output"], "".join(vectors["outputs"]).encode()) == vectors["output_commitment"]
    for payment in vectors["payments"]:
        assert _mac(committed["payment"], payment["tranche"].to_bytes(4)) == payment["salt"]
        both = bytes.fromhex(payment["salt"] + payment["payment_hash"])
        assert hashlib.sha256(both).hexdigest() == payment["payment_commitment"]
    tranches = json.loads(example_event("metering").content)["tranches"]
    assert [each["payment_commitment"] for each in tranches] == [
        each["payment_commitment"] for each in vectors["payments"]
    ]


def test_sealed_vectors_follow_from_the_specification() -> None:
    vectors = load("vectors/sealed.json")
    names = bytes.fromhex(vectors["quote_id"] + vectors["job_id"])
    assert [len(tranche["leaves"]) for tranche in vectors["tranches"]] == [1, 1, 2]
    for number, tranche in enumerate(vectors["tranches"]):
        secret, commitment = bytes.fromhex(tranche["k"]), tranche["commitment"]
        packed, lengths = b"", []
        for place, leaf in enumerate(tranche["leaves"]):
            info = b"relaymesh/1 sealed" + number.to_bytes(4) + place.to_bytes(4)
            assert _mac(hmac.digest(names, secret, "sha256").hex(), info + b"\x01") == leaf["key"]
            message = decode_message(json.dumps(leaf["message"]))
            assert isinstance(message, SealedMessage)
            assert (message.job_id, message.tranche, message.leaf) == (vectors["job_id"], number, place)
            opened = ChaCha20Poly1305(bytes.fromhex(leaf["key"])).decrypt(bytes(12), message.ciphertext, None)
            assert len(opened) == leaf["plaintext_bytes"] <= 8_192
            assert hashlib.sha256(opened).hexdigest() == leaf["plaintext_sha256"]
            assert hashlib.sha256(message.ciphertext).hexdigest() == leaf["leaf_sha256"]
            lengths.append(len(opened.replace(b"\xff", b"").decode().encode()))
            packed += opened
        assert packed == b"".join(piece.encode() + b"\xff" for piece in tranche["pieces"])
        assert hashlib.sha256(secret).hexdigest() == commitment["payment_hash"]
        assert commitment["leaf_sha256"] == [leaf["leaf_sha256"] for leaf in tranche["leaves"]]
        assert commitment["leaf_bytes"] == lengths and commitment["units"] == sum(lengths)
        assert SealedCommitment.from_text(json.dumps(commitment)).tranche == number


def test_every_bad_leaf_of_the_vectors_is_refused() -> None:
    for case in load("vectors/sealed.json")["bad_leaves"]:
        commitment, (leaf,) = sealed(bytes.fromhex(case["plaintext"]), lengths=(case["leaf_bytes"],))
        with pytest.raises(RemoteProtocolError):
            read_leaf(SECRET, commitment, 0, leaf)


def test_content_vectors_hold_both_sides_of_every_rule() -> None:
    vectors = load("vectors/content.json")
    valid = [each["text"] for each in vectors if each["is_valid"]]
    refused = [each["text"] for each in vectors if not each["is_valid"]]
    assert len(valid) == 7 and len(refused) == 21
    for text in valid:
        assert check_content(text) == json.loads(text)
    for text in refused:
        with pytest.raises(RemoteProtocolError):
            check_content(text)
