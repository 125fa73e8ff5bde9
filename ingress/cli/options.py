"""Arguments and options that commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from ingress.cli.client import Client, is_url
from ingress.cli.completion import complete_model

URL = "LLM_MANAGER_URL"
KEY = "LLM_MANAGER_KEY"
DEFAULT_URL = "http://localhost:8000"
CONFIG = "serve_config.yaml"

P = ParamSpec("P")
R = TypeVar("R")


def server(command: Callable[Concatenate[Client, P], R]) -> Callable[..., R]:
    """Adds --url. The command's first argument is a client of that server."""

    @click.option(
        "--url",
        envvar=URL,
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        callback=_url,
        is_eager=True,
        help="The server; a path prefix may follow.",
    )
    @functools.wraps(command)
    def asking(*args: Any, **kwargs: Any) -> R:
        return command(Client(kwargs.pop("url"), key()), *args, **kwargs)

    return asking


as_json = click.option("--json", "as_json", is_flag=True, help="The API's own JSON; of a stream, a line an event.")
model = click.argument("model", shell_complete=complete_model)
models = click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=complete_model)
config = click.argument("config", metavar="[CONFIG]", default=CONFIG, type=click.Path(exists=True, dir_okay=False))


def key() -> str | None:
    """Never an argument: process lists show those. Raises: click.UsageError."""
    given = os.environ.get(KEY, "").strip()
    if not (given.isascii() and given.isprintable()):
        raise click.UsageError(f"{KEY} holds what no key has.")
    return given or None


def _url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not is_url(value) and not context.resilient_parsing:
        raise click.BadParameter(f"{value!r} is not http://HOST[:PORT][/PREFIX].", context, parameter)
    return value
