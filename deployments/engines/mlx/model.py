"""The loaded model, as the routes see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.generator import Generator
from deployments.engines.mlx.jobs import Sampling
from deployments.engines.mlx.vocabulary import Vocabulary
from deployments.errors import InvalidRequest, ModelNotFound


@dataclass(frozen=True)
class Model:
    """generator: of the model itself. generators: by each name that a request may use, adapters' included; they come
    and go. vocabulary_size: tokens that both the tokenizer and the weights know."""

    args: MLXArgs
    generator: Generator
    generators: Mapping[str, Generator]
    vocabulary: Vocabulary
    vocabulary_size: int
    fingerprint: str

    def find(self, name: str) -> Generator:
        """Raises: ModelNotFound."""
        if name not in self.generators:
            raise ModelNotFound(f"The model '{name}' is not served here.", param="model")
        return self.generators[name]

    def check_health(self) -> None:
        """Raises: EngineFailed when a thread has ended, an adapter's included."""
        for generator in set(self.generators.values()):
            generator.check()

    def check_sampling(self, sampling: Sampling) -> None:
        for token in sampling.logit_bias:
            if token >= self.vocabulary_size:
                raise InvalidRequest(
                    f"Invalid 'logit_bias': token {token} is not one of this model's {self.vocabulary_size}.",
                    param="logit_bias",
                )
