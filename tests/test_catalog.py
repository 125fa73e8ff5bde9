from __future__ import annotations

import pytest

from deployments.config import ModelConfig
from deployments.errors import ModelNotFound
from ingress.catalog import Catalog, card

QWEN = ModelConfig(name="Qwen/Qwen3-8B", aliases=("qwen", "gpt-4"), engine="echo")
SMOL = ModelConfig(name="smol", engine="echo")


def test_every_name_and_alias_leads_to_its_model() -> None:
    catalog = Catalog([QWEN, SMOL])
    assert {name: catalog.find(name) for name in ("Qwen/Qwen3-8B", "qwen", "gpt-4", "smol")} == {
        "Qwen/Qwen3-8B": QWEN,
        "qwen": QWEN,
        "gpt-4": QWEN,
        "smol": SMOL,
    }


@pytest.mark.parametrize("name", ["", "Smol", "smol/", "Qwen--Qwen3-8B", "Qwen"])
def test_unknown_name_is_model_not_found_and_says_which(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalog([QWEN, SMOL]).find(name)
    assert repr(name) in caught.value.message
    assert caught.value.param == "model"


def test_models_are_counted_and_listed_once_in_the_order_of_the_configuration() -> None:
    catalog = Catalog(iter([SMOL, QWEN]))
    assert list(catalog) == [SMOL, QWEN]
    assert list(catalog) == [SMOL, QWEN]
    assert len(catalog) == 2


def test_card_has_every_field_of_the_contract() -> None:
    shown = card(QWEN, "qwen", "running")
    assert isinstance(shown.pop("created"), int)
    assert shown == {
        "id": "qwen",
        "object": "model",
        "owned_by": "llm-manager",
        "permission": [],
        "root": "Qwen/Qwen3-8B",
        "parent": None,
        "aliases": ["qwen", "gpt-4"],
        "status": "running",
    }


def test_created_is_the_same_on_every_card() -> None:
    assert card(QWEN, "qwen", "running")["created"] == card(SMOL, "smol", "stopped")["created"]
