from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.logs import tail
from deployments.logs.tail import READ_MAX, Tail, own_files, read
from tests.logs.sources import messages, source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.out"
    path.write_bytes(b"")
    return path


def test_lines_are_read_again_until_they_are_confirmed(file: Path) -> None:
    one = Tail(str(file), 0)
    file.write_bytes(b"a\nb\n")
    for _ in range(2):
        span, found = one.read("r")
        assert [entry.message for entry in found] == ["a", "b"]
    one.confirm(span.end)
    assert one.read("r")[1] == []


def test_line_that_is_not_whole_waits_for_its_end_or_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Tail(str(file), 0)
    file.write_bytes(b"a\nhal")
    span, _ = one.read("r")
    one.confirm(span.end)
    assert one.read("r")[1] == []
    assert [entry.message for entry in one.read("r", end=True)[1]] == ["hal"]
    monkeypatch.setattr(tail, "PARTIAL_S", -1)
    assert [entry.message for entry in one.read("r")[1]] == ["hal"]


def test_trace_keeps_its_level_over_two_readings(file: Path) -> None:
    one = Tail(str(file), 0)
    file.write_bytes(b"Traceback (most recent call last):\n")
    seen = read([one], source())
    one.confirm(seen.batch.files[one.path].end, seen.levels[one.path])
    with file.open("ab") as more:
        more.write(b"  File x\n")
    assert [entry.level for entry in one.read("r")[1]] == ["error"]


def test_much_is_read_piece_by_piece(file: Path) -> None:
    wanted = [f"line {i}" for i in range(30_000)]
    file.write_text("\n".join(wanted) + "\n")
    one, found = Tail(str(file), 0), []
    while True:
        span, entries = one.read("r")
        if span.empty:
            break
        assert span.end - span.start <= READ_MAX
        found += [entry.message for entry in entries]
        one.confirm(span.end)
    assert found == wanted


def test_file_that_is_gone_says_nothing(tmp_path: Path) -> None:
    span, found = Tail(str(tmp_path / "gone"), 7).read("r")
    assert (span.start, span.end, found) == (7, 7, [])


def test_files_are_read_together(tmp_path: Path) -> None:
    paths = [tmp_path / "out", tmp_path / "err"]
    for path in paths:
        path.write_text(f"from {path.name}\n")
    batch = read([Tail(str(path), 0) for path in paths], source()).batch
    assert messages(batch.body) == ["from out", "from err"]
    assert batch.count == 2


PROBE = "from deployments.logs.tail import own_files; import sys; sys.__stdout__.write(repr(own_files()))"


def test_own_files_are_what_the_process_prints_to(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        subprocess.run([sys.executable, "-c", PROBE], stdout=stdout, stderr=stderr, check=True)
    assert out.read_text() == repr([str(out), str(err)])


def test_pipes_are_no_files() -> None:
    told = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True, text=True)
    assert told.stdout == "[]"


def test_one_file_for_both_is_read_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("ab") as both:
        subprocess.run([sys.executable, "-c", PROBE], stdout=both, stderr=both, check=True)
    assert out.read_text() == repr([str(out)])


def test_files_of_the_tests_are_paths() -> None:
    assert all(Path(path).is_absolute() for path in own_files())
