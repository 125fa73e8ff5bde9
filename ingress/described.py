"""Deployments as Serve's controller is told of them, where Serve's own way does not bear many models.

Serve gives all deployments of an application one version, made of its whole configuration, and so would restart every
model when one of them changes. And it sends, and writes down at each swap, the code of its request router with each
deployment: 108 KB, of which a name is enough. There is no public way to say otherwise; both are fields of one message.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
from importlib.metadata import version
from typing import Any

from pydantic import PrivateAttr
from ray import cloudpickle
from ray.serve import Deployment
from ray.serve._private.config import DeploymentConfig


def described(deployment: Deployment, *made_of: Any) -> Deployment:
    """The deployment, whose replicas are replaced when what it is made of changes, or this project, or Ray's options.

    made_of: plain data.
    """
    own = _Described.model_construct(**dict(deployment._deployment_config))
    own._own_version = digest(deployment.name, *made_of)
    made = deployment.options()
    made._deployment_config = own
    return made


def digest(*made_of: Any) -> str:
    told = json.dumps([version("llm-manager"), *made_of], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Described(DeploymentConfig):  # type: ignore[misc]
    """Serve writes its `version` when the application is built; the controller reads this message."""

    _own_version: str = PrivateAttr(default="")

    def to_proto(self) -> Any:
        message = super().to_proto()
        message.version = self._own_version
        router = message.request_router_config
        router._serialized_request_router_cls = _by_name(router.request_router_class)
        if self.autoscaling_config is not None:
            policy = message.autoscaling_config.policy
            policy._serialized_policy_def = _by_name(policy.policy_function)
        return message


def _by_name(path: str) -> bytes:
    """A pickle of what the path names in an installed package."""
    pickled: bytes = cloudpickle.dumps(pkgutil.resolve_name(path))
    return pickled
