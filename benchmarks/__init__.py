"""Measurements of LLM-Manager beside the ways it is compared with. README.md says how to repeat them."""
