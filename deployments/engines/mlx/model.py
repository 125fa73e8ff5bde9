"""The loaded model, as the routes see it."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.generator import Generator
from deployments.engines.mlx.jobs import Sampling
from deployments.engines.mlx.vocabulary import Vocabulary
from deployments.errors import InvalidRequest, ModelNotFound


@dataclass(frozen=True)
class Model:
    """vocabulary_size: tokens that both the tokenizer and the weights know."""

    names: tuple[str, ...]
    args: MLXArgs
    generator: Generator
    vocabulary: Vocabulary
    vocabulary_size: int
    fingerprint: str

    def check_name(self, name: str) -> None:
        if name not in self.names:
            raise ModelNotFound(f"The model '{name}' is not served here.", param="model")

    def check_sampling(self, sampling: Sampling) -> None:
        for token in sampling.logit_bias:
            if token >= self.vocabulary_size:
                raise InvalidRequest(
                    f"Invalid 'logit_bias': token {token} is not one of this model's {self.vocabulary_size}.",
                    param="logit_bias",
                )
