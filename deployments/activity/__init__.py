"""Which requests run in all ingress replicas, as the keeper knows it."""
