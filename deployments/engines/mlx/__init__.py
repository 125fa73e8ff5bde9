"""Models in MLX format, served in this process by mlx-lm."""

from deployments.engines.mlx.engine import MLXEngine

__all__ = ["MLXEngine"]
