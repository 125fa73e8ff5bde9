from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load
from tokenizers import pre_tokenizers

from deployments import gguf

HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 64, 4, 2, 96, 2
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ t"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()) + [m.replace(" ", "") for m in MERGES]


def metadata(**changes: Any) -> dict[str, Any]:
    """A tiny Llama's; `changes` use __ for the dots, None takes a key out."""

    def number(value: int) -> mx.array:
        return mx.array(value, dtype=mx.uint32)

    values: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.context_length": number(128),
        "llama.embedding_length": number(HIDDEN),
        "llama.feed_forward_length": number(FFN),
        "llama.block_count": number(LAYERS),
        "llama.attention.head_count": number(HEADS),
        "llama.attention.head_count_kv": number(KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": mx.array([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL))),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": number(1),
        "tokenizer.ggml.eos_token_id": number(2),
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


def tensors() -> dict[str, mx.array]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(TOKENS), HIDDEN), "output_norm": (HIDDEN,)}
    key_value = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_q": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k": (key_value, HIDDEN),
            f"blk.{layer}.attn_v": (key_value, HIDDEN),
            f"blk.{layer}.attn_output": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_gate": (FFN, HIDDEN),
            f"blk.{layer}.ffn_up": (FFN, HIDDEN),
            f"blk.{layer}.ffn_down": (HIDDEN, FFN),
            f"blk.{layer}.attn_norm": (HIDDEN,),
            f"blk.{layer}.ffn_norm": (HIDDEN,),
        }
    return {f"{name}.weight": mx.random.normal(shape).astype(mx.float16) for name, shape in shapes.items()}


def write_tiny_gguf(path: Path, more: dict[str, mx.array] | None = None, **changes: Any) -> Path:
    mx.save_gguf(str(path), tensors() | (more or {}), metadata(**changes))
    return path


def convert(tmp_path: Path, more: dict[str, mx.array] | None = None, **changes: Any) -> Path:
    gguf.convert(write_tiny_gguf(tmp_path / "tiny.gguf", more, **changes), tmp_path / "out")
    return tmp_path / "out"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_tiny_model_loads_and_its_tokenizer_round_trips(tmp_path: Path) -> None:
    model, tokenizer = load(str(convert(tmp_path)))[:2]
    assert model(mx.array([[1, 5, 6]])).shape == (1, 3, len(TOKENS))
    assert tokenizer.encode("hello 42") == [TOKENS.index(t) for t in ("hello", "Ġ", "4", "2")]
    assert tokenizer.decode(tokenizer.encode("hello, wörld 42")) == "hello, wörld 42"
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.eos_token_ids == {2}


def test_config_says_what_the_metadata_says(tmp_path: Path) -> None:
    out = convert(tmp_path, llama__rope__freq_base=mx.array(50000.0))
    config = read(out / "config.json")
    assert config["num_key_value_heads"] == KV_HEADS
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == 50000.0
    assert config["vocab_size"] == len(TOKENS)
    assert config["tie_word_embeddings"] is True
    assert "quantization" not in config
    assert read(out / "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_defaults_where_the_metadata_is_silent(tmp_path: Path) -> None:
    out = convert(tmp_path, llama__attention__head_count_kv=None, tokenizer__ggml__bos_token_id=None, more=full_kv())
    config = read(out / "config.json")
    assert config["rope_theta"] == 10000.0
    assert config["num_key_value_heads"] == HEADS
    assert "bos_token_id" not in config
    assert "bos_token" not in read(out / "tokenizer_config.json")


def full_kv() -> dict[str, mx.array]:
    names = [f"blk.{layer}.attn_{kind}.weight" for layer in range(LAYERS) for kind in "kv"]
    return {name: mx.zeros((HIDDEN, HIDDEN), dtype=mx.float16) for name in names}


def test_output_weight_becomes_an_untied_head(tmp_path: Path) -> None:
    head = mx.zeros((len(TOKENS), HIDDEN), dtype=mx.float16)
    out = convert(tmp_path, more={"output.weight": head})
    assert read(out / "config.json")["tie_word_embeddings"] is False
    assert not load(str(out))[0](mx.array([[1]])).any()


def test_begin_token_is_added_if_the_file_says_so(tmp_path: Path) -> None:
    out = convert(tmp_path, tokenizer__ggml__add_bos_token=mx.array(True))
    assert load(str(out))[1].encode("hello") == [1, TOKENS.index("hello")]


def test_user_defined_tokens_are_kept_whole_and_are_not_special(tmp_path: Path) -> None:
    kinds = [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)) + [4]
    embedding = mx.zeros((len(TOKENS) + 1, HIDDEN), dtype=mx.float16)
    out = convert(
        tmp_path,
        more={"token_embd.weight": embedding},
        tokenizer__ggml__tokens=[*TOKENS, "<tool>"],
        tokenizer__ggml__token_type=mx.array(kinds),
    )
    tokenizer = load(str(out))[1]
    assert tokenizer.encode("<tool>") == [len(TOKENS)]
    assert tokenizer.decode([len(TOKENS)], skip_special_tokens=True) == "<tool>"


