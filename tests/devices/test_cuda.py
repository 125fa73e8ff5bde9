"""NVIDIA's GPUs, through pynvml and a library of the same ABI that it finds where it looks for the driver's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

READ = "from deployments.devices import cuda; print(cuda.read())"
COUNT = "from deployments.devices import cuda; print(cuda.count())"
LOST = "Failed(error='GPU is lost')"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it is in."""
    gcc = shutil.which("gcc")
    if gcc is None or sys.platform != "linux":
        pytest.skip("needs gcc, on Linux")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([gcc, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def run(code: str, library: Path, behaviour: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own: the loader looks for libraries where it was told to when it began."""
    env = {**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": behaviour, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)


def gpu(power: str) -> str:
    memory = "Memory(total_mb=24576.0, free_mb=16384.0)"
    return f"Gpu(name='NVIDIA Stand-In', memory={memory}, utilization=42.0, temperature=61.0, power={power})"


def test_each_gpu_is_read_and_one_that_fails_or_lacks_a_sensor_spoils_nothing(library: Path) -> None:
    told = run(READ, library)
    assert told.stdout.strip() == f"({gpu('123.456')}, {LOST}, {gpu('None')})", told.stderr


def test_gpus_are_counted(library: Path) -> None:
    assert run(COUNT, library).stdout.strip() == "3"


def test_driver_that_does_not_work_is_an_error_and_not_an_absence(library: Path) -> None:
    told = run(READ, library, "no driver")
    assert "Driver Not Loaded" in told.stderr
    assert told.stdout == ""


def test_machine_without_a_driver_has_no_gpus(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert run(READ, tmp_path).stdout.strip() == "None"
