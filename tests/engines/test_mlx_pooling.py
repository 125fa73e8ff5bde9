from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from deployments.engines.mlx.embedder import pool, unit
from deployments.engines.mlx.folder import context_length
from deployments.engines.mlx.pooling import Kind, Pooling, read_pooling, text_length

MODULES = "sentence_transformers.models."


def write(folder: Path, *kinds: str, **pooling: Any) -> Path:
    paths = ["" if kind == "Transformer" else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    modules = [{"idx": i, "path": paths[i], "type": f"{MODULES}{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    for path in filter(None, paths):
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True, "word_embedding_dimension": 8}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling_is_what_the_folder_says(tmp_path: Path, config: dict[str, Any], kind: Kind) -> None:
    folder = write(tmp_path, "Transformer", "Pooling", **config)
    assert read_pooling(folder) == Pooling(kind, dense=False, normalize=False)


def test_dense_and_normalize_come_from_the_modules(tmp_path: Path) -> None:
    folder = write(tmp_path, "Transformer", "Pooling", "Dense", "Normalize", pooling_mode_cls_token=True)
    assert read_pooling(folder) == Pooling("cls", dense=True, normalize=True)


def test_folder_without_modules_says_nothing(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) is None
    assert text_length(tmp_path) is None


@pytest.mark.parametrize(
    ("kinds", "config", "reason"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pooling_mode_mean_tokens and pooling_mode_cls_token",
        ),
        (("Transformer", "Pooling"), {}, "nothing"),
        (("Transformer",), {}, "names no Pooling"),
        (("Transformer", "WordWeights"), {}, "names a WordWeights"),
    ],
)
def test_pooling_that_is_not_served_is_told(
    tmp_path: Path, kinds: tuple[str, ...], config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        read_pooling(write(tmp_path, *kinds, **config))


def test_length_of_a_text_is_what_the_folder_says(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert text_length(tmp_path) == 256
    assert context_length({"max_position_embeddings": 512, "model_type": "bert"}) == 512
    assert context_length({"max_position_embeddings": 514, "pad_token_id": 1, "model_type": "xlm-roberta"}) == 512


STATES = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)
MASK = np.array([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("kind", "want"),
    [("cls", [[0, 1], [6, 7]]), ("last", [[4, 5], [8, 9]]), ("mean", [[2, 3], [7, 8]])],
)
def test_padding_is_not_pooled(kind: Kind, want: list[list[float]]) -> None:
    assert pool(mx.array(STATES), mx.array(MASK), Pooling(kind, False, False)).tolist() == want


def test_unit_vectors_have_length_one_and_nothing_stays_nothing() -> None:
    assert np.allclose(unit(mx.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
