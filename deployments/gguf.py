"""Turns a Llama model in GGUF into a folder in Hugging Face layout.

mlx.core.load keeps Q4_0, Q4_1 and Q8_0 blocks as MLX's quantised weights, scales and biases (groups of 32
numbers), so nothing is quantised twice; float16 and float32 stay as they are, other blocks arrive as float16.
Only MLX loads such weights; in a plain folder all are float16, which every engine does.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

GROUP_SIZE = 32
CONTROL, USER_DEFINED = 3, 4  # kinds of token in tokenizer.ggml.token_type

LAYER_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
MODULES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LEAVES = {"weight", "scales", "biases"}


class Metadata:
    """The key-value part of a GGUF file: scalars as Python numbers, lists as lists."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def get(self, key: str) -> Any:
        """The value, or None where the file does not have the key."""
        value = self._values.get(key)
        if not isinstance(value, mx.array):
            return value
        number = value.tolist()
        # A float32 read as a double shows digits that nobody wrote: 1e-05 would become 9.999999747378752e-06.
        return float(f"{number:.7g}") if isinstance(number, float) else number

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ValueError(f"the GGUF file has no {key}")
        return value


def convert(gguf: Path, out: Path, *, plain: bool = False) -> None:
    """Writes config.json, generation_config.json, model.safetensors and the tokenizer's files into `out`.

    plain: all weights as float16, none quantised.
    Raises ValueError, naming it, for what it cannot carry over.
    """
    weights, meta = read(gguf)
    config = model_config(meta)
    tokenizer = build_tokenizer(meta)
    tensors = rename(weights, config["num_attention_heads"], config["num_key_value_heads"])
    if "model.embed_tokens.weight" not in tensors:
        raise ValueError("the GGUF file has no token_embd.weight")
    if plain:
        tensors = dequantize(tensors)
        config["dtype"] = "float16"

    config["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    if quantization := quantization_of(tensors):
        config["quantization"] = quantization

    out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(out / "model.safetensors"), tensors, metadata={"format": "pt" if plain else "mlx"})
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", token_ids(meta))
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", tokenizer_config(meta))


