"""One class of actors for each of Serve's deployments, however often its number of replicas changes.

Serve copies a deployment's description for each change, and the copy makes a class of its own: Ray keeps every one of
them in its control service, in Serve's controller and in all processes that are told of a replica, for as long as they
live. A server that swaps models for weeks must not. There is no public way to say so; what is taken over depends on
nothing but the deployment's name.
"""

from __future__ import annotations

from typing import Any


def keep() -> None:
    """In Serve's controller, whose descriptions it is about."""
    from ray.serve._private.deployment_info import DeploymentInfo

    DeploymentInfo.__copy__ = _copied


def _copied(info: Any) -> Any:
    """As `copy.copy` makes it, with the class."""
    copied = object.__new__(type(info))
    copied.__dict__.update(info.__dict__)
    return copied
