"""Where the keeper is asked about requests that run."""

EXCHANGE = "/activity/exchange"
"""`{replica, tokens, running, cancelled}` → `{look, cancel}`: what an ingress replica has to say, and is wanted of it.
The answer comes when something is wanted, after HELD_S at the latest."""
REQUESTS = "/activity/requests"
"""`{replica}` → `{running, tokens_per_second}`: of all other replicas, as of now; of all replicas."""
CANCEL = "/activity/cancel"
"""`{replica, id, models}` → `{found}`: in all other replicas."""

HELD_S = 2.0
