"""A small network of the Llama shape: RMS norms, rotary positions in interleaved pairs, gated feed-forward, tied ends.

The shapes and the rotation are those of llama.cpp's `llama` architecture, so that the weights need no rearranging.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the network is; every width is a multiple of 32, the block size of Q8_0."""

    vocabulary: int = 2_048
    width: int = 192
    layers: int = 5
    heads: int = 6
    feed_forward: int = 512
    context: int = 1_024
    rotation_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Numbers per attention head."""
        return self.width // self.heads


def rotate(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair of neighbours of (batch, heads, positions, head width) by its position's angle."""
    even, odd = values[..., 0::2], values[..., 1::2]
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1).flatten(-2)


class Layer(nn.Module):
    """Attention, then a gated feed-forward, each on a normed copy and added back."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_v = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """(batch, positions, width) in and out."""
        batch, positions, width = values.shape
        split = (batch, positions, self.shape.heads, self.shape.head_width)
        normed = self.attn_norm(values)
        query = rotate(self.attn_q(normed).view(split).transpose(1, 2), cosines, sines)
        key = rotate(self.attn_k(normed).view(split).transpose(1, 2), cosines, sines)
        value = self.attn_v(normed).view(split).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.attn_output(mixed.transpose(1, 2).reshape(batch, positions, width))
        normed = self.ffn_norm(values)
        changed: Tensor = values + self.ffn_down(functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))
        return changed


class Network(nn.Module):
    """Token numbers in, one score for each next token out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                depth = (2 * shape.layers) ** -0.5 if name.endswith(("attn_output.weight", "ffn_down.weight")) else 1.0
                nn.init.normal_(weight, std=0.04 * depth)
        pairs = torch.arange(0, shape.head_width, 2) / shape.head_width
        angles = torch.outer(torch.arange(shape.context), shape.rotation_base**-pairs)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, positions) in, (batch, positions, vocabulary) out."""
        positions = tokens.shape[1]
        cosines = self.get_buffer("cosines")[:positions]
        sines = self.get_buffer("sines")[:positions]
        values = self.token_embd(tokens)
        for layer in self.blk:
            values = layer(values, cosines, sines)
        return functional.linear(self.output_norm(values), self.token_embd.weight)
