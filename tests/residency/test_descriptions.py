from __future__ import annotations

import copy
import pickle

from ray.serve._private.config import DeploymentConfig, ReplicaConfig
from ray.serve._private.deployment_info import DeploymentInfo

from deployments.residency import descriptions


class Model:
    pass


def info() -> DeploymentInfo:
    return DeploymentInfo(DeploymentConfig(), ReplicaConfig.create(Model), 0, "job", actor_name="model")


def test_copied_description_has_the_class_of_the_first() -> None:
    descriptions.share()
    first = info()
    made = first.actor_def
    second = copy.copy(first)
    second.version = "2"
    assert second.actor_def is made
    assert first.version is None


def test_class_is_not_pickled() -> None:
    descriptions.share()
    first = info()
    first.actor_def  # noqa: B018  it is made when it is first asked for
    assert pickle.loads(pickle.dumps(first))._cached_actor_def is None


def test_what_serve_writes_to_a_deep_copy_is_not_seen_in_the_first() -> None:
    descriptions.share()
    first = info()
    first.replica_config.ray_actor_options = {"runtime_env": {"env_vars": {}}}
    second = copy.deepcopy(first)
    second.set_target_capacity(50.0, None)
    second.deployment_config.logging_config = {"enable_access_log": False}
    second.deployment_config.user_config = {"a": 1}
    second.replica_config.ray_actor_options["runtime_env"]["env_vars"]["a"] = "b"
    assert (first.target_capacity, first.deployment_config.logging_config) == (None, None)
    assert first.deployment_config.user_config is None
    assert first.replica_config.ray_actor_options == {"runtime_env": {"env_vars": {}}}
    assert second.deployment_config != first.deployment_config


def test_deep_copy_is_the_same_as_serve_compares_it() -> None:
    descriptions.share()
    first = info()
    first.version = "1"
    assert not first.config_changed(copy.deepcopy(first))
