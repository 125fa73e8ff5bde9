from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics import names
from deployments.metrics.names import Metric
from ingress.metrics import OWN, Page, agents_of, joined, samples
from tests.test_outbox import record

AGENT = """# HELP ray_llm_manager_requests_total Requests.
# TYPE ray_llm_manager_requests_total counter
ray_llm_manager_requests_total{model="a",WorkerId="%s"} 2.0
# HELP ray_llm_manager_request_seconds Time.
# TYPE ray_llm_manager_request_seconds histogram
ray_llm_manager_request_seconds_bucket{model="a",WorkerId="%s",le="+Inf"} 2.0
ray_llm_manager_request_seconds_count{model="a",WorkerId="%s"} 2.0
ray_llm_manager_request_seconds_sum{model="a",WorkerId="%s"} 3.5
# TYPE ray_llm_manager_requests_created gauge
ray_llm_manager_requests_created{model="a"} 1.7e9
# HELP ray_serve_deployment_replica_healthy Health.
# TYPE ray_serve_deployment_replica_healthy gauge
ray_serve_deployment_replica_healthy{deployment="ray_llm"} 1.0
# TYPE ray_tasks gauge
ray_tasks{State="RUNNING"} 5.0
"""


def page(worker: str) -> str:
    return AGENT.replace("%s", worker)


def value(metric: Metric, *told: object) -> list[float]:
    return [sample.value for sample in samples([record(**one) for one in told]) if sample.metric is metric]  # type: ignore[arg-type]


def test_records_are_counted_by_model_path_and_status() -> None:
    told = [s for s in samples([record(), record(), record(status=503)]) if s.metric is names.REQUESTS]
    assert {(s.labels, s.value) for s in told} == {
        (("a", "/v1/chat/completions", "200"), 2),
        (("a", "/v1/chat/completions", "503"), 1),
    }


def test_tokens_are_sums_of_the_batch() -> None:
    assert value(names.PROMPT, {}, {}) == [6]
    assert value(names.COMPLETION, {}, {"completion_tokens": 1}) == [6]
    assert value(names.CACHED, {}, {}) == [4]


def test_answers_of_the_cache_are_counted() -> None:
    assert value(names.CACHE_HITS, {"from_cache": True}, {}) == [1]


def test_times_are_seconds() -> None:
    assert value(names.DURATION, {}) == [0.05]
    assert value(names.QUEUE, {}) == [0.001]
    assert value(names.TTFT, {}) == [0.01]
    assert value(names.TPOT, {}) == [0.01]


def test_answer_in_one_piece_has_no_first_token() -> None:
    assert value(names.TTFT, {"streamed": False}) == value(names.TPOT, {"streamed": False}) == []
    assert value(names.TPOT, {"completion_tokens": 1}) == []


def test_ingress_tells_nothing_but_its_own() -> None:
    assert {sample.metric for sample in samples([record()])} <= set(OWN)


def test_pages_of_all_nodes_are_one_that_prometheus_reads() -> None:
    families = {family.name: family for family in text_string_to_metric_families(joined([page("w1"), page("w2")]))}
    assert set(families) == {
        "llm_manager_requests",
        "llm_manager_request_seconds",
        "serve_deployment_replica_healthy",
    }
    requests = families["llm_manager_requests"]
    assert requests.type == "counter"
    assert [sample.labels["WorkerId"] for sample in requests.samples] == ["w1", "w2"]
    assert families["llm_manager_request_seconds"].type == "histogram"
    healthy = families["serve_deployment_replica_healthy"].samples[0]
    assert healthy.labels == {"deployment": "ray_llm"}, "what a label says stays"


def test_metric_that_only_the_second_node_has_is_described() -> None:
    text = joined(["", page("w2")])
    assert text.count("# TYPE llm_manager_requests_total counter") == 1


async def test_node_that_does_not_answer_is_left_out_and_counted() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=page("w1"))

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]

    def agents() -> Sequence[str]:
        return [f"http://127.0.0.1:{port}/metrics", f"http://127.0.0.1:{port}/gone", "http://127.0.0.1:1/metrics"]

    text = await Page(agents).text()
    await runner.cleanup()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    nodes = {s.labels["answered"]: s.value for s in families["llm_manager_scraped_nodes"].samples}
    assert nodes == {"yes": 1, "no": 2}
    assert "llm_manager_requests" in families


def test_agents_are_those_of_nodes_that_live() -> None:
    node = {"Alive": True, "NodeManagerAddress": "10.0.0.1", "MetricsExportPort": 77}
    assert agents_of([node, {**node, "Alive": False}, {**node, "MetricsExportPort": 0}]) == [
        "http://10.0.0.1:77/metrics"
    ]
