"""What kustomize makes of each overlay."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest

from tests.k8s.objects import OVERLAYS, Object, built, kubectl


@cache
def _built(folder: Path) -> list[Object]:
    return built(folder)


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def overlay(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


@pytest.fixture
def objects(overlay: Path) -> list[Object]:
    """The caller's own."""
    return copy.deepcopy(_of(overlay))


@pytest.fixture
def cuda() -> list[Object]:
    """The overlay that has everything. The caller's own."""
    (folder,) = [path for path in OVERLAYS if path.name == "cuda"]
    return copy.deepcopy(_of(folder))


def _of(folder: Path) -> list[Object]:
    if kubectl() is None:
        pytest.skip("there is no kubectl, which the dev extra brings for Linux on x86-64")
    return _built(folder)
