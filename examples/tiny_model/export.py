"""Writes the trained network, its tokenizer and its chat template into one GGUF file."""

import json
from pathlib import Path
from typing import Final

from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from tokenizers import Tokenizer

from examples.tiny_model.network import Network

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
CONTROL_TOKENS: Final = (END_OF_TEXT, TURN_START, TURN_END)
"""Their numbers are their places here."""


def write_gguf(path: Path, network: Network, tokenizer: Tokenizer) -> None:
    """Write `path`; matrices as Q8_0, norms as F32."""
    writer = GGUFWriter(str(path), "llama")
    _write_description(writer)
    _write_shape(writer, network)
    _write_tokenizer(writer, tokenizer)
    for name, weight in network.state_dict().items():
        values = weight.detach().float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_description(writer: GGUFWriter) -> None:
    writer.add_name("RelayMesh Tiny (demonstration model)")
    writer.add_description(
        "A tiny model trained by the RelayMesh project on its own short texts about RelayMesh, to demonstrate that "
        "real inference is bought and paid. It knows nothing else and is of no other use."
    )
    writer.add_author("The RelayMesh project")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)


def _write_shape(writer: GGUFWriter, network: Network) -> None:
    shape = network.shape
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rotation_base)
    writer.add_vocab_size(shape.vocabulary)


def _write_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    kinds = [TokenType.CONTROL if token in CONTROL_TOKENS else TokenType.NORMAL for token in tokens]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(CONTROL_TOKENS.index(END_OF_TEXT))
    writer.add_eos_token_id(CONTROL_TOKENS.index(TURN_END))
    writer.add_pad_token_id(CONTROL_TOKENS.index(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
