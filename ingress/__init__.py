"""The OpenAI-compatible front: names, routes, errors, and the bytes between a client and a model's replica."""
