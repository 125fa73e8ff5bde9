from __future__ import annotations

import copy
import pickle

from ray.serve._private.config import DeploymentConfig, ReplicaConfig
from ray.serve._private.deployment_info import DeploymentInfo

from deployments.residency import actor_classes


class Model:
    pass


def info() -> DeploymentInfo:
    return DeploymentInfo(DeploymentConfig(), ReplicaConfig.create(Model), 0, "job", actor_name="model")


def test_copied_description_has_the_class_of_the_first() -> None:
    actor_classes.keep()
    first = info()
    made = first.actor_def
    second = copy.copy(first)
    second.version = "2"
    assert second.actor_def is made
    assert first.version is None


def test_class_is_not_pickled() -> None:
    actor_classes.keep()
    first = info()
    first.actor_def  # noqa: B018  it is made when it is first asked for
    assert pickle.loads(pickle.dumps(first))._cached_actor_def is None
