"""What `relaymesh fraud prove` does: from the client's ledger to proofs that anyone can decide."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relaymesh.cli.fraud import describe_verdict
from relaymesh.cli.ledgers import open_existing_ledger
from relaymesh.cli.terminal import clean_line, short_npub
from relaymesh.errors import RemoteProtocolError, UsageError
from relaymesh.settings import Settings

if TYPE_CHECKING:
    from relaymesh.market.prosecution import ProvenFraud
    from relaymesh.nostr.event import VerifiedEvent
    from relaymesh.nostr.keys import KeyPair

NOTHING_PROVEN = 1


async def prove_job(
    settings: Settings, job_id: str, pair: "KeyPair", *, out: Path | None, publish: bool, as_json: bool
) -> int:
    """Make, tell and publish the proofs, signed by this key; the exit code.

    Raises:
        UsageError: There is no such job, or more than one.
    """
    from relaymesh.cli.manifest import publish_events

    frauds = await _find_frauds(settings, job_id)
    proofs = [(fraud, event) for fraud in frauds if (event := _sign(fraud, pair)) is not None]
    if out is not None:
        _write(proofs, out)
    _tell(proofs, is_shown=out is None, as_json=as_json)
    if publish and proofs:
        await publish_events(settings, tuple(event for _, event in proofs))
    return 0 if proofs else NOTHING_PROVEN


def _write(proofs: "list[tuple[ProvenFraud, VerifiedEvent]]", out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for fraud, event in proofs:
            text = json.dumps(event.to_json()) + "\n"
            (out / f"{fraud.verdict.claim}-{event.id[:16]}.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written to: {error.strerror}") from error


def _tell(proofs: "list[tuple[ProvenFraud, VerifiedEvent]]", *, is_shown: bool, as_json: bool) -> None:
    if as_json:
        told = [{**describe_verdict(fraud.verdict, event.id), "event": event.to_json()} for fraud, event in proofs]
        print(json.dumps({"proofs": told}))
        return
    for fraud, event in proofs:
        accused = short_npub(fraud.verdict.accused)
        print(f"{fraud.verdict.claim} by {accused}: {clean_line(fraud.verdict.sentence)}", file=sys.stderr)
        if is_shown:
            print(json.dumps(event.to_json()))
    if not proofs:
        print("relaymesh: the evidence of this job proves no fraud", file=sys.stderr)


async def _find_frauds(settings: Settings, job_id: str) -> "tuple[ProvenFraud, ...]":
    from relaymesh.market.prosecution import PaidLeaves, prove_fraud
    from relaymesh.nostr.keys import verify
    from relaymesh.ports.ledger import JobQuery
    from relaymesh.protocol.fraud_proof import Disclosure

    async with open_existing_ledger(settings, "client") as ledger:
        jobs = () if ledger is None else await ledger.find_jobs(JobQuery(side="client", job_id=job_id))
        if ledger is None or len(jobs) != 1:
            advice = "`relaymesh receipts list` shows them"
            raise UsageError(f"expected one job that begins with `{job_id}`, found {len(jobs)}; {advice}")
        (found,) = jobs
        evidence = [
            Disclosure(record.event, record.plaintext or None)
            for record in await ledger.find_evidence(found.job.job_id)
            if record.event.public_key == found.job.node
        ]
        sealed = await ledger.find_sealed("client", found.job.client, found.job.job_id)
    preimages = {tranche.tranche: tranche.preimage for tranche in found.tranches}
    paid = [
        PaidLeaves(each.commitment, each.leaves, preimage)
        for each in sealed
        if (preimage := preimages.get(each.tranche)) is not None
    ]
    return prove_fraud(evidence, paid, verify)


def _sign(fraud: "ProvenFraud", pair: "KeyPair") -> "VerifiedEvent | None":
    """The proof as an event; what does not fit one is told, and left out."""
    from relaymesh.cli.clock import system_clock
    from relaymesh.protocol.fraud_proof import build_fraud_proof

    try:
        return pair.sign(build_fraud_proof(fraud.proof, pair.public_key, system_clock().timestamp))
    except RemoteProtocolError as error:
        print(f"relaymesh: {fraud.verdict.claim} holds and cannot be shown: {error}", file=sys.stderr)
        return None
