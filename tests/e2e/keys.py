"""The keys of the applications `keys` and `clients`."""

from __future__ import annotations

from typing import Any

from deployments.keys import hash_of

ALICE, OPERATOR, HASTY = "sk-alice-0123456789", "sk-operator-0123456789", "sk-hasty-0123456789"
WORDY = "sk-wordy-0123456789"
CLIENT = "sk-client-0123456789"
LIMIT = 20
TOKENS = 40
KEYS: list[dict[str, Any]] = [
    {"name": "alice", "key_hash": hash_of(ALICE), "models": ["mine"]},
    {"name": "operator", "key_hash": hash_of(OPERATOR), "rights": ["use", "manage"]},
    {"name": "hasty", "key_hash": hash_of(HASTY), "requests_per_minute": LIMIT},
    {"name": "wordy", "key_hash": hash_of(WORDY), "tokens_per_minute": TOKENS},
]
