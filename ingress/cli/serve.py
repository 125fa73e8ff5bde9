"""`llm-manager serve`: starts a server here, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click

from ingress.cli import options

HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}


@click.command()
@options.config
@click.option("--host", help="Address to listen on, instead of the configuration's.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on, instead of the configuration's.")
@click.option("--haproxy", is_flag=True, help="Put HAProxy in front: more throughput, on all addresses. Linux only.")
def serve(config: str, host: str | None, port: int | None, haproxy: bool) -> None:
    """Starts a server with the models of CONFIG.

    The default of CONFIG is serve_config.yaml. Ctrl-C ends the server and everything that it started.
    """
    if haproxy and sys.platform != "linux":
        raise click.UsageError("Ray brings HAProxy on Linux only.")
    sys.stdout.flush()
    command = launch(config, host, port)
    os.execve(command[0], command, environment(os.environ, haproxy))


def launch(config: str, host: str | None, port: int | None) -> list[str]:
    given = {"--host": host, "--port": None if port is None else str(port)}
    changed = [word for name, value in given.items() if value is not None for word in (name, value)]
    return [sys.executable, "-u", "-m", "ingress.launch", *changed, "--", config]


def environment(given: Mapping[str, str], haproxy: bool) -> dict[str, str]:
    return {**given, **(HAPROXY if haproxy else {})}
