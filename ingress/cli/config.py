"""`llm-manager config`: whether a configuration is fit to be served."""

from __future__ import annotations

from pathlib import Path

import click

from ingress.cli import options, output


@click.group()
def config() -> None:
    """Looks at configurations."""


@config.command()
@options.config
@options.as_json
def check(config: str, as_json: bool) -> None:
    """Checks a configuration as the server does before it starts, and starts nothing.

    The default of CONFIG is serve_config.yaml. Each mistake is a line with its path; with any the exit status is 1.
    """
    from ingress import launch

    try:
        models = len(launch.checked(Path(config)).settings.models)
    except launch.MISTAKEN as error:
        mistakes = str(error).splitlines()
        if as_json:
            output.print_json({"valid": False, "mistakes": mistakes})
        else:
            for line in mistakes:
                click.echo(f"{config}: {line}", err=True)
        raise click.exceptions.Exit(1) from None
    if as_json:
        output.print_json({"valid": True, "mistakes": [], "models": models})
    else:
        click.echo(f"{config}: no mistakes; {models} model{'' if models == 1 else 's'}.")
