"""The command line `llm-manager`: what a person asks of a server, and how one is started. Without Ray and FastAPI."""