def test_rope_permutation_is_undone() -> None:
    rows = mx.arange(HEADS * 16 * 3).reshape(HEADS * 16, 3)
    # As llama.cpp's convert_hf_to_gguf.py permutes.
    permuted = rows.reshape(HEADS, 2, 8, 3).swapaxes(1, 2).reshape(rows.shape)
    assert mx.array_equal(gguf.undo_rope_permutation(permuted, HEADS), rows)


def test_quantization_names_the_modules_of_another_width() -> None:
    def packed(name: str, bits: int) -> dict[str, mx.array]:
        weight, scales, biases = mx.quantize(mx.zeros((8, 64)), group_size=32, bits=bits)
        return {f"{name}.weight": weight, f"{name}.scales": scales, f"{name}.biases": biases}

    quantization = gguf.quantization_of(packed("a", 4) | packed("b", 4) | packed("head", 8))
    assert quantization == {"group_size": 32, "bits": 4, "head": {"group_size": 32, "bits": 8}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "qwen2"}, "architecture is qwen2"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer is llama"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, "splits words as llama-bpe"),
        ({"tokenizer__ggml__eos_token_id": None}, r"no tokenizer\.ggml\.eos_token_id"),
        ({"llama__embedding_length": None}, r"no llama\.embedding_length"),
        ({"llama__rope__scaling__type": "yarn"}, r"rotary embedding \(yarn\)"),
        ({"llama__rope__dimension_count": mx.array(8)}, "rotates 8 of 16"),
        ({"more": {"rope_freqs.weight": mx.ones(8)}}, r"tensor rope_freqs\.weight has no place"),
        ({"more": {"blk.0.attn_q.bias": mx.ones(HIDDEN)}}, r"tensor blk\.0\.attn_q\.bias"),
        ({"more": {"blk.0.attn_q.weight": mx.ones((64, 64), dtype=mx.int8)}}, "int8"),
    ],
)
def test_what_cannot_be_carried_over_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"x\.gguf cannot be read as GGUF"):
        gguf.convert(tmp_path / "x.gguf", tmp_path / "out")


def test_plain_weights_are_those_that_mlx_computes_with(tmp_path: Path) -> None:
    weight, scales, biases = mx.quantize(mx.random.normal((len(TOKENS), HIDDEN)), group_size=32, bits=4)
    packed = {"output.weight": weight, "output.scales": scales, "output.biases": biases}
    quantised = gguf.rename(tensors() | packed, HEADS, KV_HEADS)
    plain = gguf.dequantize(quantised)
    assert {value.dtype for value in plain.values()} == {mx.float16}
    assert plain.keys() == {key for key in quantised if key.endswith(".weight")}
    computed = mx.dequantize(weight, scales, biases, group_size=32, bits=4)
    assert mx.allclose(plain["lm_head.weight"], computed, atol=2e-3)


def test_plain_folder_says_so(tmp_path: Path) -> None:
    gguf.convert(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "out", plain=True)
    config = read(tmp_path / "out" / "config.json")
    assert config["dtype"] == "float16"
    assert "quantization" not in config
    weights: Any = mx.load(str(tmp_path / "out" / "model.safetensors"), return_metadata=True)
    assert {value.dtype for value in weights[0].values()} == {mx.float16}
    assert weights[1] == {"format": "pt"}
