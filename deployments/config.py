"""Settings: what `args` of serve_config.yaml may say. Frozen, checked whole, unknown keys refused.

Every message names where it is wrong: `models[2].aliases[0]: 'x' is already a name of models[0]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments import sources
from deployments.engines.echo_args import EchoArgs
from deployments.engines.mlx.args import MLXArgs

RESERVED_NAMES = frozenset({"restart-autostart", "stop-all", "stream", "Ingress"})
"""Words that `/api/models/…` needs for itself, and the ingress's own deployment."""

EngineName = Literal["mlx", "echo"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# A name is part of URLs and of Serve's deployment names.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=200)]

_ENGINE_ARGS: dict[EngineName, type[BaseModel]] = {"mlx": MLXArgs, "echo": EchoArgs}


class ConfigError(ValueError):
    """The configuration is refused; one line of the text per mistake, each with its path."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Placement(_Frozen):
    """Where a replica may run: Ray's own options (`num_cpus`, `num_gpus`, `resources`, `accelerator_type`, …)."""

    ray_actor_options: dict[str, Any] = {}


class ModelConfig(_Frozen):
    """One model. serve_config.yaml explains each key."""

    name: Name
    aliases: tuple[Name, ...] = ()
    engine: Literal["auto", "mlx", "echo"] = "auto"
    source: str | None = None
    mode: Literal["chat", "completion"] = "chat"
    auto_start: bool = False
    auto_load: bool = True
    idle_timeout_s: Seconds = 3600
    pinned: bool = False
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    min_resident_s: Seconds = 0
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    min_replicas: Annotated[int, Field(ge=0)] = 0
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing_requests: Annotated[int, Field(ge=1)] = 32
    engine_args: dict[str, Any] = {}
    placements: tuple[Placement, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def engine_name(self) -> EngineName:
        """The engine that serves the model; `auto` is MLX."""
        return "mlx" if self.engine == "auto" else self.engine

    @property
    def deployment_name(self) -> str:
        """The model's name as Serve can hold it: it becomes part of file names too."""
        return self.name.replace("/", "--")


class Settings(_Frozen):
    """The application's `args`."""

    models: tuple[ModelConfig, ...]
    cache_dir: Path = Path("~/.cache/llm-manager")
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    load_wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300
    request_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600
    max_keep_alive_s: Seconds | None = None
    warm_start: bool = True
    max_body_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32


def parse(args: Mapping[str, Any]) -> Settings:
    """Settings from plain data.

    Raises: ConfigError with every mistake found.
    """
    try:
        settings = Settings.model_validate(args)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path_of(e['loc']) or 'args'}: {e['msg']}" for e in error.errors())) from None
    if not settings.models:
        raise ConfigError("models: at least one is needed")
    if mistakes := [*_name_mistakes(settings.models), *_model_mistakes(settings.models)]:
        raise ConfigError("\n".join(mistakes))
    return settings


def path_of(location: Sequence[int | str]) -> str:
    """('models', 2, 'aliases', 0) → `models[2].aliases[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _name_mistakes(models: Sequence[ModelConfig]) -> list[str]:
    mistakes = []
    owners: dict[str, int] = {}
    for i, model in enumerate(models):
        for j, name in enumerate(model.names):
            path = f"models[{i}].name" if j == 0 else f"models[{i}].aliases[{j - 1}]"
            if name in RESERVED_NAMES:
                mistakes.append(f"{path}: {name!r} is a reserved word")
            # Serve's deployments need unique names too, and there a slash is written as two dashes.
            keys = {name, model.deployment_name} if j == 0 else {name}
            if taken := [owners[key] for key in keys if key in owners]:
                mistakes.append(f"{path}: {name!r} is already a name of models[{taken[0]}]")
            owners.update(dict.fromkeys(keys, i))
    return mistakes


def _model_mistakes(models: Sequence[ModelConfig]) -> list[str]:
    mistakes = []
    for i, model in enumerate(models):
        if model.min_replicas > model.max_replicas:
            mistakes.append(f"models[{i}].min_replicas: is above max_replicas ({model.max_replicas})")
        if model.engine_name == "echo" and model.source is not None:
            mistakes.append(f"models[{i}].source: the echo engine has no weights")
        if model.engine_name != "echo":
            mistakes += _source_mistakes(f"models[{i}].source", model.source)
        try:
            _ENGINE_ARGS[model.engine_name].model_validate(model.engine_args)
        except ValidationError as error:
            prefix = ("models", i, "engine_args")
            mistakes += [f"{path_of((*prefix, *e['loc']))}: {e['msg']}" for e in error.errors()]
    return mistakes


def _source_mistakes(path: str, source: str | None) -> list[str]:
    if source is None:
        return [f"{path}: is missing"]
    try:
        sources.check(source)
    except ValueError as error:
        return [f"{path}: {error}"]
    return []
