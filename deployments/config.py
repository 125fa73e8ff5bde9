"""Settings: what `args` of serve_config.yaml may say. Frozen, checked whole, unknown keys refused.

Every message names where it is wrong: `models[2].aliases[0]: 'x' is already a name of models[0]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from deployments import keys as clients
from deployments import sources
from deployments.cache.settings import CacheSettings, ModelCache
from deployments.engines.echo_args import EchoArgs
from deployments.engines.mlx.args import MLXArgs
from deployments.engines.vllm.args import check as check_vllm_args
from deployments.frozen import Frozen
from deployments.keys import KeyConfig
from deployments.logs.settings import LogSettings
from deployments.usage.settings import TraceSettings, UsageSettings

RESERVED_NAMES = frozenset({"restart-autostart", "stop-all", "stream", "Ingress", "Keeper"})
"""Words that `/api/models/…` needs for itself, and the deployments that are not models."""

EngineName = Literal["mlx", "vllm", "echo"]
Mode = Literal["chat", "completion", "embedding", "rerank", "transcription"]
MODES: dict[EngineName, frozenset[Mode]] = {
    "vllm": frozenset({"chat", "completion", "embedding", "rerank", "transcription"}),
    "mlx": frozenset({"chat", "completion", "embedding"}),
    "echo": frozenset({"chat", "completion", "embedding"}),
}
ADAPTED: frozenset[EngineName] = frozenset({"vllm", "mlx", "echo"})
"""Engines that serve adapters."""
POOLED: frozenset[EngineName] = frozenset({"mlx", "echo"})
"""Engines of which one process holds several."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# A name is part of URLs and of Serve's deployment names.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=200)]


class ConfigError(ValueError):
    """The configuration is refused; one line of the text per mistake, each with its path."""


class Placement(Frozen):
    """Where a replica may run, and as what. serve_config.yaml explains each key."""

    engine: Literal["mlx", "vllm", "echo"] | None = None
    source: str | None = None
    engine_args: dict[str, Any] | None = None
    device: Literal["cpu", "gpu"] | None = None
    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    accelerator_type: str | None = None
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    ray_actor_options: dict[str, Any] = Field(default_factory=dict)
    placement_group_bundles: tuple[dict[str, Annotated[float, Field(ge=0)]], ...] = ()
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"


class Adapter(Frozen):
    """A LoRA adapter: a model of its own, served by its base's replicas. path: as a model's `source`."""

    name: Name
    path: str


class PoolConfig(Frozen):
    """Processes that the models with this `pool` share. serve_config.yaml explains each key."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    max_models_per_replica: Annotated[int, Field(ge=1)] = 3
    max_replicas: Annotated[int, Field(ge=1)] = 1
    idle_timeout_s: Seconds = 3600
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    placement: Placement = Placement()

    @property
    def deployment_name(self) -> str:
        return pool_deployment(self.name)


class ModelConfig(Frozen):
    """One model. serve_config.yaml explains each key."""

    name: Name
    aliases: tuple[Name, ...] = ()
    engine: Literal["auto", "mlx", "vllm", "echo"] = "auto"
    source: str | None = None
    mode: Mode = "chat"
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
    downscale_delay_s: Seconds = 30
    affinity: Literal["session"] | None = None
    engine_args: dict[str, Any] = Field(default_factory=dict)
    placements: tuple[Placement, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    max_adapters: Annotated[int, Field(ge=1)] = 4
    pool: str | None = None
    cache: ModelCache = ModelCache()
    max_queued_requests: Annotated[int, Field(ge=1)] | None = 1024

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def engine_name(self) -> EngineName:
        """The engine that serves the model where its placements do not say otherwise."""
        return auto_engine() if self.engine == "auto" else self.engine

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The model at each of its placements, in order of preference; at least one."""
        return tuple(_variant(self, i, p) for i, p in enumerate(self.placements or (Placement(),)))

    @property
    def deployment_name(self) -> str:
        """The model's name as Serve can hold it: it becomes part of file names too."""
        return self.name.replace("/", "--")


