"""vLLM as an engine: its own OpenAI app on its own engine."""
