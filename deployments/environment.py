"""What Ray and Serve must find in the environment of `ray start` and `serve run`, on every node, to serve well.

Usage: eval "$(python -m deployments.environment)"
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from deployments import warm

SERVING: Mapping[str, str] = {
    warm.SOFT_LIMIT: warm.WORKERS,
    # Each swap leaves a dead actor or two, and Ray's control service would remember 100,000 of them.
    "RAY_maximum_gcs_destroyed_actor_cached_count": "1000",
    # glibc gives each thread a heap of its own, of which little comes back: processes of many threads grow for hours.
    "MALLOC_ARENA_MAX": "2",
    # Else the controller's metrics name each replica that there ever was.
    "RAY_SERVE_CONTROLLER_METRICS_INCLUDE_HIGH_CARDINALITY_TAGS": "0",
    # A proxy that is dead is replaced after three looks; every ten seconds is Serve's own way.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    # A replica that hangs does not hear that it is to finish its answers, for which Serve would wait.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # A request whose ingress replica dies goes to another one.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ingress.proxy:middlewares",
    # The same of HAProxy, for requests that fit into its buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
}


def exports() -> str:
    """For a shell. What its environment has already stays."""
    return "\n".join(f"export {name}=${{{name}-{shlex.quote(value)}}}" for name, value in SERVING.items())


if __name__ == "__main__":
    print(exports())
