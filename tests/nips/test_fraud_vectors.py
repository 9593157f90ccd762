"""The vectors of fraud and stake, recomputed from the text of RM-05 alone: nothing of ours is imported here."""

import base64
import hashlib
import json
from typing import Any

import coincurve
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.nips import stranger
from tests.nips.stranger import Json
from tests.nips.test_files import load

FRAUD, STAKE = load("vectors/fraud.json"), load("vectors/stake.json")
ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"


def opened(evidence: Json) -> Json | None:
    plaintext = evidence.get("plaintext")
    if plaintext is None or hashlib.sha256(plaintext.encode()).hexdigest() != stranger.tag(evidence["event"], "x"):
        return None
    fields: Json = json.loads(plaintext)
    return fields


def price_over_quote(quote: Json, record: Json) -> bool:
    said, counted = opened(quote), json.loads(record["event"]["content"])
    if said is None or counted["quote_id"] != quote["event"]["id"]:
        return False
    if counted["charged_msat"] > counted["max_msat"]:
        return True
    row, units = said["row"], counted["units"]
    paid = sum(tranche["units_paid"] for tranche in counted["tranches"])
    given, taken = {
        "byte": (units["input_bytes"], units["output_bytes"]),
        "token": (units["input_tokens"], units["output_tokens"]),
        "second": (0, units["seconds"]),
        "job": (0, units["jobs"]),
    }[row["unit"]]
    if row["unit"] == "token" and counted["first_output_at_ms"] is None and given == 0:
        return False
    cost = stranger.cost(row, min(given, 10**9), min(max(taken, paid), 10**9))
    return int(counted["charged_msat"]) > cost


def tranche_over_quote(quote: Json, commitment: Json) -> bool:
    said, sold = opened(quote), json.loads(commitment["event"]["content"])
    if said is None or sold["quote_id"] != quote["event"]["id"] or sold["tranche"] == 0:
        return False
    row = said["row"]
    units = int(sum(sold["leaf_bytes"]) if row["unit"] == "byte" else sold["units"])
    return int(sold["msat"]) > -(-units * int(row["output_msat"]) // int(row["per"]))


def quote_over_offer(quote: Json, offer: Json) -> bool:
    said, event = opened(quote), offer["event"]
    if said is None or said["offer_id"] != event["id"]:
        return False
    offered = json.loads(event["content"])
    ends = [int(tag[1]) for tag in event["tags"] if tag[0] == "expiration"]
    if min([offered["valid_until"], *ends]) <= quote["event"]["created_at"]:
        return False
    row = said["row"]
    return not any(
        all(row[name] == other[name] for name in ("model", "unit", "identity"))
        and set(row["job_types"]) <= set(other["job_types"])
        and all(row[rate] * other["per"] <= other[rate] * row["per"] for rate in ("input_msat", "output_msat"))
        and row["minimum_msat"] <= other["minimum_msat"]
        for other in offered["rows"]
    )


def equivocation(one: Json, other: Json) -> bool:
    events = (one["event"], other["event"])
    kinds = {event["kind"] for event in events}
    if kinds == {8770, 8774}:
        return amounts_differ(*events)
    if kinds not in ({38770}, {8770}, {8774}):
        return False
    contents = [json.loads(event["content"]) for event in events]
    names, tag = {
        38770: (("seq",), "d"),
        8770: (("session", "job"), "p"),
        8774: (("quote_id", "job", "tranche"), "p"),
    }[one["event"]["kind"]]
    places = {
        (stranger.tag(event, tag), *(said[name] for name in names))
        for event, said in zip(events, contents, strict=True)
    }
    return len(places) == 1 and contents[0] != contents[1]


def amounts_differ(commitment: Json, record: Json) -> bool:
    sold, counted = json.loads(commitment["content"]), json.loads(record["content"])
    if any(sold[name] != counted[name] for name in ("quote_id", "job")):
        return False
    if stranger.tag(commitment, "p") != stranger.tag(record, "p"):
        return False
    tranches = counted["tranches"][sold["tranche"] :]
    return any((each["msat"], each["units_paid"]) != (sold["msat"], sold["units"]) for each in tranches[:1])


def bad_ciphertext(commitment: Json, leaf: Json | None) -> bool:
    if leaf is None:
        return False
    said, secret = json.loads(commitment["event"]["content"]), bytes.fromhex(leaf["preimage"])
    ciphertext, hashes = base64.b64decode(leaf["ciphertext"]), said["leaf_sha256"]
    if hashlib.sha256(secret).hexdigest() != said["payment_hash"] or leaf["index"] >= len(hashes):
        return False
    if hashlib.sha256(ciphertext).hexdigest() != hashes[leaf["index"]]:
        return False
    info = b"relaymesh/1 sealed" + said["tranche"].to_bytes(4) + leaf["index"].to_bytes(4)
    key = stranger.expand(stranger.mac(bytes.fromhex(said["quote_id"] + said["job"]), secret), info)
    try:
        parts = ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, None).split(b"\xff")
        text = "".join(part.decode() for part in parts)
    except (InvalidTag, UnicodeDecodeError):
        return True
    breaks_off = leaf["index"] == len(hashes) - 1 and parts[-1] != b""
    return bool(breaks_off or len(text.encode()) != said["leaf_bytes"][leaf["index"]])


