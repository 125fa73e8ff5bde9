"""Answers that are the same by right, kept for who asks again: in the keeper, for all replicas of the ingress."""
