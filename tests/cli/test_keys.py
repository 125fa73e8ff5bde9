from __future__ import annotations

import json

import yaml

from deployments.keys import KeyConfig, hash_of
from tests.cli.conftest import Run


def test_key_is_made_with_what_the_settings_need_of_it(cli: Run) -> None:
    told = cli("keys", "new", "alice").out
    (secret,) = [line for line in told.splitlines() if line.startswith("sk-")]
    assert len(secret) > 40
    (entry,) = yaml.safe_load(told.partition("serve_config.yaml:\n")[2])
    assert KeyConfig.model_validate(entry) == KeyConfig(name="alice", key_hash=hash_of(secret))
    assert secret not in cli("keys", "new", "alice").out


def test_json_has_the_key_and_its_hash(cli: Run) -> None:
    told = json.loads(cli("keys", "new", "alice", "--json").out)
    assert told == {"name": "alice", "key": told["key"], "key_hash": hash_of(told["key"])}


def test_name_that_is_none_is_wrong_usage(cli: Run) -> None:
    ended = cli("keys", "new", "a b")
    assert ended.status == 2
    assert "NAME: " in ended.err
