"""Keys in the settings and in the environment, and what is presented."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments import config
from deployments.config import ConfigError, ModelConfig, Settings
from deployments.keys import ENVIRONMENT, KeyConfig, hash_of
from ingress.catalog import Catalog
from ingress.keys import LOOK, MANAGE, NONE, USE, Keyring, may_use, presented, rights_for

SECRET = "sk-0123456789abcdef"
OTHER = "sk-fedcba9876543210"
BASE = {"name": "a", "engine": "echo", "aliases": ["b"], "adapters": [{"name": "poet", "path": "/x"}]}


def settings(*keys: dict[str, Any], **environ: str) -> Settings:
    return config.with_keys(config.parse({"models": [BASE], "keys": list(keys)}), environ)


def mistakes(*keys: dict[str, Any], **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(*keys, **environ)
    return str(caught.value).splitlines()


# Settings ------------------------------------------------------------------------------------------------------------


def test_key_may_use_all_models_and_manage_none() -> None:
    (key,) = settings({"name": "x", "key_hash": hash_of(SECRET)}).keys
    assert (key.models, key.rights, key.is_limited) == (None, ("use",), False)


def test_key_of_the_environment_becomes_a_hash_and_is_written_nowhere() -> None:
    known = settings({"name": "x", "key_env": "X_KEY"}, X_KEY=SECRET, **{ENVIRONMENT: f" {OTHER} , "})
    assert [(key.name, key.key_hash, key.rights) for key in known.keys] == [
        ("x", hash_of(SECRET), ("use",)),
        ("environment-1", hash_of(OTHER), ("use", "manage")),
    ]
    plain = json.dumps(known.model_dump(mode="json"))
    assert SECRET not in plain
    assert OTHER not in plain
    assert Settings.model_validate(json.loads(plain)) == known


HASH = hash_of(SECRET)


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ([{"name": "x"}], "keys[0]: needs either key_hash or key_env"),
        ([{"name": "x", "key_hash": HASH, "key_env": "X"}], "keys[0]: needs either key_hash or key_env"),
        ([{"name": "x", "key_hash": HASH, "models": ["c"]}], "keys[0].models[0]: 'c' is no model"),
        ([{"name": "x", "key_env": "NO"}], "keys[0].key_env: NO is not set in the environment"),
        (
            [{"name": "x", "key_hash": HASH}, {"name": "x", "key_hash": hash_of(OTHER)}],
            "keys[1].name: 'x' is already a key's name",
        ),
        (
            [{"name": "x", "key_hash": HASH}, {"name": "y", "key_hash": HASH}],
            "keys[1]: it is the key of another one too",
        ),
    ],
)
def test_mistake_in_a_key_carries_its_path(given: list[dict[str, Any]], mistake: str) -> None:
    assert mistakes(*given) == [mistake]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"key_hash": SECRET}, "keys[0].key_hash"),
        ({"models": []}, "keys[0].models"),
        ({"rights": []}, "keys[0].rights"),
        ({"rights": ["admin"]}, "keys[0].rights[0]"),
        ({"requests_per_minute": 0}, "keys[0].requests_per_minute"),
        ({"tokens_per_minute": 1.5}, "keys[0].tokens_per_minute"),
        ({"name": "a b"}, "keys[0].name"),
    ],
)
def test_value_that_a_key_cannot_have_is_refused_and_not_shown(more: dict[str, Any], path: str) -> None:
    mistake, *_ = mistakes({"name": "x", "key_hash": HASH, **more})
    assert mistake.startswith(f"{path}: ")
    assert SECRET not in mistake


def test_short_key_of_the_environment_is_refused_and_not_shown() -> None:
    told = mistakes({"name": "x", "key_env": "X"}, X="tiny", **{ENVIRONMENT: f"{SECRET},small"})
    assert told == [
        "keys[0].key_env: X is shorter than 16 characters",
        "LLM_MANAGER_KEYS: its key 2 is shorter than 16 characters",
    ]


# Which key -----------------------------------------------------------------------------------------------------------


def test_keyring_knows_its_keys_and_no_other() -> None:
    known = settings({"name": "x", "key_hash": HASH}, {"name": "y", "key_hash": hash_of(OTHER)}).keys
    ring = Keyring(known)
    assert (ring.find(SECRET), ring.find(OTHER)) == known
    assert ring.find(SECRET + "x") is None
    assert ring.find(HASH) is None
    assert not Keyring(())


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": f"Bearer {SECRET}"}, SECRET),
        ({"authorization": f"bearer  {SECRET} "}, SECRET),
        ({"x-api-key": SECRET}, SECRET),
        ({"authorization": "Basic eDp5", "x-api-key": SECRET}, SECRET),
        ({"authorization": f"Bearer {SECRET}", "x-api-key": OTHER}, SECRET),
        ({"authorization": "Bearer"}, ""),
        ({"authorization": SECRET}, ""),
        ({}, ""),
    ],
)
def test_key_is_read_from_both_headers(headers: dict[str, str], key: str) -> None:
    assert presented(headers) == key


@pytest.mark.parametrize(
    ("method", "path", "rights"),
    [
        ("GET", "/", NONE),
        ("GET", "/health", NONE),
        ("GET", "/docs", NONE),
        ("GET", "/openapi.json", NONE),
        ("GET", "/health/", USE),
        ("GET", "//health", USE),
        ("GET", "/v1/../health", USE),
        ("GET", "/HEALTH", USE),
        ("GET", "/v1/models", LOOK),
        ("GET", "/v1/models/a/b", LOOK),
        ("GET", "/v1/system/status", LOOK),
        ("POST", "/v1/chat/completions", USE),
        ("POST", "/v1/models", USE),
        ("GET", "/v1/responses/resp_1", USE),
        ("POST", "/tokenize", USE),
        ("GET", "/nothing", USE),
        ("GET", "/api/models", LOOK),
        ("GET", "/api/models/stream", LOOK),
        ("GET", "/api/models/a", LOOK),
        ("GET", "/api/devices/info", LOOK),
        ("POST", "/api/models/a/start", MANAGE),
        ("POST", "/api/models/stop-all", MANAGE),
        ("DELETE", "/api/models/a", MANAGE),
        ("GET", "/api/models/a/logs/stream", MANAGE),
        ("GET", "/api/models/a/logs/", MANAGE),
        ("GET", "/api/logs/stats", MANAGE),
        ("POST", "/api/logs/a/clear", MANAGE),
        ("POST", "/api/models/a/pin", MANAGE),
        ("GET", "/api/requests", MANAGE),
        ("POST", "/api/requests/a/cancel", MANAGE),
        ("GET", "/api/history", LOOK),
        ("GET", "/api/anything", MANAGE),
    ],
)
def test_rights_that_a_path_asks_for(method: str, path: str, rights: frozenset[str]) -> None:
    assert rights_for(method, path) == rights


@pytest.mark.parametrize(
    ("models", "seen"),
    [
        (None, {"a", "poet", "z", "p"}),
        (("a",), {"a", "poet"}),
        (("b",), {"a", "poet"}),
        (("poet",), {"poet"}),
        (("z", "p"), {"z", "p"}),
    ],
)
def test_aliases_and_adapters_follow_their_model(models: tuple[str, ...] | None, seen: set[str]) -> None:
    known = [
        ModelConfig.model_validate(BASE),
        ModelConfig(name="z", engine="echo"),
        ModelConfig(name="p", engine="echo", pool="q"),
    ]
    key = KeyConfig(name="x", key_hash=HASH, models=models)
    assert {entry.name for entry in Catalog(known, may_use(key))} == seen
