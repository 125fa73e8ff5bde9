from __future__ import annotations

import pytest

from deployments.config import Adapter, ModelConfig, Placement
from deployments.errors import ModelNotFound
from ingress.catalog import Catalog, Entry, card

QWEN = ModelConfig(name="Qwen/Qwen3-8B", aliases=("qwen", "gpt-4"), engine="echo")
SMOL = ModelConfig(name="smol", engine="echo")


def entry(model: ModelConfig) -> Entry:
    return Catalog([model]).find(model.name)


def test_every_name_and_alias_leads_to_its_model() -> None:
    catalog = Catalog([QWEN, SMOL])
    assert {name: catalog.find(name).model for name in ("Qwen/Qwen3-8B", "qwen", "gpt-4", "smol")} == {
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
    assert [entry.model for entry in catalog] == [SMOL, QWEN]
    assert [entry.model for entry in catalog] == [SMOL, QWEN]
    assert len(catalog) == 2


def test_card_has_every_field_of_the_contract() -> None:
    shown = card(entry(QWEN), "qwen", "running")
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
    assert card(entry(QWEN), "qwen", "running")["created"] == card(entry(SMOL), "smol", "stopped")["created"]


BASE = ModelConfig(
    name="org/base",
    aliases=("b",),
    engine="echo",
    auto_start=True,
    adapters=(Adapter(name="poet", path="./poet"), Adapter(name="org/clerk", path="./clerk")),
)


def test_adapter_is_a_model_of_its_own_inside_its_bases_replicas() -> None:
    catalog = Catalog([BASE])
    poet = catalog.find("poet")
    assert [one.name for one in catalog] == ["org/base", "poet", "org/clerk"]
    assert (poet.member, poet.parent, poet.deployment_name) == ("poet", "org/base", "org--base")
    assert (poet.aliases, poet.mode, poet.auto_load, poet.auto_start) == ((), "chat", True, False)
    assert catalog.find("b").member is None


def test_card_of_an_adapter_names_its_base() -> None:
    shown = card(Catalog([BASE]).find("poet"), "poet", "stopped")
    assert (shown["root"], shown["parent"], shown["aliases"]) == ("org/base", "org/base", [])


def test_model_in_a_pool_is_inside_the_pools_replicas() -> None:
    small = ModelConfig(name="org/small", aliases=("s",), engine="echo", pool="many", auto_start=True)
    entry = Catalog([small]).find("s")
    assert (entry.member, entry.deployment_name, entry.pool) == ("org/small", "pool--many", "many")
    assert (entry.parent, entry.aliases, entry.auto_start) == (None, ("s",), True)


def test_hosts_are_whatever_has_replicas_of_its_own() -> None:
    pooled = [ModelConfig(name=name, engine="echo", pool="many") for name in ("p", "q")]
    hosts = Catalog([BASE, *pooled, SMOL]).hosts
    assert [(host.deployment_name, host.member) for host in hosts] == [
        ("org--base", None),
        ("pool--many", None),
        ("smol", None),
    ]


def test_engine_is_that_of_the_placement_which_serves_it() -> None:
    model = ModelConfig(name="a", source="o/a", engine="mlx", placements=(Placement(engine="vllm"), Placement()))
    entry = Catalog([model]).find("a")
    assert [entry.engine_at(name) for name in ("a", "a~1", "")] == ["vllm", "mlx", "vllm"]
