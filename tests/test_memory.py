"""Memory of the machine, of a container, and of a process with its children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments import memory
from deployments.memory import MB, Meter, machine, share

CHILD_MB = 64
CHILD = f"filled = bytearray(b'x') * {CHILD_MB * MB}; print(len(filled), flush=True); input()"


def cgroup(folder: Path, *, limit: str, used: int, cached: int | None = None) -> Path:
    """A cgroup's files; figures in MB."""
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used * MB}\n")
    lines = ["anon 5", *([] if cached is None else [f"inactive_file {cached * MB}"]), "slab 7"]
    (folder / "memory.stat").write_text("\n".join(lines) + "\n")
    return folder


def test_machine_without_a_cgroup_is_what_it_has(tmp_path: Path) -> None:
    seen = machine(tmp_path / "none")
    assert seen.total_mb == psutil.virtual_memory().total / MB
    assert 0 < seen.free_mb <= seen.total_mb


def test_limit_of_the_container_counts_and_its_file_cache_is_free(tmp_path: Path) -> None:
    seen = machine(cgroup(tmp_path, limit=str(40 * MB), used=30, cached=6))
    assert (seen.total_mb, seen.free_mb) == (40, 16)


def test_container_that_says_nothing_of_its_cache_has_none(tmp_path: Path) -> None:
    assert machine(cgroup(tmp_path, limit=str(40 * MB), used=30)).free_mb == 10


def test_container_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    assert machine(cgroup(tmp_path, limit=str(40 * MB), used=41)).free_mb == 0


@pytest.mark.parametrize("limit", ["max", str(2**60), "", "much"])
def test_limit_that_is_none_does_not_count(tmp_path: Path, limit: str) -> None:
    seen = machine(cgroup(tmp_path, limit=limit, used=30))
    assert seen.total_mb == psutil.virtual_memory().total / MB


@pytest.mark.parametrize("missing", ["memory.max", "memory.current", "memory.stat"])
def test_cgroup_without_all_of_its_files_does_not_count(tmp_path: Path, missing: str) -> None:
    folder = cgroup(tmp_path, limit=str(40 * MB), used=30)
    (folder / missing).unlink()
    assert machine(folder).total_mb == psutil.virtual_memory().total / MB


def test_free_memory_is_never_more_than_the_machine_has(tmp_path: Path) -> None:
    almost_all = psutil.virtual_memory().total - MB
    assert machine(cgroup(tmp_path, limit=str(almost_all), used=0)).free_mb < almost_all / MB


@pytest.mark.parametrize(("setting", "mb"), [(0, 0), (0.5, 500), (1, 1000), (1.5, 1.5), (700, 700), (2000, 2000)])
def test_setting_is_a_fraction_up_to_one_and_mb_above(setting: float, mb: float) -> None:
    assert share(setting, 1000) == mb


# Meter


class Device:
    def __init__(self, mb: float = 0) -> None:
        self.mb = mb

    def __call__(self) -> float:
        return self.mb


def test_meter_counts_the_process_and_its_device() -> None:
    device = Device()
    meter = Meter(device)
    own = meter.read()
    device.mb = 100_000
    assert 0 < own < 100_000 < meter.read()


def test_meter_counts_children_as_long_as_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_FAMILY_S", -1)  # children are looked for each time
    meter = Meter(Device())
    before = meter.read()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        child.stdout.readline()
        assert meter.read() > before + 0.9 * CHILD_MB
        monkeypatch.setattr(memory, "_FAMILY_S", 999)
        child.communicate("\n")
    assert meter.read() < before + 0.5 * CHILD_MB, "it is remembered and has ended"


def test_meter_keeps_the_peak() -> None:
    device = Device(100_000)
    meter = Meter(device)
    assert meter.peak_mb == 0
    high = meter.read()
    device.mb = 0
    assert meter.read() < high == meter.peak_mb
