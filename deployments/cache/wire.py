"""How the ingress and the keeper speak of the cache: bodies are answers as they are, all else is in headers."""

from __future__ import annotations

LOOK = "/cache/look"
"""200 with the answer; 202 to who is to compute it: as long as it does, it keeps this answer open; 409: another one
computes."""
JOIN = "/cache/join"
"""As LOOK, but waits for whoever computes."""
STORE = "/cache/store"
CLEAR = "/cache/clear"
STATS = "/cache/stats"

HIT, COMPUTE, BUSY = 200, 202, 409

KEY = "x-cache-key"
MODEL = "x-cache-model"
FLIGHT = "x-cache-flight"
TTL = "x-cache-ttl"
AGE = "x-cache-age"
TYPE = "x-cache-content-type"
