"""Proof of work on event ids: mining it and checking it (NIP-13).

Mining is our own. pynostr's overwrites another tag when a name occurs twice before the `nonce`, reads a clock, and
serialises the whole event for every try; this one hashes what stands before the nonce once.
"""

import hashlib
import re
from dataclasses import replace
from typing import Final

import orjson

from relaymesh.errors import LocalProtocolError
from relaymesh.nostr.event import Event, EventId, UnsignedEvent

ID_BITS: Final = 256
MINING_BATCH: Final = 65_536
"""Tries worth about a tenth of a second: what to ask of `search` between two looks at anything else."""

_TARGET = re.compile(r"(?:0|[1-9][0-9]{0,2})\Z")


def leading_zero_bits(event_id: EventId) -> int:
    """How many zero bits an id starts with: its difficulty, 0 … 256."""
    return ID_BITS - int(event_id, 16).bit_length()


def committed_bits(event: Event) -> int | None:
    """The difficulty the author aimed at, as the `nonce` tag says; None if it does not say."""
    for tag in event.tags:
        if tag[0] == "nonce":
            return int(tag[2]) if len(tag) > 2 and _TARGET.match(tag[2]) is not None else None
    return None


def has_proof_of_work(event: Event, bits: int) -> bool:
    """Whether the event carries at least `bits` of work that its author aimed at.

    The claimed id is taken as it stands: compare it with the event's own first. Luck does not count, so an event whose
    committed target is lower than `bits`, or that commits to none, has not done the work.
    """
    if bits <= 0:
        return True
    target = committed_bits(event)
    return target is not None and target >= bits and leading_zero_bits(event.id) >= bits


def mine(event: UnsignedEvent, bits: int) -> UnsignedEvent:
    """The event with a `nonce` tag that gives its id at least `bits` leading zero bits; takes 2^bits tries on average.

    For a difficulty that somebody else asks for, call `search` in batches, so that it can be given up.
    """
    first_nonce = 0
    while True:
        mined = search(event, bits, first_nonce=first_nonce, tries=MINING_BATCH)
        if mined is not None:
            return mined
        first_nonce += MINING_BATCH


def search(event: UnsignedEvent, bits: int, *, first_nonce: int, tries: int) -> UnsignedEvent | None:
    """Try the nonces `first_nonce` … `first_nonce + tries − 1`; None if none of them is enough.

    Args:
        event: What to mine; an old `nonce` tag is replaced, all else is kept.
        bits: 0 … 256 leading zero bits, written into the tag as the committed target.
        first_nonce: At least 0.
        tries: How many nonces to try.

    Raises:
        LocalProtocolError: `bits` is out of range, or the event cannot be serialised.
    """
    if not 0 <= bits <= ID_BITS:
        raise LocalProtocolError(f"a proof of work must be 0 to {ID_BITS} bits")
    kept = tuple(tag for tag in event.tags if tag[0] != "nonce")
    before, after = _split_at_nonce(replace(event, tags=(*kept, ("nonce", "", str(bits)))), bits)
    started = hashlib.sha256(before)
    limit = 1 << (ID_BITS - bits)
    for nonce in range(first_nonce, first_nonce + tries):
        attempt = started.copy()
        attempt.update(b"%d%b" % (nonce, after))
        if int.from_bytes(attempt.digest()) < limit:
            return replace(event, tags=(*kept, ("nonce", str(nonce), str(bits))))
    return None


def _split_at_nonce(event: UnsignedEvent, bits: int) -> tuple[bytes, bytes]:
    """The serialisation before and after the place of the nonce, which is in the last tag."""
    serialised = event.serialise()
    after = b'","%d"]],%b]' % (bits, orjson.dumps(event.content))
    return serialised[: -len(after)], after
