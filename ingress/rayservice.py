"""What a RayService of KubeRay deploys: serve_config.yaml, with what all clusters and this one have otherwise.

Usage, in the project's folder: python -m ingress.rayservice k8s/overlays/NAME…
Reads models.yaml there and writes serve-config.yaml beside it.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deployments import config

NAME = "llm-manager"
COMMON = ("serve_config.yaml", "k8s/settings.yaml")
"""What every cluster has, the later file over the earlier one."""
OWN = "models.yaml"
MADE = "serve-config.yaml"

_HEAD = """\
# Made by `make manifests` from {files}: edit those.
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: {name}
spec:
  serveConfigV2: |
"""


def main(arguments: list[str]) -> int:
    try:
        made = {Path(folder) / MADE: patch(Path.cwd(), Path(folder)) for folder in arguments}
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(error, file=sys.stderr)
        return 2
    for path, text in made.items():
        path.write_text(text)
    return 0


def patch(project: Path, overlay: Path) -> str:
    """The overlay's patch of the RayService, as YAML.

    Raises: OSError, yaml.YAMLError; ValueError with every mistake.
    """
    own = overlay / OWN
    layers = [_read(project / name) for name in COMMON] + [_read(project / own)]
    merged = layers[0]
    for layer in layers[1:]:
        merged = over(merged, layer)
    try:
        (application,) = merged["applications"]
        config.parse(application["args"])
    except ValueError as error:
        raise ValueError(f"{own}: {error}") from None
    text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)
    files = f"{', '.join(COMMON)} and {OWN}"
    return _HEAD.format(files=files, name=NAME) + textwrap.indent(text, "    ")


def over(base: Any, change: Any) -> Any:
    """The change laid over the base: objects are merged, and applications, by name; all else is replaced."""
    if isinstance(base, Mapping) and isinstance(change, Mapping):
        merged = {key: over(value, change[key]) if key in change else value for key, value in base.items()}
        for key, value in change.items():
            merged.setdefault(key, value)
        if "applications" in base and "applications" in change:
            merged["applications"] = _applications(base["applications"], change["applications"])
        return merged
    return change


def _applications(base: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> list[Any]:
    known = {application["name"] for application in base}
    for change in changes:
        if change["name"] not in known:
            raise ValueError(f"applications: {change['name']!r} is none of {', '.join(sorted(known))}")
    by_name = {change["name"]: change for change in changes}
    return [over(application, by_name.get(application["name"], {})) for application in base]


def _read(path: Path) -> dict[str, Any]:
    data = yaml.safe_load(path.read_text())
    if not isinstance(data, dict):
        raise ValueError(f"{path}: must be an object")
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