class Variant(Frozen):
    """A model at one of its placements: what runs there, and what Ray is asked for.

    deployment_name: of the first placement the model's own.
    """

    deployment_name: str
    engine: EngineName
    source: str | None
    engine_args: dict[str, Any]
    placement: Placement


class Settings(Frozen):
    """The application's `args`."""

    models: tuple[ModelConfig, ...]
    pools: tuple[PoolConfig, ...] = ()
    cache_dir: Path = Path("~/.cache/llm-manager")
    data_dir: Path = Path("~/.local/share/llm-manager")
    logs: LogSettings = LogSettings()
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    ingress_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None
    load_wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300
    request_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600
    max_keep_alive_s: Seconds | None = None
    warm_start: bool = True
    max_body_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32
    cors_origins: tuple[str, ...] = ()
    usage: UsageSettings = UsageSettings()
    request_log: bool = True
    traces: TraceSettings = TraceSettings()
    cache: CacheSettings = CacheSettings()
    keys: tuple[KeyConfig, ...] = ()
    allow_without_keys: bool = False
    allow_private_urls: bool = False

    @property
    def all_pools(self) -> tuple[PoolConfig, ...]:
        """Those that are described, and those that only models name."""
        described = {pool.name for pool in self.pools}
        named = dict.fromkeys(model.pool for model in self.models if model.pool is not None)
        return (*self.pools, *(PoolConfig(name=name) for name in named if name not in described))


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
    if mistakes := list(_mistakes(settings)):
        raise ConfigError("\n".join(mistakes))
    return settings


