"""`llm-manager version`."""

from __future__ import annotations

import click

from ingress.cli import options, output


@click.command()
@options.as_json
def version(as_json: bool) -> None:
    """Shows the version of this program."""
    from importlib import metadata

    number = metadata.version("llm-manager")
    output.print_json({"version": number}) if as_json else click.echo(f"llm-manager {number}")
