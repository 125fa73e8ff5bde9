"""Models in MLX format, served in this process."""

from deployments.engines import Engine, EngineSpec
from deployments.engines.mlx.embedding_engine import EmbeddingEngine
from deployments.engines.mlx.engine import MLXEngine

__all__ = ["EmbeddingEngine", "MLXEngine", "create"]


def create(spec: EngineSpec) -> Engine:
    """Raises: ValueError for a mode that MLX does not serve."""
    if spec.mode == "embedding":
        return EmbeddingEngine(spec)
    if spec.mode in ("chat", "completion"):
        return MLXEngine(spec)
    raise ValueError(f"The mlx engine serves chat, completion and embedding models, not {spec.mode}.")
