"""Kubernetes' objects as plain data: how they are made, and what is in them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
K8S = PROJECT / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
EXAMPLES = sorted(K8S.glob("examples/*.yaml"))
Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod as somebody makes it. where: a path for messages. claims: volumes that come with it, by name."""

    where: str
    labels: Mapping[str, str]
    spec: Object
    claims: tuple[str, ...] = ()

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", ())}


def kubectl() -> str | None:
    """The environment's own first."""
    beside = Path(sys.executable).with_name("kubectl")
    return str(beside) if beside.exists() else shutil.which("kubectl")


def built(folder: Path) -> list[Object]:
    """What `kubectl apply -k` would send."""
    program = kubectl()
    assert program is not None
    done = subprocess.run([program, "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def read(text: str) -> list[Object]:
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one is not None]


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def the(objects: Iterable[Object], kind: str, name: str | None = None) -> Object:
    """name: None if there is one of the kind."""
    (found,) = [one for one in of_kind(objects, kind) if name in (None, one["metadata"]["name"])]
    return found


def title(one: Object) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def pods(objects: Iterable[Object]) -> Iterator[Pod]:
    for one in objects:
        if one["kind"] == "StatefulSet":
            claims = tuple(claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ()))
            yield _pod(title(one), one["spec"]["template"], claims)
        elif one["kind"] == "RayService":
            for where, group in groups(one):
                yield _pod(f"{title(one)} {where}", group["template"])


def groups(rayservice: Object) -> Iterator[tuple[str, Object]]:
    """The head's and the workers', each with what it is called."""
    cluster = rayservice["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", ()):
        yield group["groupName"], group


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """As Kubernetes' selectors do, those of Services too."""
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        selector = {"matchLabels": selector}
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_expressed(one, labels) for one in selector.get("matchExpressions", ()))


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in it, with its path."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from walk(inner, f"{path}[{i}]")


def _expressed(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    operator: str = expression["operator"]
    values: list[str | None] = expression.get("values", [])
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator not in ("Exists", "DoesNotExist"):
        raise ValueError(f"{operator!r} is no operator")
    return (value is not None) == (operator == "Exists")


def _pod(where: str, template: Object, claims: tuple[str, ...] = ()) -> Pod:
    return Pod(where, template.get("metadata", {}).get("labels", {}), template["spec"], claims)
