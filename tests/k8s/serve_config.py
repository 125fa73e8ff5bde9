"""serveConfigV2: what Serve, the residency policy and our own settings say of it."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from deployments import config
from deployments.config import Settings
from deployments.residency import ResidencyPolicy
from tests.k8s.objects import Object, the

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ray.serve.schema import ServeDeploySchema

    from ingress.deploying import DRAIN_MARGIN_S

POLICY_KEYS = frozenset({"policy_function", "policy_kwargs"})


def of(objects: list[Object]) -> Any:
    return yaml.safe_load(the(objects, "RayService")["spec"]["serveConfigV2"])


def settings_of(objects: list[Object]) -> Settings:
    (application,) = of(objects)["applications"]
    return config.parse(application["args"])


def longest_answer_s(settings: Settings) -> float:
    """From the last request that a replica takes until Serve has seen that it is done."""
    return settings.request_timeout_s + DRAIN_MARGIN_S


def mistakes(data: Any) -> Iterator[str]:
    try:
        ServeDeploySchema.model_validate(data)
    except ValidationError as error:
        yield from (f"{config.path_of(e['loc'])}: {e['msg']}" for e in error.errors())
        return
    yield from _unknown(data, ServeDeploySchema)
    for application in data["applications"]:
        policy = application["autoscaling_policy"]
        yield from (f"autoscaling_policy.{key}: is not known" for key in sorted(set(policy) - POLICY_KEYS))
        try:
            ResidencyPolicy(**policy["policy_kwargs"])
        except (TypeError, ValueError) as error:
            yield f"policy_kwargs: {error}"
        try:
            config.parse(application["args"])
        except config.ConfigError as error:
            yield f"args: {error}"


def _unknown(data: Any, model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Keys that Serve would pass over in silence."""
    for key, value in data.items():
        if key not in model.model_fields:
            yield f"{path}{key}: is not known to Serve"
            continue
        for inner in _models(model.model_fields[key].annotation):
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    yield from _unknown(one, inner, f"{path}{key}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, list):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []
