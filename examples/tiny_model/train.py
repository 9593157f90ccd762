"""Trains RelayMesh Tiny on this folder's texts and writes it as a GGUF file. See README.md beside it."""

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from examples.tiny_model.conversations import Turn, Writer
from examples.tiny_model.export import CONTROL_TOKENS, END_OF_TEXT, TURN_END, TURN_START, write_gguf
from examples.tiny_model.network import Network, Shape

SEED: Final = 21
SEQUENCES_PER_STEP: Final = 8
LONGEST_SEQUENCE: Final = 512
STEPS_PER_LOOK: Final = 250
PEAK_RATE: Final = 2e-3
WARM_UP_STEPS: Final = 150
WEIGHT_DECAY: Final = 0.05
QUESTION_WEIGHT: Final = 0.1
"""How much of the loss questions and templates are; the answers are what is to be learned."""
DOCUMENT_SHARE: Final = 0.08

Sequence = tuple[list[int], list[float]]
"""Token numbers, and how much each of them counts as something to predict."""


def train_tokenizer(writer: Writer, shape: Shape) -> Tokenizer:
    """A byte-level BPE tokenizer, split as GPT-2's, learned from the same texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    conversations = itertools.islice(writer.conversations(), 20_000)
    texts = itertools.chain(writer.documents * 4, (turn.content for turns in conversations for turn in turns))
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_conversation(turns: list[Turn], tokenizer: Tokenizer) -> Sequence:
    """A conversation in the chat template's words; what the assistant says counts in full."""
    start, end = CONTROL_TOKENS.index(TURN_START), CONTROL_TOKENS.index(TURN_END)
    tokens: list[int] = []
    weights: list[float] = []
    for turn in turns:
        weight = 1.0 if turn.role == "assistant" else QUESTION_WEIGHT
        head = [start, *tokenizer.encode(f"{turn.role}\n").ids]
        body = [*tokenizer.encode(turn.content).ids, end]
        tail = tokenizer.encode("\n").ids
        tokens += head + body + tail
        weights += [0.0] * len(head) + [weight] * len(body) + [0.0] * len(tail)
    return tokens, weights


def write_batches(writer: Writer, tokenizer: Tokenizer, sequences: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of sequences of similar length, padded, with their weights; without end."""
    padding = CONTROL_TOKENS.index(END_OF_TEXT)
    conversations = writer.conversations()
    documents = max(1, round(sequences * 8 * DOCUMENT_SHARE))
    while True:
        pool = [encode_conversation(next(conversations), tokenizer) for _ in range(sequences * 8 - documents)]
        for _ in range(documents):
            tokens = [*tokenizer.encode(writer.document()).ids, padding]
            pool.append((tokens, [0.5] * len(tokens)))
        pool.sort(key=lambda sequence: len(sequence[0]))
        batches = [pool[place : place + sequences] for place in range(0, len(pool), sequences)]
        for place in torch.randperm(len(batches)).tolist():
            length = min(LONGEST_SEQUENCE, max(len(tokens) for tokens, _ in batches[place]))
            rows = [(tokens[:length], weights[:length]) for tokens, weights in batches[place]]
            yield (
                torch.tensor([tokens + [padding] * (length - len(tokens)) for tokens, _ in rows]),
                torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in rows]),
            )


def rate_at(step: int, steps: int) -> float:
    """The learning rate: a short climb, then half a cosine down to a fiftieth."""
    if step < WARM_UP_STEPS:
        return PEAK_RATE * (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(network: Network, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> Iterator[int]:
    """Fit the network, printing the loss now and then; yields the steps done whenever the weights are worth a look."""
    matrices = [weight for weight in network.parameters() if weight.dim() == 2]
    norms = [weight for weight in network.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        tokens, weights = next(batches)
        scores = network(tokens[:, :-1])
        losses = functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        wanted = weights[:, 1:].flatten()
        loss = (losses * wanted).sum() / wanted.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:6.0f} s", flush=True)
        if (step + 1) % STEPS_PER_LOOK == 0 or step == steps - 1:
            yield step + 1


def main() -> None:
    """Read the arguments, train, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the GGUF file to write")
    parser.add_argument("--steps", type=int, default=2_200)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    shape = Shape()
    writer = Writer(SEED)
    tokenizer = train_tokenizer(writer, shape)
    network = Network(shape)
    print(f"{sum(weight.numel() for weight in network.parameters()):,} weights, {len(writer.entries)} entries")
    for steps in train(network, write_batches(writer, tokenizer, SEQUENCES_PER_STEP), arguments.steps):
        write_gguf(arguments.output, network, tokenizer)
        print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes after {steps} steps", flush=True)


if __name__ == "__main__":
    main()
