"""Deployments that go on when others of the application change.

Serve gives all deployments of an application one version, made of its whole configuration, and so would restart every
model when one of them changes. There is no public way to say otherwise; what is taken over is the one field that tells
Serve's controller the version.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import Any

from pydantic import PrivateAttr
from ray.serve import Deployment
from ray.serve._private.config import DeploymentConfig


def versioned(deployment: Deployment, *made_of: Any) -> Deployment:
    """The deployment, whose replicas are replaced when what it is made of changes, or this project, or Ray's options.

    made_of: plain data.
    """
    own = _Versioned.model_construct(**dict(deployment._deployment_config))
    own._own = digest(deployment.name, *made_of)
    made = deployment.options()
    made._deployment_config = own
    return made


def digest(*made_of: Any) -> str:
    told = json.dumps([version("llm-manager"), *made_of], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Versioned(DeploymentConfig):  # type: ignore[misc]
    """`version` is written by Serve when the application is built, and read from this message by its controller."""

    _own: str = PrivateAttr(default="")

    def to_proto(self) -> Any:
        message = super().to_proto()
        message.version = self._own
        return message