def with_keys(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The settings with the hashes of all keys, those of the environment too.

    Raises: ConfigError with every mistake found.
    """
    try:
        return settings.model_copy(update={"keys": clients.resolved(settings.keys, environ)})
    except ValueError as error:
        raise ConfigError(str(error)) from None


def path_of(location: Sequence[int | str]) -> str:
    """('models', 2, 'aliases', 0) → `models[2].aliases[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def pool_deployment(name: str) -> str:
    """Of the pool's replicas."""
    return f"pool--{name}"


def auto_engine() -> EngineName:
    """vLLM where its CUDA build is installed (the CPU build is another package), MLX elsewhere."""
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return "mlx"
    return "vllm"


def _variant(model: ModelConfig, rank: int, placement: Placement) -> Variant:
    engine = placement.engine or model.engine_name
    if placement.engine is None and model.engine == "auto" and engine == "vllm" and placement.num_gpus is None:
        placement = placement.model_copy(update={"num_gpus": 1.0})
    args = _said_args(model, placement)
    if _is_by_engine(args):
        args = args.get(engine, {})
    return Variant(
        deployment_name=model.deployment_name if rank == 0 else f"{model.deployment_name}~{rank}",
        engine=engine,
        source=placement.source or model.source,
        engine_args=args,
        placement=placement,
    )


def _said_args(model: ModelConfig, placement: Placement) -> dict[str, Any]:
    return model.engine_args if placement.engine_args is None else placement.engine_args


def _is_by_engine(args: Mapping[str, Any]) -> bool:
    """Whether they are `{mlx: {…}, vllm: {…}}`, for a model whose engine the machine chooses: no engine has an argument
    with an engine's name."""
    return bool(args) and args.keys() <= MODES.keys() and all(isinstance(own, dict) for own in args.values())


def _mistakes(settings: Settings) -> Iterator[str]:
    yield from _name_mistakes(settings)
    pools = {pool.name for pool in settings.all_pools}
    for i, pool in enumerate(settings.pools):
        if pool.name in [other.name for other in settings.pools[:i]]:
            yield f"pools[{i}].name: {pool.name!r} is already a pool's name"
        if not any(model.pool == pool.name for model in settings.models):
            yield f"pools[{i}].name: no model has pool: {pool.name}"
        own = pool.placement
        if own.engine or own.source or own.engine_args is not None or own.device:
            yield f"pools[{i}].placement: engine, source, engine_args and device are the models' own"
    for name in sorted(pools):
        engines = sorted({model.engine_name for model in settings.models if model.pool == name})
        if len(engines) > 1:
            yield f"pools: the models of {name!r} have several engines: {', '.join(engines)}"
    for i, model in enumerate(settings.models):
        yield from _model_mistakes(f"models[{i}]", model)
    names = {name for model in settings.models for name in (*model.names, *(a.name for a in model.adapters))}
    yield from clients.mistakes(settings.keys, frozenset(names))


def _name_mistakes(settings: Settings) -> Iterator[str]:
    owners = {pool.deployment_name: "a pool" for pool in settings.all_pools}
    for i, model in enumerate(settings.models):
        named = [
            (f"models[{i}].name", model.name),
            *((f"models[{i}].aliases[{j}]", n) for j, n in enumerate(model.aliases)),
        ]
        named += [(f"models[{i}].adapters[{j}].name", adapter.name) for j, adapter in enumerate(model.adapters)]
        for path, name in named:
            if name in RESERVED_NAMES:
                yield f"{path}: {name!r} is a reserved word"
            # Serve's deployments need unique names too, and there a slash is written as two dashes.
            keys = {name, model.deployment_name} if name == model.name else {name}
            if taken := [owners[key] for key in sorted(keys) if key in owners]:
                yield f"{path}: {name!r} is already a name of {taken[0]}"
            owners.update(dict.fromkeys(keys, f"models[{i}]"))


_POOLS_OWN = (
    "adapters",
    "affinity",
    "max_replicas",
    "min_replicas",
    "min_resident_s",
    "pinned",
    "placements",
    "priority",
)


def _model_mistakes(path: str, model: ModelConfig) -> Iterator[str]:
    if model.min_replicas > model.max_replicas:
        yield f"{path}.min_replicas: is above max_replicas ({model.max_replicas})"
    if model.pool is not None:
        if model.engine_name not in POOLED:
            yield f"{path}.pool: {model.engine_name} models have processes of their own"
        for key in _POOLS_OWN:
            if getattr(model, key) != type(model).model_fields[key].get_default(call_default_factory=True):
                yield f"{path}.{key}: a model in a pool has none"
    for j, adapter in enumerate(model.adapters):
        if "echo" not in {variant.engine for variant in model.variants}:
            yield from _source_mistakes(f"{path}.adapters[{j}].path", adapter.path, sources.ADAPTER_FILE)
    for rank, variant in enumerate(model.variants):
        where = f"{path}.placements[{rank}]" if model.placements else path
        yield from _variant_mistakes(path, where, model, variant)


def _variant_mistakes(path: str, where: str, model: ModelConfig, variant: Variant) -> Iterator[str]:
    own = variant.placement
    if model.mode not in MODES[variant.engine]:
        yield f"{path}.mode: {variant.engine} does not serve {model.mode} models"
    if model.adapters and variant.engine not in ADAPTED:
        yield f"{path}.adapters: {variant.engine} serves none"
    if variant.engine == "echo" and variant.source is not None:
        yield f"{where if own.source else path}.source: the echo engine has no weights"
    if variant.engine != "echo":
        yield from _source_mistakes(f"{where if own.source else path}.source", variant.source)
    if own.device == "cpu" and own.num_gpus:
        yield f"{where}.num_gpus: a placement on the CPU has none"
    prefix = f"{path if own.engine_args is None else where}.engine_args"
    if _is_by_engine(_said_args(model, own)):
        prefix += f".{variant.engine}"
    for name, message in _engine_args_mistakes(variant, model.mode):
        yield f"{prefix}{'.' if name else ''}{name}: {message}"


def _engine_args_mistakes(variant: Variant, mode: Mode) -> list[tuple[str, str]]:
    if variant.engine == "vllm":
        return check_vllm_args(variant.engine_args, mode)
    kind: type[BaseModel] = MLXArgs if variant.engine == "mlx" else EchoArgs
    try:
        kind.model_validate(variant.engine_args)
    except ValidationError as error:
        return [(path_of(e["loc"]), e["msg"]) for e in error.errors()]
    return []


def _source_mistakes(path: str, source: str | None, file: str = sources.CONFIG_FILE) -> list[str]:
    if source is None:
        return [f"{path}: is missing"]
    try:
        sources.check(source, file)
    except ValueError as error:
        return [f"{path}: {error}"]
    return []
