"""Serve's descriptions of deployments, whose copies share what does not change.

Serve copies a deployment's description for each change of its number of replicas, and the copy makes a class of actors
of its own: Ray keeps every one of them in its control service, in Serve's controller and in all processes that are told
of a replica, for as long as they live. A server that swaps models for weeks must not. And ten times a second Serve
copies each description to its depths, to write two fields: a fifth of a core for 200 models. There is no public way to
say so; the class that is taken over depends on nothing but the deployment's name.
"""

from __future__ import annotations

import copy
from typing import Any


def share() -> None:
    """In Serve's controller, whose descriptions it is about."""
    from ray.serve._private.deployment_info import DeploymentInfo

    DeploymentInfo.__copy__ = _copied
    DeploymentInfo.__deepcopy__ = _copied_deeply


def _copied(info: Any) -> Any:
    """As `copy.copy` makes it, with the class."""
    copied = object.__new__(type(info))
    copied.__dict__.update(info.__dict__)
    return copied


def _copied_deeply(info: Any, memo: dict[int, Any]) -> Any:
    """What Serve writes to is its own: fields of the description and of both its parts, and the actor's options."""
    copied = _copied(info)
    copied.deployment_config = copy.copy(info.deployment_config)
    copied.replica_config = copy.copy(info.replica_config)
    copied.replica_config.ray_actor_options = copy.deepcopy(info.replica_config.ray_actor_options, memo)
    return copied
