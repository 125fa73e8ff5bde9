from __future__ import annotations

import json

import pytest

from deployments.logs import lines
from deployments.logs.lines import MAX_LINE, Entry, entries, level_of, shown, whole


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("INFO 2026-11-22 17:45:32,812 six_m2 dt5uulks -- Model m2: up", "info"),
        ("ERROR 2026-11-22 17:45:32,812 six_m2 dt5uulks -- no", "error"),
        ("(MainProcess pid=23742) WARNING 11-22 17:56:15 [serving.py:167] `V` is on", "warning"),
        ("(EngineCore_DP0 pid=7) ERROR 11-22 17:56:15 [core.py:1] no", "error"),
        ("DEBUG 11-22 17:56:14 [hf.py:648] seen", "debug"),
        ("WARNING:root:careful", "warning"),
        ("CRITICAL:root:bad", "critical"),
        ("INFO:     Started server process [7]", "info"),
        ("[ERROR] no", "error"),
        ("[warning] hm", "warning"),
        ("2026-11-22 10:00:00,123 - mlx_lm.server - WARNING - hm", "warning"),
        ("2026-11-22 10:00:00,123 ERROR hm", "error"),
        ("2026-11-22 10:00:00,123\tWARNING a.py:85 -- hm", "warning"),
        ("[2026-11-22 10:00:00,123 E 7 7] core_worker.cc:1: no", "error"),
        ("E1122 10:00:00.123 file.cc:1] no", "error"),
        ("Traceback (most recent call last):", "error"),
        ("ValueError: x", "error"),
        ("torch.OutOfMemoryError: CUDA out of memory", "error"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "error"),
        ("Fatal Python error: Aborted", "error"),
        ("hello", "info"),
        ("Information about errors: none", "info"),
        ("Infos", "info"),
    ],
)
def test_level_is_read_from_the_line(line: str, level: str) -> None:
    assert level_of(line) == level


def test_lines_of_a_trace_have_its_level() -> None:
    raw = b'Traceback (most recent call last):\n  File "a.py", line 1\n    f()\nValueError: x\nback\n'
    assert [entry.level for entry in entries(raw, "r", 1.0)] == ["error"] * 4 + ["info"]


def test_level_goes_on_from_what_was_read_before() -> None:
    assert [entry.level for entry in entries(b"  more\nnext\n", "r", 1.0, "error")] == ["error", "info"]


def test_entries_are_lines_without_what_is_empty_or_rays() -> None:
    raw = b":job_id:01000000\n:actor_name:X\none\n\n \xe4\xbd\xa0\xe5\xa5\xbd \xff\nthree"
    assert [entry.message for entry in entries(raw, "r", 1.0)] == ["one", " 你好 \ufffd", "three"]


def test_entry_is_one_line_of_json() -> None:
    entry = Entry(1.5, "info", 'a "quoted"\n\r\u2028 line', "r")
    assert b"\n" not in entry.encode()
    assert b"\r" not in entry.encode()
    assert json.loads(entry.encode()) == {
        "timestamp": 1.5,
        "level": "info",
        "message": 'a "quoted"\n\r\u2028 line',
        "replica": "r",
    }


def test_progress_bar_is_its_last_state() -> None:
    assert shown(" 1%\r 50%\r100% done\n") == "100% done"
    assert shown("INFO ok\r") == "INFO ok"


def test_line_keeps_its_colours_and_nothing_else_that_moves_a_cursor() -> None:
    [entry] = entries(b"\x1b[2K\x1b[33mWARNING:\x1b[0m hot\x1b[1A\n", "r", 1.0)
    assert (entry.level, entry.message) == ("warning", "\x1b[33mWARNING:\x1b[0m hot")


def test_colours_hide_no_secret() -> None:
    raw = b"\x1b[32mINFO:\x1b[0m ok\nAuthor\x1b[1mization: abcdefghijkl\n"
    assert [entry.message for entry in entries(raw, "r", 1.0)] == ["\x1b[32mINFO:\x1b[0m ok", "Authorization: ***"]


def test_secret_is_no_part_of_an_entry() -> None:
    [entry] = entries(b"Authorization: Bearer abcdefghijkl\n", "r", 1.0)
    assert "abcdefghijkl" not in entry.message


def test_line_that_is_not_whole_waits() -> None:
    assert whole(b"one\ntwo", end=False) == 4
    assert whole(b"one", end=False) == 0
    assert whole(b"one\ntwo", end=True) == 7


def test_long_line_is_cut_between_words() -> None:
    raw = b"x" * (MAX_LINE - 10) + b" " + b"y" * 100
    assert raw[: whole(raw, end=False)] == b"x" * (MAX_LINE - 10) + b" "
    assert whole(b"x" * (MAX_LINE + 5), end=False) == MAX_LINE


def test_line_of_any_length_is_several_entries_and_whole() -> None:
    found = entries(b"x" * (2 * MAX_LINE + 1) + b"\n", "r", 1.0)
    assert "".join(entry.message for entry in found) == "x" * (2 * MAX_LINE + 1)
    assert max(len(entry.message) for entry in found) == lines.MAX_LINE
