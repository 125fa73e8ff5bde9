from __future__ import annotations

import json

from deployments.history.samples import Figures, NodeMemory, Sample, mean, series, taken
from deployments.memory import Memory
from deployments.residency.board import Report, Row, Table

PUBLIC = {"org--a": "org/a", "b": "b"}


def test_sample_is_what_the_board_and_the_rates_say() -> None:
    table = Table(rows={"org--a": Row(replicas=2, running=2, queued=3, unfinished=4, measured_mb=100)})
    sample = taken(8, table, (), PUBLIC, {"org/a": 12.5, "poet": 2.0}, {"10.0.0.1": Memory(1000, 400)})
    assert sample.models == {"org/a": Figures(12.5, 3, 4, 200), "poet": Figures(2.0)}
    assert sample.nodes == {"10.0.0.1": NodeMemory(600, 1000)}


def test_model_of_which_there_is_nothing_to_say_takes_no_room() -> None:
    assert taken(8, Table(), (), PUBLIC, {}, {}).models == {}


def test_requests_of_a_model_inside_processes_add_up() -> None:
    shown = {"phase": "up", "waiting": 1, "running": 2}
    reports = [Report("pool--p", replica, "n", members={"p1": shown}) for replica in ("r1", "r2")]
    assert taken(8, Table(), reports, PUBLIC, {"p1": 5.0}, {}).models == {"p1": Figures(5.0, 2, 4, 0)}


def test_mean_counts_a_model_that_was_not_there_as_nought() -> None:
    samples = [
        Sample(60, {"a": Figures(10, 2, 4, 100)}, {"n": NodeMemory(500, 1000)}),
        Sample(62, {}, {}),
        Sample(64, {"a": Figures(20, 1, 2, 200)}, {"n": NodeMemory(700, 1000)}),
    ]
    assert mean(60, samples) == Sample(60, {"a": Figures(10, 1, 2, 100)}, {"n": NodeMemory(600, 1000)})


def test_series_have_a_point_for_each_time_and_none_where_nobody_looked() -> None:
    samples = [Sample(2, {"a": Figures(1, 2, 3, 4)}, {"n": NodeMemory(5, 10)}), Sample(6, {}, {"n": NodeMemory(6, 10)})]
    assert series(samples, [0, 2, 4, 6]) == {
        "models": {
            "a": {
                "tokens_per_s": [None, 1, None, 0],
                "waiting": [None, 2, None, 0],
                "running": [None, 3, None, 0],
                "memory_mb": [None, 4, None, 0],
            }
        },
        "nodes": {"n": {"memory_used_mb": [None, 5, None, 6], "memory_total_mb": 10}},
    }


def test_sample_survives_the_way_through_plain_data() -> None:
    sample = Sample(2, {"a": Figures(1, 2, 3, 4)}, {"n": NodeMemory(5, 10)})
    assert Sample.of(2, json.loads(json.dumps(sample.plain()))) == sample