def is_proven(proof: Json) -> bool:
    evidence = sorted(proof["evidence"], key=lambda each: int(each["event"]["kind"]), reverse=True)
    events = [each["event"] for each in evidence]
    if any(event["pubkey"] != proof["accused"] or not stranger.is_genuine(event) for event in events):
        return False
    kinds = [event["kind"] for event in events]
    match proof["claim"]:
        case "price-over-quote":
            if kinds == [28771, 8774]:
                return tranche_over_quote(*evidence)
            return kinds == [28771, 8770] and price_over_quote(*evidence)
        case "quote-over-offer":
            return kinds == [38770, 28771] and quote_over_offer(*evidence[::-1])
        case "equivocation":
            return len({event["id"] for event in events}) == len(events) == 2 and equivocation(*evidence)
        case "bad-ciphertext":
            return kinds == [8774] and bad_ciphertext(evidence[0], proof["leaf"])
    return False


def slash_key(claim: str, accused: str, ids: list[str]) -> str:
    return hashlib.sha256(claim.encode() + bytes.fromhex(accused + "".join(sorted(ids)))).hexdigest()


@pytest.mark.parametrize("case", FRAUD, ids=lambda case: f"{case['proof']['claim']}: {case['what']}")
def test_proofs(case: dict[str, Any]) -> None:
    proof = case["proof"]
    assert is_proven(proof) == case["is_proven"]
    ids = [each["event"]["id"] for each in proof["evidence"]]
    assert case["slash_key"] == (slash_key(proof["claim"], proof["accused"], ids) if case["is_proven"] else None)


def test_each_claim_is_there_proven_and_not_proven() -> None:
    found = {(case["proof"]["claim"], case["is_proven"]) for case in FRAUD}
    assert found == {(claim, is_true) for claim in STAKE["shares_milli"] for is_true in (True, False)}


def decayed(stake: Json, now: int) -> int:
    lifetime = int(stake["valid_until"]) - int(stake["issued_at"])
    return int(stake["units"]) * min(max(int(stake["valid_until"]) - now, 0), lifetime) // lifetime


def slashed(units: int, frauds: list[Json]) -> int:
    shares: dict[str, int] = STAKE["shares_milli"]
    for fraud in sorted(frauds, key=lambda fraud: str(fraud["key"])):
        units -= -(-units * shares[fraud["claim"]] // 1_000)
    return units


def signer(text: str, signature: str) -> str:
    number = 0
    for character in signature:
        number = number * 32 + ZBASE32.index(character)
    raw = number.to_bytes(65)
    digest = stranger.sha256(stranger.sha256(b"Lightning Signed Message:" + text.encode()))
    key = coincurve.PublicKey.from_signature_and_message(raw[1:] + bytes((raw[0] - 31,)), digest, hasher=None)
    return bytes(key.format(compressed=True)).hex()


def test_decay_and_slashes() -> None:
    for case in STAKE["decay"]:
        assert decayed(case, case["now"]) == case["decayed"]
    for case in STAKE["slashes"]:
        assert slashed(case["units"], case["frauds"]) == case["left"]


def test_what_stakes_come_to() -> None:
    room: dict[str, int] = {}
    said = [(each, json.loads(each["content"])) for each in STAKE["stakes"]]
    for each, stake in sorted(said, key=lambda pair: (pair[1]["issued_at"], pair[0]["author"])):
        backing, author = stake["backing"], each["author"]
        text = f"RelayMesh stake of {author}: {stake['units']} units, {stake['issued_at']} to {stake['valid_until']}"
        is_backed = backing is not None and signer(text, backing["signature"]) == backing["ln_pubkey"]
        assert is_backed == each["is_backed"]
        backed = 0
        if is_backed:
            node = backing["ln_pubkey"]
            left = room.setdefault(node, STAKE["capacities"].get(node, 1_000))
            backed = min(decayed(stake, STAKE["now"]), left)
            room[node] -= backed
        frauds = [fraud for fraud in STAKE["frauds"] if fraud["accused"] == author]
        assert slashed(min(backed, 1_000_000), frauds) == each["units"]
    assert sorted(each["units"] > 0 for each in STAKE["stakes"]) == [False, False, True, True, True]
