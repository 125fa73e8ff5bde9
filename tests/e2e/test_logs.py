"""Logs of models whose processes print, stop, and are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("logs",)

APPLICATION = "logs"
END = {"type": "stream_end"}
COMPLETE = {"type": "historical_complete"}


class Listener:
    """Listens in a thread until the stream ends."""

    def __init__(self, url: str, model: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._url = f"{url}/api/models/{model}/logs/stream"
        self._closed = False
        threading.Thread(target=self._listen, daemon=True).start()

    def messages(self, kind: str = "") -> list[str]:
        return [e["log"]["message"] for e in self.events[:] if "log" in e and kind in ("", e["type"])]

    def wait_for(self, message: str, deadline_s: float = 20) -> None:
        wait_for(message, lambda: any(message in one for one in self.messages()), deadline_s)

    def close(self) -> None:
        self._closed = True

    def _listen(self) -> None:
        try:
            with httpx.stream("GET", self._url, timeout=60) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(json.loads(line[6:]))
                    if self._closed:
                        return
        except httpx.HTTPError as error:
            self.events.append({"type": "torn", "message": repr(error)})
        finally:
            self.ended.set()


@pytest.fixture
def url(serving: Serving) -> str:
    return f"{serving.url}/logs"


def start(url: str, model: str) -> httpx.Response:
    return httpx.post(f"{url}/api/models/{model}/start", timeout=120)


def stop(url: str, model: str) -> None:
    httpx.post(f"{url}/api/models/{model}/stop", timeout=60).raise_for_status()


def history(url: str, model: str) -> Listener:
    """Of a model that is stopped."""
    listener = Listener(url, model)
    assert listener.ended.wait(30)
    return listener


def printer(process: psutil.Process) -> Callable[[str], None]:
    """Prints as the process does, also when it is dead."""
    path = os.readlink(f"/proc/{process.pid}/fd/1")

    def say(text: str) -> None:
        with open(path, "ab", buffering=0) as file:
            file.write(text.encode())

    return say


def running(serving: Serving, deployment: str = "org--echo") -> list[psutil.Process]:
    return wait_for("its process", lambda: serving.replicas(APPLICATION, deployment), 30)


def test_log_is_history_then_what_comes_then_the_end_with_the_model(serving: Serving, url: str) -> None:
    start(url, "org/echo").raise_for_status()
    first = Listener(url, "org/echo")
    first.wait_for("Model org/echo: up")
    [process] = running(serving)
    printer(process)("WARNING:root:hello to poet\n")
    first.wait_for("hello to poet")
    second = Listener(url, "poet")
    second.wait_for("hello to poet")
    stop(url, "org/echo")
    for listener in (first, second):
        assert listener.ended.wait(20)
        assert listener.events[-1] == END
        assert listener.events.count(COMPLETE) == 1
    assert "WARNING:root:hello to poet" in first.messages("realtime")
    assert "WARNING:root:hello to poet" in second.messages("historical")
    assert history(url, "parrot").messages() == first.messages()
    [line] = [e["log"] for e in first.events if "log" in e and "hello" in e["log"]["message"]]
    assert line["level"] == "warning"
    assert line["replica"]


def test_failed_load_says_why(url: str) -> None:
    assert start(url, "broken").status_code == 503
    listener = history(url, "broken")
    assert listener.events[-1] == END
    trace = [e["log"] for e in listener.events if "log" in e and e["log"]["level"] == "error"]
    assert any("could not be loaded" in line["message"] for line in trace)
    assert len(trace) > 3


def test_killed_replicas_last_words_are_collected(serving: Serving, url: str) -> None:
    start(url, "org/echo").raise_for_status()
    [process] = running(serving)
    say = printer(process)
    process.kill()
    say("terminate called after throwing\nlast words")
    listener = Listener(url, "org/echo")
    listener.wait_for("last words", 30)
    listener.wait_for("is gone without having said so")
    listener.close()
    stop(url, "org/echo")
    assert history(url, "org/echo").messages().count("last words") == 1


def test_last_words_on_another_node_are_collected_there(serving: Serving, url: str) -> None:
    with serving.joined({"far": 1}) as node:
        start(url, "far").raise_for_status()
        replica = "ray::ServeReplica:logs:far"
        [process] = [p for p in node.children(recursive=True) if p.cmdline()[0].startswith(replica)]
        say = printer(process)
        listener = Listener(url, "far")
        listener.wait_for("Model far: up")
        process.kill()
        say("last words\n")
        listener.wait_for("last words", 60)
        listener.wait_for("is gone without having said so")
        stop(url, "far")
        assert listener.ended.wait(30)
        assert listener.messages().count("last words") == 1


def test_every_line_comes_once_though_the_keeper_is_killed(serving: Serving, url: str) -> None:
    start(url, "org/echo").raise_for_status()
    [process] = running(serving)
    say = printer(process)
    say("before\n")
    listener = Listener(url, "org/echo")
    listener.wait_for("before")
    [keeper] = serving.replicas(APPLICATION, "Keeper")
    for number in range(100):
        say("".join(f"line {number}.{i}\n" for i in range(100)))
        if number == 50:
            keeper.kill()
    assert listener.ended.wait(20)
    assert listener.events[-1]["type"] == "error"
    after = Listener(url, "org/echo")
    after.wait_for("line 99.99", 60)
    lines = [message for message in after.messages() if message.startswith("line ")]
    assert lines == [f"line {number}.{i}" for number in range(100) for i in range(100)]
    after.close()
    stop(url, "org/echo")
    assert "before" in history(url, "org/echo").messages()


def test_readers_at_full_speed_miss_nothing(serving: Serving, url: str) -> None:
    start(url, "org/echo").raise_for_status()
    [process] = running(serving)
    say = printer(process)
    listeners = []
    for number in range(200):
        say("".join(f"fast {number}.{i}\n" for i in range(100)))
        if number % 50 == 25:
            listeners.append(Listener(url, "org/echo"))
    wanted = [f"fast {number}.{i}" for number in range(200) for i in range(100)]
    for listener in listeners:
        listener.wait_for("fast 199.99", 60)
        assert [message for message in listener.messages() if message.startswith("fast ")] == wanted
        assert listener.events.count(COMPLETE) == 1
    stop(url, "org/echo")
    assert all(listener.ended.wait(20) for listener in listeners)


def test_replicas_of_a_model_share_its_log(serving: Serving, url: str) -> None:
    start(url, "twins").raise_for_status()
    wait_for("both replicas", lambda: len(serving.replicas(APPLICATION, "twins")) == 2, 60)
    listener = Listener(url, "twins")
    wait_for("both are up", lambda: sum("twins: up" in m for m in listener.messages()) == 2, 60)
    for process in running(serving, "twins"):
        printer(process)(f"I am {process.pid}\n")
        listener.wait_for(f"I am {process.pid}")
    said = [e["log"] for e in listener.events if "log" in e and e["log"]["message"].startswith("I am")]
    assert len({line["replica"] for line in said}) == 2
    stop(url, "twins")


def test_log_is_counted_and_cleared(serving: Serving, url: str) -> None:
    start(url, "org/echo").raise_for_status()
    listener = Listener(url, "org/echo")
    listener.wait_for("up;")
    stats = httpx.get(f"{url}/api/logs/stats").json()["stats"]
    assert stats["total_models"] == 5
    assert stats["model_stats"]["org/echo"]["log_count"] > 0
    assert stats["model_stats"]["org/echo"]["subscriber_count"] == 1
    assert stats["total_subscribers"] == 1
    stop(url, "org/echo")
    assert listener.ended.wait(20)
    kept = httpx.post(f"{url}/api/logs/org/echo/clear?keep_minutes=60").json()
    assert kept["deleted"] == 0
    cleared = httpx.post(f"{url}/api/logs/parrot/clear").json()
    assert cleared["deleted"] >= stats["model_stats"]["org/echo"]["log_count"]
    assert history(url, "org/echo").events == [COMPLETE, END]


@pytest.mark.parametrize("minutes", ["-1", "x", "nan", "inf"])
def test_clear_needs_a_number(url: str, minutes: str) -> None:
    answer = httpx.post(f"{url}/api/logs/org/echo/clear?keep_minutes={minutes}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keep_minutes")


def test_unknown_model_has_no_log(url: str) -> None:
    assert httpx.get(f"{url}/api/models/nobody/logs/stream").status_code == 404
    assert httpx.post(f"{url}/api/logs/nobody/clear").status_code == 404


MANUAL = """
import { EventSource } from 'eventsource';
const eventSource = new EventSource(process.argv[2]);
eventSource.onmessage = function(event) {
    const data = JSON.parse(event.data);
    if (data.type === 'stream_end') eventSource.close();
    if (!data.log) return;
    const timestamp = new Date(data.log.timestamp * 1000).toLocaleTimeString();
    console.log(`[${timestamp}] ${data.log.message}`);
};
"""


def test_manuals_browser_client_reads_it(url: str, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node is not installed")
    install = subprocess.run([npm, "install", "--prefix", tmp_path, "eventsource@4"], capture_output=True, text=True)
    if install.returncode:
        pytest.skip(f"npm cannot install eventsource: {install.stderr[-200:]}")
    start(url, "org/echo").raise_for_status()
    stop(url, "org/echo")
    script = tmp_path / "monitor.mjs"
    script.write_text(MANUAL)
    told = subprocess.run(
        [node, script, f"{url}/api/models/org/echo/logs/stream"], capture_output=True, text=True, timeout=30
    )
    assert told.returncode == 0, told.stderr
    assert "] INFO" in told.stdout
    assert "Model org/echo: up" in told.stdout
