from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from deployments.engines.vllm import args


def test_what_is_ours_is_refused_with_the_reason_and_without_vllm() -> None:
    given = {"api-key": "x", "served_model_name": "y", "max_loras": 2}
    assert [name for name, _ in args.check(given, "chat")] == list(given)
    assert dict(args.check(given, "chat"))["served_model_name"] == (
        "is not set here: it is the model's name and aliases"
    )


def test_no_arguments_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert args.check({}, "chat") == []


def test_check_finds_mistakes_and_leaves_this_process_alone(vllm: None) -> None:
    script = """
import os, sys
from deployments.engines.vllm.args import check
before = dict(os.environ)
given = {"tensor-parallel-size": 2, "max_modle_len": 4096, "dtype": "floot", "port": 1}
for mistake in check(given, "chat"):
    print(mistake)
assert "vllm" not in sys.modules
assert os.environ == before
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" not in done.stdout + done.stderr
    found = [line.split(",")[0] for line in done.stdout.splitlines()]
    assert found == ["('port'", "('dtype'", "('max_modle_len'"], done.stdout


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        ({"max_modle_len": 1}, "max_modle_len", "did you mean max_model_len?"),
        ({"zzz": 1}, "zzz", "vLLM has no such argument"),
        ({"dtype": "floot"}, "dtype", "invalid choice: 'floot'"),
        ({"seed": "x"}, "seed", "invalid int value: 'x'"),
        ({"enforce-eager": 3}, "enforce-eager", "is true or false"),
        ({"speculative_config": "no json"}, "speculative_config", "JSON"),
        ({"enable_auto_tool_choice": True}, "", "requires --tool-call-parser"),
        ({"enable_auto_tool_choice": True, "tool_call_parser": "x"}, "tool_call_parser", "no parser 'x'"),
        ({"chat_template": "no/such.jinja"}, "chat_template", "doesn't exist"),
    ],
)
def test_mistake_has_its_name_and_vllms_reason(vllm: None, given: dict[str, Any], name: str, message: str) -> None:
    from deployments.engines.vllm import parser

    [(found, said)] = parser.mistakes(given, "chat")
    assert found == name
    assert message in said
    assert "argument" not in said or "no such argument" in said


def test_values_of_every_yaml_type_are_understood(vllm: None) -> None:
    from deployments.engines.vllm import parser

    given = {
        "tensor-parallel-size": 2,
        "max_model_len": "4k",
        "gpu_memory_utilization": 0.5,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "hf_overrides": {"rope_theta": 1e6},
        "compilation_config.cudagraph_capture_sizes": [1, 2],
        "limit_mm_per_prompt": {"image": 2},
        "kv_cache_memory_bytes": "1G",
        "quantization": None,
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
    }
    assert parser.mistakes(given, "chat") == []
    namespace = parser.parse(given, "chat")
    assert namespace.tensor_parallel_size == 2
    assert namespace.max_model_len == 4000
    assert namespace.enforce_eager is True
    assert namespace.enable_prefix_caching is False
    assert namespace.hf_overrides == {"rope_theta": 1e6}
    assert namespace.compilation_config.cudagraph_capture_sizes == [1, 2]
    assert namespace.kv_cache_memory_bytes == 2**30


@pytest.mark.parametrize(
    ("mode", "runner"),
    [("chat", "generate"), ("transcription", "generate"), ("embedding", "pooling"), ("rerank", "pooling")],
)
def test_mode_decides_on_the_runner(vllm: None, mode: str, runner: str) -> None:
    from deployments.engines.vllm import parser

    assert parser.parse({}, mode).runner == runner


def test_every_argument_of_ours_is_one_of_vllms(vllm: None) -> None:
    from deployments.engines.vllm import parser

    assert args.OURS.keys() - parser._actions().keys() == {"model_tag"}
