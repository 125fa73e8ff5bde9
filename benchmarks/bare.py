"""The echo engine's own app alone in uvicorn: what the others are measured against.

Usage: python -m benchmarks.bare PORT MODEL INTERVAL_MS
"""

import sys

import uvicorn

from benchmarks.load import HOST
from deployments.engines import EngineSpec
from deployments.engines.echo import EchoEngine

if __name__ == "__main__":
    port, model, interval_ms = sys.argv[1:]
    engine = EchoEngine(EngineSpec((model,), args={"interval_ms": float(interval_ms)}))
    uvicorn.run(engine.app, host=HOST, port=int(port), log_config=None, access_log=False, lifespan="off")
