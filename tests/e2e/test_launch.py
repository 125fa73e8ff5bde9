"""`make serve`'s program, as a person meets it: it tells, it refuses clearly, it leaves nothing behind."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from tests.e2e.serving import Serving, application, wait_for

LAUNCH = (sys.executable, "-u", "-m", "ingress.launch")


def echo(folder: Path, **model: object) -> Serving:
    models = [{"name": "parrot", "engine": "echo", "auto_start": True, **model}]
    return Serving(folder, [application("llm-manager", "/", models, cap=1)])


def test_start_to_finish(tmp_path: Path) -> None:
    server = echo(tmp_path)
    server.start(LAUNCH)
    try:
        wait_for("ready", lambda: "is ready at" in server.log.read_text(), 120)
        told = server.log.read_text()
        assert "parrot: running" in told
        (curl,) = re.findall(r"^curl .*$", told, re.MULTILINE)
        answer = subprocess.run(shlex.split(curl), capture_output=True, text=True, check=True).stdout
        assert "capital of France" in answer  # it is an echo
        server.interrupt()
        assert server.wait_ended(60) == 0
        assert server.left_behind() == []
        with socket.create_server(("127.0.0.1", server.port)):
            pass
    finally:
        server.stop()


def test_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    server = echo(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)):
        server.start(LAUNCH)
        assert server.wait_ended(30) == 1
    (line,) = server.log.read_text().splitlines()
    assert line.startswith(f"Port {server.port} on 127.0.0.1 is taken")


def test_mistakes_are_told_with_their_place_before_anything_starts(tmp_path: Path) -> None:
    server = echo(tmp_path, aliases=["stop-all"], colour="red")
    server.start(LAUNCH)
    assert server.wait_ended(30) == 2
    assert "models[0].colour: " in server.log.read_text()
    data = yaml.safe_load(server.config.read_text())
    del data["applications"][0]["args"]["models"][0]["colour"]
    server.config.write_text(yaml.safe_dump(data))
    server.start(LAUNCH)
    assert server.wait_ended(30) == 2
    assert server.log.read_text().strip().endswith("models[0].aliases[0]: 'stop-all' is a reserved word")
