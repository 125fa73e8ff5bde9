"""All that is checked of a set of objects before it meets a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.k8s import kinds, kuberay, references, serve_config, shape
from tests.k8s.objects import EXAMPLES, Object, of_kind, read, title

SECRETS = [one for path in EXAMPLES for one in read(path.read_text()) if one["kind"] == "Secret"]


def mistakes(objects: list[Object]) -> list[str]:
    """The first kind of check that finds any: the later ones rely on the earlier."""
    for check in (_kinds, _names, _clusters, _shape):
        if found := list(check(objects)):
            return found
    return []


def _kinds(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        yield from kinds.mistakes(one)


def _names(objects: list[Object]) -> Iterator[str]:
    counts = Counter(title(one) for one in objects)
    yield from (f"{name}: is there twice" for name, n in counts.items() if n > 1)
    yield from references.mistakes(objects, SECRETS)


def _clusters(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "RayService"):
        yield from kuberay.mistakes(one)
    yield from (f"serveConfigV2: {text}" for text in serve_config.mistakes(serve_config.of(objects)))


def _shape(objects: list[Object]) -> Iterator[str]:
    settings = serve_config.settings_of(objects)
    yield from shape.mistakes(objects, settings)
    (keys,) = [one["stringData"] for one in SECRETS if one["metadata"]["name"] == shape.KEYS]
    for key in settings.keys:
        if key.key_env is not None and key.key_env not in keys:
            yield f"keys: {key.name}: the secret {shape.KEYS} has no {key.key_env}"
