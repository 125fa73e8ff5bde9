"""`vllm bench serve`, which vLLM's build for CPUs cannot start as a command.

Usage: python -m benchmarks.vllm_client ARGUMENTS, those of `vllm bench serve`
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.load import ROOT, TIMEOUT_S, Load, Measure

PROMPT_TOKENS = 64


def measure(load: Load, weights: Path, folder: Path, seed: int) -> Measure:
    """Random prompts and answers of exactly `load.tokens` tokens; the same seed makes the same prompts.

    Raises: subprocess.SubprocessError; its log is in the folder.
    """
    result = folder / "vllm-client.json"
    flags = {
        "backend": "openai",
        "base-url": load.url,
        "endpoint": "/v1/completions",
        "model": weights,
        "served-model-name": load.model,
        "dataset-name": "random",
        "random-input-len": PROMPT_TOKENS,
        "random-output-len": load.tokens,
        "num-prompts": load.streams,
        "max-concurrency": load.concurrency,
        "request-rate": "inf",
        "num-warmups": load.concurrency,
        "temperature": 0,
        "seed": seed,
        "percentile-metrics": "ttft,itl",
        "metric-percentiles": "50,99",
        "result-dir": result.parent,
        "result-filename": result.name,
    }
    command = [sys.executable, "-m", "benchmarks.vllm_client", *(f"--{name}={value}" for name, value in flags.items())]
    result.unlink(missing_ok=True)
    with result.with_suffix(".log").open("ab") as log:
        subprocess.run(
            [*command, "--ignore-eos", "--save-result", "--disable-tqdm"],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=2 * TIMEOUT_S,
            check=True,
        )
    seen = json.loads(result.read_text())
    wanted, came = load.streams * load.tokens, seen["total_output_tokens"]
    return Measure(
        chunks_per_s=seen["output_throughput"],
        ttft_p50_ms=seen["p50_ttft_ms"],
        ttft_p99_ms=seen["p99_ttft_ms"],
        gap_p50_ms=seen["p50_itl_ms"],
        gap_p99_ms=seen["p99_itl_ms"],
        behind=0.0,
        broken=load.streams - seen["completed"],
        problem="" if came == wanted else f"{came} tokens, not {wanted}",
    )


if __name__ == "__main__":
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