def read(gguf: Path) -> tuple[dict[str, mx.array], Metadata]:
    try:
        loaded: Any = mx.load(str(gguf), format="gguf", return_metadata=True)
    except RuntimeError as error:
        raise ValueError(f"{gguf.name} cannot be read as GGUF: {error}") from error
    weights, values = loaded
    return weights, Metadata(values)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_config(meta: Metadata) -> dict[str, Any]:
    architecture = meta.need("general.architecture")
    if architecture != "llama":
        raise ValueError(f"the GGUF file's architecture is {architecture}, only llama can be converted")
    scaling = meta.get("llama.rope.scaling.type")
    if scaling not in (None, "none"):
        raise ValueError(f"the GGUF file scales its rotary embedding ({scaling}), which cannot be converted")

    heads = meta.need("llama.attention.head_count")
    hidden = meta.need("llama.embedding_length")
    head_dim = meta.get("llama.attention.key_length") or hidden // heads
    rotary = meta.get("llama.rope.dimension_count")
    if rotary not in (None, head_dim):
        raise ValueError(f"the GGUF file rotates {rotary} of {head_dim} dimensions, which cannot be converted")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.need("llama.feed_forward_length"),
        "num_hidden_layers": meta.need("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.get("llama.attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "rms_norm_eps": meta.need("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.get("llama.rope.freq_base") or 10000.0,
        "max_position_embeddings": meta.need("llama.context_length"),
        **token_ids(meta),
    }


def token_ids(meta: Metadata) -> dict[str, int]:
    """Begin, end and padding ids, those that the file has; padding falls back on the end."""
    eos = meta.need("tokenizer.ggml.eos_token_id")
    bos = meta.get("tokenizer.ggml.bos_token_id")
    padding = meta.get("tokenizer.ggml.padding_token_id")
    ids = {"eos_token_id": eos, "pad_token_id": eos if padding is None else padding}
    return ids if bos is None else {"bos_token_id": bos, **ids}


def rename(weights: dict[str, mx.array], heads: int, kv_heads: int) -> dict[str, mx.array]:
    """The tensors under their Hugging Face names."""
    tensors = {}
    for key, value in weights.items():
        module, leaf = hugging_face_name(key)
        if leaf not in LEAVES or value.dtype not in (mx.uint32, mx.float16, mx.float32):
            raise ValueError(f"the GGUF file's tensor {key} ({value.dtype}) cannot be converted")
        if module.endswith("q_proj"):
            value = undo_rope_permutation(value, heads)
        elif module.endswith("k_proj"):
            value = undo_rope_permutation(value, kv_heads)
        tensors[f"{module}.{leaf}"] = value
    return tensors


def hugging_face_name(key: str) -> tuple[str, str]:
    """Module and leaf: `blk.3.attn_q.weight` becomes `model.layers.3.self_attn.q_proj`, `weight`."""
    match key.split("."):
        case ["blk", layer, kind, leaf] if kind in LAYER_MODULES:
            return f"model.layers.{layer}.{LAYER_MODULES[kind]}", leaf
        case [kind, leaf] if kind in MODULES:
            return MODULES[kind], leaf
    raise ValueError(f"the GGUF file's tensor {key} has no place in a Llama model")


def undo_rope_permutation(rows: mx.array, heads: int) -> mx.array:
    """llama.cpp interleaves the rotary halves of q and k; Hugging Face keeps them apart."""
    half_head = rows.shape[0] // heads // 2
    return rows.reshape(heads, half_head, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def quantization_of(tensors: dict[str, mx.array]) -> dict[str, Any]:
    """MLX's `quantization` entry: the commonest width and the modules that differ; empty if there is none."""
    bits = bits_of(tensors)
    if not bits:
        return {}
    [(common, _)] = Counter(bits.values()).most_common(1)
    others = {m: {"group_size": GROUP_SIZE, "bits": width} for m, width in bits.items() if width != common}
    return {"group_size": GROUP_SIZE, "bits": common, **others}


def bits_of(tensors: dict[str, mx.array]) -> dict[str, int]:
    """The width of each quantised module's numbers."""
    modules = [key.removesuffix(".scales") for key in tensors if key.endswith(".scales")]
    # A group of 32 numbers has one scale and, packed in 32-bit words, as many words as a number has bits.
    return {m: tensors[f"{m}.weight"].shape[1] // tensors[f"{m}.scales"].shape[1] for m in modules}


def dequantize(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """The same weights as float16."""
    bits = bits_of(tensors)
    plain = {}
    for key, value in tensors.items():
        module, _, leaf = key.rpartition(".")
        if leaf != "weight":
            continue
        if module in bits:
            scales, biases = (tensors[f"{module}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            value = mx.dequantize(value, scales, biases, group_size=GROUP_SIZE, bits=bits[module])
        plain[key] = value.astype(mx.float16)
    return plain


def build_tokenizer(meta: Metadata) -> Tokenizer:
    kind = meta.need("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ValueError(f"the GGUF file's tokenizer is {kind}, only gpt2 (byte-level BPE) can be converted")
    tokens: list[str] = meta.need("tokenizer.ggml.tokens")
    merges = [(left, right) for left, right in (m.split(" ") for m in meta.need("tokenizer.ggml.merges"))]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer(meta.get("tokenizer.ggml.pre"))
    tokenizer.decoder = decoders.ByteLevel()
    kinds = meta.get("tokenizer.ggml.token_type") or []
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds, strict=False) if k == CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=False) if k == USER_DEFINED]
    )
    if meta.get("tokenizer.ggml.add_bos_token"):
        bos = meta.need("tokenizer.ggml.bos_token_id")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def pre_tokenizer(name: str | None) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    match name:
        case "gpt-2":
            return words
        case "smollm":
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    raise ValueError(f"the GGUF file splits words as {name}, only gpt-2 and smollm can be converted")


def tokenizer_config(meta: Metadata) -> dict[str, Any]:
    tokens = meta.need("tokenizer.ggml.tokens")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": meta.need("llama.context_length"),
    }
    unknown = meta.get("tokenizer.ggml.unknown_token_id")
    ids = token_ids(meta) if unknown is None else {**token_ids(meta), "unk_token_id": unknown}
    for name, token_id in ids.items():
        config[name.removesuffix("_id")] = tokens[token_id]
    if template := meta.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
