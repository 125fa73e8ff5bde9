"""How a model's folder says that vectors are made of its last layer: sentence-transformers' modules.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["cls", "mean", "last"]

_FLAGS: dict[str, Kind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Kind] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_WORDS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")


@dataclass(frozen=True)
class Pooling:
    """kind: which tokens make the vector. dense: layers come after it. normalize: the vector's length is 1."""

    kind: Kind
    dense: bool
    normalize: bool


def read_pooling(folder: Path) -> Pooling | None:
    """None where the folder has no modules.json.

    Raises: ValueError, with what cannot be served.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    kind: Kind | None = None
    rest = []
    for module in json.loads(path.read_text()):
        name = module["type"].rsplit(".", 1)[-1]
        if name == "Pooling":
            kind = _kind(json.loads((folder / module["path"] / "config.json").read_text()))
        elif name in ("Dense", "Normalize"):
            rest.append(name)
        elif name != "Transformer":
            raise ValueError(f"The model's modules.json names a {name}, which is not served.")
    if kind is None:
        raise ValueError("The model's modules.json names no Pooling.")
    return Pooling(kind, "Dense" in rest, "Normalize" in rest)


def _kind(config: dict[str, Any]) -> Kind:
    if isinstance(name := config.get("pooling_mode"), str):
        chosen = [name]
    else:
        chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    kind = {**_FLAGS, **_NAMES}.get(chosen[0]) if len(chosen) == 1 else None
    if kind is None:
        raise ValueError(f"The model pools by {' and '.join(chosen) or 'nothing'}; served are {get_args(Kind)}.")
    return kind


def text_length(folder: Path) -> int | None:
    """Most tokens of a text, where sentence-transformers' files bound it."""
    for name in _WORDS:
        if (folder / name).is_file():
            length = json.loads((folder / name).read_text()).get("max_seq_length")
            return length if isinstance(length, int) else None
    return None
