"""How models and memory were in the last day, as the keeper has seen it."""
