"""Writes the trained weights as a GGUF that llama.cpp loads, and reads one back for evaluation."""

from __future__ import annotations

from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np

from layout import BOS, EOS, UNK, Layout
from model import Params, Shape

FILE = Path(__file__).parent / "stent-demo.gguf"
CONTEXT = 8192
QUANT = gguf.GGMLQuantizationType.Q8_0
# Mistral's first template, for tools that read it; the gateway builds its prompts from pieces.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant messages are supported.') }}{% endif %}"
    "{% endfor %}"
)
BLOCK_NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}


def write(shape: Shape, params: Params, layout: Layout, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("stent-demo")
    writer.add_description("demo, not medical advice")
    writer.add_license("Apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    _add_vocabulary(writer, layout)
    for name, tensor in _tensors(params):
        if tensor.ndim == 2:
            blocks = gguf.quants.quantize(np.ascontiguousarray(tensor, np.float32), QUANT)
            writer.add_tensor(name, blocks, raw_dtype=QUANT)
        else:
            writer.add_tensor(name, np.asarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> tuple[Shape, Params]:
    """The weights as the engine sees them, that is after quantisation."""
    reader = gguf.GGUFReader(path)
    number = lambda key: reader.fields[f"llama.{key}"].contents()
    tensors = {
        t.name: jnp.asarray(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors
    }
    shape = Shape(
        vocabulary=tensors["token_embd.weight"].shape[0],
        width=number("embedding_length"),
        layers=number("block_count"),
        heads=number("attention.head_count"),
        kv_heads=number("attention.head_count_kv"),
        head=number("rope.dimension_count"),
        hidden=number("feed_forward_length"),
        rope_base=number("rope.freq_base"),
        epsilon=number("attention.layer_norm_rms_epsilon"),
    )
    turned = lambda name: tensors[name].T if tensors[name].ndim == 2 else tensors[name]
    return shape, {
        "embed": tensors["token_embd.weight"],
        "blocks": [
            {k: turned(f"blk.{i}.{name}.weight") for k, name in BLOCK_NAMES.items()}
            for i in range(shape.layers)
        ],
        "norm": tensors["output_norm.weight"],
        "output": turned("output.weight"),
    }


def _tensors(params: Params):
    """GGUF stores a matrix as rows of outputs, the transpose of `x @ w`."""
    yield "token_embd.weight", params["embed"]
    for i, block in enumerate(params["blocks"]):
        for key, name in BLOCK_NAMES.items():
            yield f"blk.{i}.{name}.weight", block[key].T
    yield "output_norm.weight", params["norm"]
    yield "output.weight", params["output"].T


def _add_vocabulary(writer: gguf.GGUFWriter, layout: Layout) -> None:
    pieces, kinds = layout.pieces, gguf.TokenType
    ids = range(len(layout))
    kind = lambda i: (
        kinds.UNKNOWN if i == UNK
        else kinds.CONTROL if pieces.is_control(i)
        else kinds.BYTE if pieces.is_byte(i)
        else kinds.NORMAL
    )
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(i).encode() for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types([kind(i) for i in ids])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)
