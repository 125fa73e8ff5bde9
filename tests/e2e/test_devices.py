"""The devices of a real cluster, whose second node joins, is killed, and spoils nothing."""

from __future__ import annotations

import os
import time
from typing import Any

import httpx
import psutil

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("devices",)

BOUND_S = 5.0


def info(serving: Serving) -> dict[str, Any]:
    began = time.monotonic()
    answer = httpx.get(f"{serving.url}/devices/api/devices/info", timeout=30)
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < BOUND_S
    told: dict[str, Any] = answer.json()
    return told


def wait_until_online(serving: Serving, count: int) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        told = info(serving)
        return told if sum(node["online"] for node in told["nodes"]) == count else {}

    return wait_for(f"{count} nodes are online", look, 90)


def raylet_of(node: psutil.Process) -> psutil.Process:
    return next(process for process in node.children(recursive=True) if process.name() == "raylet")


def test_one_machine_is_told_at_once(serving: Serving) -> None:
    told = info(serving)
    assert told["success"] is True
    assert told["devices"]["cpu"]["online"] is True
    cpu = told["devices"]["cpu"]["info"]
    assert cpu["cpu_count"] == os.cpu_count()
    assert cpu["memory_total"] == cpu["memory_used"] + cpu["memory_free"] > 0
    (node,) = [node for node in told["nodes"] if node["online"]]
    assert node["head"] is True
    assert node["devices"]["cpu"]["info"]["memory_total"] == cpu["memory_total"]


def test_second_node_counts_until_it_is_killed(serving: Serving) -> None:
    with serving.joined({"devices": 1}) as process:
        told = wait_until_online(serving, 2)
        (second,) = [node for node in told["nodes"] if node["online"] and not node["head"]]
        assert told["devices"]["cpu"]["info"]["cpu_count"] == 2 * (os.cpu_count() or 1)
        raylet_of(process).kill()
        told = wait_until_online(serving, 1)
        (gone,) = [node for node in told["nodes"] if node["node_id"] == second["node_id"]]
        assert gone["error"]
        assert told["devices"]["cpu"]["info"]["cpu_count"] == os.cpu_count()
        wait_for(
            "its death is told",
            lambda: any(node.get("error", "").startswith("The node is dead") for node in info(serving)["nodes"]),
            60,
        )
