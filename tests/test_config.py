"""Settings, and serve_config.yaml, which is their manual."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from deployments import config
from deployments.config import RESERVED_NAMES, ConfigError, ModelConfig, Placement, PoolConfig, Settings, parse
from deployments.engines.echo_args import EchoArgs
from deployments.residency import ResidencyPolicy
from deployments.usage.settings import TraceSettings, UsageSettings

ECHO = {"name": "a", "engine": "echo"}


def echo(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "engine": "echo", **more}


def mistakes(*models: Any, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse({"models": list(models), **more})
    return str(caught.value).splitlines()


# parse ---------------------------------------------------------------------------------------------------------------


def test_name_and_source_are_enough() -> None:
    (model,) = parse({"models": [{"name": "a", "source": "owner/name"}]}).models
    assert model == ModelConfig(name="a", source="owner/name")


def test_settings_survive_the_way_through_plain_data() -> None:
    """The ingress and the replicas get them as plain data."""
    settings = parse(
        {
            "models": [echo("a/b", aliases=["c"], placements=[{"ray_actor_options": {"num_gpus": 1}}])],
            "cache_dir": "~/x",
        }
    )
    plain = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert Settings.model_validate(plain) == settings
    assert ModelConfig.model_validate(plain["models"][0]) == settings.models[0]


def test_settings_are_frozen() -> None:
    settings = parse({"models": [ECHO]})
    with pytest.raises(ValidationError):
        settings.load_wait_s = 1
    with pytest.raises(ValidationError):
        settings.models[0].name = "b"


def test_requests_may_keep_a_model_for_ever_unless_a_bound_is_set() -> None:
    assert parse({"models": [ECHO]}).max_keep_alive_s is None
    assert parse({"models": [ECHO], "max_keep_alive_s": 0}).max_keep_alive_s == 0


def test_auto_is_mlx() -> None:
    assert ModelConfig(name="a").engine_name == "mlx"
    assert ModelConfig(name="a", engine="echo").engine_name == "echo"


def test_deployment_name_has_no_slash_and_names_begin_with_the_name() -> None:
    model = ModelConfig(name="Qwen/Qwen3-8B", aliases=("b", "c/d"))
    assert model.deployment_name == "Qwen--Qwen3-8B"
    assert model.names == ("Qwen/Qwen3-8B", "b", "c/d")


@pytest.mark.parametrize("name", ["a", "7b", "Qwen/Qwen3-8B", "a/b/c", "gpt-3.5-turbo", "a:7b", "a@main", "a+b_c"])
def test_name_is_allowed(name: str) -> None:
    assert parse({"models": [echo(name, aliases=[f"{name}2"])]}).models[0].name == name


@pytest.mark.parametrize("name", ["", "a b", "/a", "a/", "a//b", "-a", ".a", "a/.b", "ä", "a\n", "a?b", "a" * 201])
def test_name_is_refused_also_as_an_alias(name: str) -> None:
    (mistake,) = mistakes(echo(name), ECHO)
    assert mistake.startswith("models[0].name: ")
    (mistake,) = mistakes(ECHO, echo("b", aliases=["c", name]))
    assert mistake.startswith("models[1].aliases[1]: ")


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_word_is_refused_as_name_and_alias(name: str) -> None:
    assert mistakes(echo(name)) == [f"models[0].name: {name!r} is a reserved word"]
    assert mistakes(echo("a", aliases=[name])) == [f"models[0].aliases[0]: {name!r} is a reserved word"]


def test_words_of_the_management_routes_are_reserved() -> None:
    assert {"restart-autostart", "stop-all", "stream"} <= RESERVED_NAMES


@pytest.mark.parametrize(
    ("models", "mistake"),
    [
        pytest.param([echo("a"), echo("a")], "models[1].name: 'a' is already a name of models[0]", id="two names"),
        pytest.param(
            [echo("a"), echo("b"), echo("c", aliases=["x", "b"])],
            "models[2].aliases[1]: 'b' is already a name of models[1]",
            id="an alias and a name",
        ),
        pytest.param(
            [echo("a", aliases=["b"]), echo("b")],
            "models[1].name: 'b' is already a name of models[0]",
            id="a name and an alias",
        ),
        pytest.param(
            [echo("a", aliases=["a"])], "models[0].aliases[0]: 'a' is already a name of models[0]", id="its own name"
        ),
        pytest.param(
            [echo("a/b"), echo("a--b")],
            "models[1].name: 'a--b' is already a name of models[0]",
            id="the same for Serve",
        ),
        pytest.param(
            [echo("a--b"), echo("a/b")],
            "models[1].name: 'a/b' is already a name of models[0]",
            id="the same for Serve, the other way round",
        ),
    ],
)
def test_name_that_leads_to_two_models_is_refused(models: list[dict[str, Any]], mistake: str) -> None:
    assert mistakes(*models) == [mistake]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        pytest.param({"engine": "echo"}, "models[0].name", id="no name"),
        pytest.param(echo("a", colour="red"), "models[0].colour", id="unknown key"),
        pytest.param(echo("a", engine="tgi"), "models[0].engine", id="unknown engine"),
        pytest.param(echo("a", mode="poetry"), "models[0].mode", id="unknown mode"),
        pytest.param(echo("a", idle_timeout_s=-1), "models[0].idle_timeout_s", id="negative time"),
        pytest.param(echo("a", idle_timeout_s=float("inf")), "models[0].idle_timeout_s", id="endless time"),
        pytest.param(echo("a", idle_timeout_s=float("nan")), "models[0].idle_timeout_s", id="no number"),
        pytest.param(echo("a", memory_mb=0), "models[0].memory_mb", id="no memory"),
        pytest.param(echo("a", min_replicas=-1), "models[0].min_replicas", id="negative replicas"),
        pytest.param(echo("a", max_replicas=0), "models[0].max_replicas", id="no replicas"),
        pytest.param(echo("a", min_replicas=3, max_replicas=2), "models[0].min_replicas", id="min above max"),
        pytest.param(echo("a", target_ongoing_requests=0), "models[0].target_ongoing_requests", id="no requests"),
        pytest.param(echo("a", source="owner/name"), "models[0].source", id="echo with a source"),
        pytest.param(
            echo("a", placements=[{"gpus": 1}]), "models[0].placements[0].gpus", id="unknown key of a placement"
        ),
        pytest.param(
            echo("a", placements=[{}, {"engine": "mlx"}]), "models[0].source", id="source that only one placement needs"
        ),
        pytest.param(
            echo("a", placements=[{"engine": "mlx", "source": "no such"}]),
            "models[0].placements[0].source",
            id="source of a placement that cannot be",
        ),
        pytest.param(
            echo("a", placements=[{"engine_args": {"pace": 1}}]),
            "models[0].placements[0].engine_args.pace",
            id="bad engine argument of a placement",
        ),
        pytest.param(
            echo("a", placements=[{"device": "cpu", "num_gpus": 1}]),
            "models[0].placements[0].num_gpus",
            id="GPUs on the CPU",
        ),
        pytest.param(echo("a", mode="rerank"), "models[0].mode", id="mode that the engine does not serve"),
        pytest.param(
            {"name": "a", "engine": "mlx", "source": "o/a", "adapters": [{"name": "b", "path": "no such folder"}]},
            "models[0].adapters[0].path",
            id="adapter that cannot be",
        ),
        pytest.param(
            echo("a", adapters=[{"name": "a", "path": "o/b"}]),
            "models[0].adapters[0].name",
            id="adapter with its base's name",
        ),
        pytest.param(echo("a", cache={"max_mb": 1}), "models[0].cache.max_mb", id="memory of all models' answers"),
        pytest.param(echo("a", affinity="prefix"), "models[0].affinity", id="unknown affinity"),
        pytest.param(echo("a", pool="p", max_replicas=2), "models[0].max_replicas", id="replicas of a model in a pool"),
        pytest.param(
            {"name": "a", "engine": "vllm", "source": "o/a", "pool": "p"}, "models[0].pool", id="engine without pools"
        ),
        pytest.param({"name": "a"}, "models[0].source", id="no source"),
        pytest.param({"name": "a", "source": "no such folder"}, "models[0].source", id="source that cannot be"),
        pytest.param(echo("a", engine_args={"tokens": 0}), "models[0].engine_args.tokens", id="bad engine argument"),
        pytest.param(echo("a", engine_args={"pace": 1}), "models[0].engine_args.pace", id="unknown engine argument"),
        pytest.param(
            echo("a", engine_args={"echo": {"pace": 1}}),
            "models[0].engine_args.echo.pace",
            id="in an engine's arguments",
        ),
        pytest.param(
            echo("a", engine_args={"echo": 1}), "models[0].engine_args.echo", id="an engine's arguments: no map"
        ),
        pytest.param(
            {"name": "a", "source": "owner/name", "engine_args": {"tokens": 1}},
            "models[0].engine_args.tokens",
            id="another engine's argument",
        ),
        pytest.param(echo("a", placements=[{}, {"cpus": 1}]), "models[0].placements[1].cpus", id="in a placement"),
        pytest.param(7, "models[0]", id="a model that is a number"),
    ],
)
def test_mistake_in_a_model_carries_its_path(model: Any, path: str) -> None:
    (mistake,) = mistakes(model, echo("good"))
    assert mistake.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({}, "models"),
        ({"models": []}, "models"),
        ({"models": [ECHO], "load_wait_s": 0}, "load_wait_s"),
        ({"models": [ECHO], "request_timeout_s": 0}, "request_timeout_s"),
        ({"models": [ECHO], "max_body_mb": 0}, "max_body_mb"),
        ({"models": [ECHO], "max_keep_alive_s": -1}, "max_keep_alive_s"),
        ({"models": [ECHO], "max_keep_alive_s": float("inf")}, "max_keep_alive_s"),
        ({"models": [ECHO], "ingress_replicas": 0}, "ingress_replicas"),
        ({"models": [ECHO], "ingress_replicas_per_node": 0}, "ingress_replicas_per_node"),
        ({"models": [ECHO], "ingress_replicas_per_node": 101}, "ingress_replicas_per_node"),
        ({"models": [ECHO], "cache": {"ttl_s": 0}}, "cache.ttl_s"),
        ({"models": [ECHO], "cache": {"size": 1}}, "cache.size"),
        ({"models": [ECHO], "port": 1}, "port"),
        ([], "args"),
    ],
)
def test_mistake_in_the_settings_carries_its_path(args: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(args)
    (mistake,) = str(caught.value).splitlines()
    assert mistake.startswith(f"{path}: ")


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistakes({"name": "a"}, echo("a", min_replicas=9), echo("stream"))) == 4
    assert len(mistakes({"name": ""}, echo("a", mode="x"), ECHO, load_wait_s=0)) == 3


def test_mistake_in_the_only_model_is_told_once() -> None:
    assert len(mistakes(echo("a b"))) == 1


# serve_config.yaml ---------------------------------------------------------------------------------------------------

FILE = Path(__file__).parents[1] / "serve_config.yaml"


def test_mistakes_of_pools_carry_their_paths() -> None:
    pools = [{"name": "p"}, {"name": "p"}, {"name": "q", "placement": {"engine": "mlx"}}]
    models = [echo("a", pool="p"), {"name": "b", "engine": "mlx", "source": "o/b", "pool": "p"}, echo("pool--p")]
    with pytest.raises(ConfigError) as caught:
        parse({"models": models, "pools": pools})
    assert str(caught.value).splitlines() == [
        "models[2].name: 'pool--p' is already a name of a pool",
        "pools[1].name: 'p' is already a pool's name",
        "pools[2].name: no model has pool: q",
        "pools[2].placement: engine, source, engine_args and device are the models' own",
        "pools: the models of 'p' have several engines: echo, mlx",
    ]


def test_pool_that_nobody_describes_has_the_defaults() -> None:
    settings = parse(
        {"models": [echo("a", pool="p"), echo("b", pool="q"), echo("c", pool="p")], "pools": [{"name": "q"}]}
    )
    assert [pool.name for pool in settings.all_pools] == ["q", "p"]
    assert settings.all_pools[1] == PoolConfig(name="p")


def test_each_placement_is_a_variant_with_what_it_says_before_what_the_model_says() -> None:
    model = ModelConfig(
        name="org/m",
        engine="mlx",
        source="o/m",
        engine_args={"max_tokens": 7},
        placements=(Placement(engine="vllm", source="o/m-full", engine_args={}, num_gpus=1), Placement()),
    )
    told = [(v.deployment_name, v.engine, v.source, v.engine_args) for v in model.variants]
    assert told == [("org--m", "vllm", "o/m-full", {}), ("org--m~1", "mlx", "o/m", {"max_tokens": 7})]


def test_engine_args_of_each_engine_go_to_the_one_that_runs_the_model() -> None:
    args = {"mlx": {"max_tokens": 7}, "vllm": {"max_model_len": 8}}
    placements = (Placement(engine="vllm", num_gpus=1), Placement(), Placement(engine="echo"))
    model = ModelConfig(name="m", source="o/m", engine_args=args, placements=placements)
    assert [v.engine_args for v in model.variants] == [{"max_model_len": 8}, {"max_tokens": 7}, {}]


def test_auto_is_vllm_on_a_gpu_where_its_cuda_build_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(name="m", source="o/m")
    assert (model.engine_name, model.variants[0].placement.num_gpus) == ("mlx", None)
    monkeypatch.setattr(config, "auto_engine", lambda: "vllm")
    assert (model.engine_name, model.variants[0].placement.num_gpus) == ("vllm", 1)


EXAMPLES = {"name", "aliases", "source", "auto_start", "engine_args"}
"""Keys whose value in the file is an example and not the default."""
FIELDS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in (Settings, ModelConfig, UsageSettings, TraceSettings)
    for name in cls.model_fields
    if (cls, name) != (Settings, "models")
]


SECTIONS: dict[type[BaseModel], str] = {UsageSettings: "usage", TraceSettings: "traces"}
"""Parts of the settings that have a key of their own."""


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


@pytest.fixture(scope="module")
def application(data: dict[str, Any]) -> dict[str, Any]:
    (only,) = data["applications"]
    assert isinstance(only, dict)
    return only


def comment_above(key: str) -> str:
    """The comment over the line that sets the key: the last one, for the application has a name too."""
    lines = [line.strip().removeprefix("- ") for line in FILE.read_text().splitlines()]
    at = max(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    start = at
    while lines[start - 1].startswith("#"):
        start -= 1
    return " ".join(line.lstrip("# ") for line in lines[start:at])


def written_default(comment: str) -> Any:
    """What `Default …` in a comment says, as data; `none` is the empty list."""
    found = re.search(r"Default (\S+?)[.,:;]?(\s|$)", comment)
    assert found, f"no default in {comment!r}"
    return () if found[1] == "none" else yaml.safe_load(found[1])


def test_example_parses(application: dict[str, Any]) -> None:
    settings = parse(application["args"])
    assert settings.models[0].name == "smollm2-135m"


def test_example_serves_a_machine_with_gpus_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, application: dict[str, Any]
) -> None:
    monkeypatch.setattr(config, "auto_engine", lambda: "vllm")
    (model,) = parse(application["args"]).models
    assert [(variant.engine, variant.engine_args) for variant in model.variants] == [("vllm", {})]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Ray's own modules
def test_serve_takes_the_example(data: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(data).applications
    written = data["applications"][0]["autoscaling_policy"]["policy_kwargs"]
    assert application.autoscaling_policy["policy_kwargs"] == written


@pytest.mark.parametrize(("cls", "field"), FIELDS)
def test_every_key_is_in_the_example_under_a_comment(
    application: dict[str, Any], cls: type[BaseModel], field: str
) -> None:
    args = application["args"]
    sections = {Settings: args, ModelConfig: args["models"][0]} | {c: args[name] for c, name in SECTIONS.items()}
    assert field in sections[cls]
    assert len(comment_above(field)) > 20


@pytest.mark.parametrize(("cls", "field"), FIELDS)
def test_value_is_the_default_unless_it_is_an_example(
    application: dict[str, Any], cls: type[BaseModel], field: str
) -> None:
    settings = parse(application["args"])
    sections = {Settings: settings, ModelConfig: settings.models[0]}
    value = getattr(sections.get(cls) or getattr(settings, SECTIONS[cls]), field)
    default = cls.model_fields[field].get_default(call_default_factory=True)
    if field in EXAMPLES:
        assert value != default, "it shows the default: no need to list it as an example"
    else:
        assert value == default


@pytest.mark.parametrize(("cls", "field"), FIELDS)
def test_comment_names_the_default(cls: type[BaseModel], field: str) -> None:
    info = cls.model_fields[field]
    comment = comment_above(field)
    if info.is_required() or field == "source":
        assert "Required" in comment
        assert "Default" not in comment
        return
    default = info.get_default(call_default_factory=True)
    said = written_default(comment)
    if isinstance(default, Path):
        said = Path(said)
    if isinstance(default, tuple):
        said = tuple(said)
    if isinstance(default, BaseModel):
        said = type(default).model_validate(said)
    assert said == default


@pytest.mark.parametrize("field", ["engine", "mode"])
def test_comment_names_every_allowed_word(field: str) -> None:
    words = get_args(ModelConfig.model_fields[field].annotation)
    assert words
    allowed = comment_above(field).partition("Allowed:")[2]
    assert [word for word in words if word not in allowed] == []


def test_comment_of_the_name_lists_the_reserved_words() -> None:
    listed = comment_above("name").partition("Not allowed: ")[2].rstrip(".").split(", ")
    assert set(listed) == RESERVED_NAMES


def test_comment_of_engine_args_has_the_echo_engines_defaults() -> None:
    line = comment_above("engine_args").partition("echo: ")[2]
    said = {name: ast.literal_eval(value) for name, value in re.findall(r"(\w+) \((\S+?)\)", line)}
    assert said == EchoArgs().model_dump()


def test_address_is_serves_default_and_this_machine_only(data: dict[str, Any]) -> None:
    assert data["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert written_default(comment_above("port")) == 8000


def test_policy_of_the_example_is_built_with_its_default(
    application: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAX_CONCURRENT_MODELS", raising=False)
    policy = application["autoscaling_policy"]
    module, _, name = policy["policy_function"].partition(":")
    cls = getattr(importlib.import_module(module), name)
    assert cls is ResidencyPolicy
    assert cls(**policy["policy_kwargs"])({}) == ({}, {})
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    assert policy["policy_kwargs"] == defaults
    assert {name: written_default(comment_above(name)) for name in defaults} == defaults
