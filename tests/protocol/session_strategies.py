"""Random session messages, whole and damaged, for Hypothesis."""

from typing import Any

from hypothesis import strategies as st

from relaymesh.nostr.event import Event, EventId, PublicKey
from relaymesh.protocol.refusal import RefusalCode, refuse
from relaymesh.protocol.session_messages import (
    ByeMessage,
    CancelMessage,
    CommitmentMessage,
    CreditMessage,
    EndMessage,
    ErrorMessage,
    InvoiceMessage,
    JobId,
    JobMessage,
    MeteringMessage,
    OutputMessage,
    PaidMessage,
    PartMessage,
    PingMessage,
    PongMessage,
    QuoteMessage,
    ReceiptMessage,
    ResumeMessage,
    SealedMessage,
    SessionId,
    SessionMessage,
)
from relaymesh.units import MAXIMUM_INTEGER, AmountMsat, Timestamp

hex_32 = st.binary(min_size=32, max_size=32).map(bytes.hex)
job_ids = hex_32.map(JobId)
integers = st.integers(0, MAXIMUM_INTEGER)
amounts = integers.map(AmountMsat)
# Lone surrogates are no text: UTF-8 cannot carry them.
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)

events = st.builds(
    Event,
    public_key=hex_32.map(PublicKey),
    created_at=integers.map(Timestamp),
    kind=st.integers(0, 65_535),
    tags=st.lists(st.lists(texts, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    content=texts,
    id=hex_32.map(EventId),
    signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
)

jobs = st.builds(
    JobMessage,
    job_id=job_ids,
    client_nonce=hex_32,
    quote_id=hex_32.map(EventId),
    model=texts,
    job_type=st.sampled_from(("chat", "completion", "embedding", "rerank", "classify", "moderate", "summarise")),
    body=texts,
    output_units=st.integers(0, 10**9),
    max_msat=amounts,
    session=st.none() | hex_32.map(SessionId),
)
invoices = st.builds(
    InvoiceMessage,
    job_id=job_ids,
    tranche=integers,
    order=st.sampled_from(("prepay", "postpay", "sealed")),
    bolt11=texts,
    msat=amounts,
    units=integers,
    expires_at_ms=integers,
)
outputs = st.builds(OutputMessage, job_id=job_ids, number=integers, data=texts)
leaves = st.builds(
    SealedMessage,
    job_id=job_ids,
    tranche=integers,
    leaf=st.integers(0, 31),
    ciphertext=st.binary(min_size=17, max_size=100),
)
errors = st.builds(
    ErrorMessage,
    job_id=job_ids,
    refusal=st.builds(refuse, st.sampled_from(RefusalCode), texts.map(str.strip), st.one_of(st.none(), integers)),
    is_retryable=st.booleans(),
)
parts = st.builds(PartMessage, part_id=integers, index=st.integers(0, 63), total=st.integers(2, 64), text=texts)

messages: st.SearchStrategy[SessionMessage] = st.one_of(
    jobs,
    invoices,
    st.builds(PaidMessage, job_id=job_ids, tranche=integers),
    outputs,
    leaves,
    events.map(CommitmentMessage),
    events.map(MeteringMessage),
    events.map(ReceiptMessage),
    events.map(QuoteMessage),
    job_ids.map(EndMessage),
    st.builds(CreditMessage, job_id=job_ids, amount_bytes=st.integers(1, MAXIMUM_INTEGER)),
    job_ids.map(CancelMessage),
    texts.map(ByeMessage),
    errors,
    parts,
    st.builds(ResumeMessage, job_id=job_ids, next_output=integers),
    integers.map(PingMessage),
    integers.map(PongMessage),
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | hex_32,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
