from __future__ import annotations

import json

from deployments.devices import cluster
from deployments.devices.cluster import Node
from deployments.devices.reading import Cpu, Failed, Gpu, Machine
from deployments.memory import Memory
from tests.cli.conftest import Run
from tests.cli.server import Server

CPU = Cpu(count=2, memory=Memory(2048.0, 1024.0), load=1.0, utilization=37.4)
GPU = Gpu(name="H100", memory=Memory(81920.0, 40960.0), temperature=41.0, utilization=12.0, power=99.7)
NODES = [
    Node("1", "10.0.0.1", "head", True, Machine(cpu=CPU, cuda=(GPU, Failed("lost")), mlx=None)),
    Node("2", "10.0.0.2", "mac", False, Failed("No answer within 3 s.")),
]
ANSWER = {"success": True, "devices": cluster.devices(NODES), "nodes": [cluster.node(node) for node in NODES]}


def test_devices_of_every_node_are_shown(cli: Run, server: Server) -> None:
    server.says("GET /api/devices/info", ANSWER)
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in cli("devices").lines]
    assert rows[0] == ["NODE", "DEVICE", "NAME", "USED", "MEMORY", "BUSY", "HEAT", "POWER"]
    assert sorted(rows[1:-1]) == [
        ["head (10.0.0.1)", "cpu", "2 processors", "1.0 GB", "2.0 GB", "37 %", "-", "-"],
        ["head (10.0.0.1)", "cuda 0", "H100", "40.0 GB", "80.0 GB", "12 %", "41 °C", "100 W"],
        ["head (10.0.0.1)", "cuda 1", "offline: lost", "-", "-", "-", "-", "-"],
    ]
    assert rows[-1][:3] == ["mac (10.0.0.2)", "offline", "No answer within 3 s."]


def test_json_is_the_api_s_own(cli: Run, server: Server) -> None:
    server.says("GET /api/devices/info", ANSWER)
    assert json.loads(cli("devices", "--json").out) == ANSWER
