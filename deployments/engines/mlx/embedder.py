"""An embedding model and the thread that runs it. The model's code is mlx-embeddings'."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from deployments.engines.mlx.pooling import Pooling, read_pooling
from deployments.engines.mlx.streams import lent_stream
from deployments.errors import EngineFailed, InternalError

log = logging.getLogger("ray.serve.llm_manager")

Vector = NDArray[np.float32]

MISSING = "Embedding models in MLX format need the package mlx-embeddings: pip install 'llm-manager[embeddings]' ({})."


@dataclass(frozen=True)
class _Text:
    tokens: Sequence[int]
    vector: Future[Vector] = field(default_factory=Future)


class Embedder:
    """width: of a vector; known once loaded. Texts that wait are run together, at most `batch_tokens` of them, padding
    included, or one text."""

    def __init__(self, folder: Path, *, batch_tokens: int) -> None:
        """Starts the thread, which loads the model: await `loaded` for the outcome."""
        self.width = 0
        self._folder = folder
        self._batch_tokens = batch_tokens
        self._loaded: Future[None] = Future()
        self._waiting: deque[_Text] = deque()
        self._changed = threading.Condition()  # of what waits, and of stopping
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self._thread.start()

    async def loaded(self) -> None:
        """Raises what loading raised; ValueError and RuntimeError say what cannot be served."""
        await asyncio.shield(asyncio.wrap_future(self._loaded))

    def check(self) -> None:
        """Raises: EngineFailed when the thread has ended or is to end."""
        if self._stopping or not self._thread.is_alive():
            raise EngineFailed("The model's thread has ended.")

    async def embed(self, texts: Sequence[Sequence[int]]) -> list[Vector]:
        """A vector for each text's tokens. Texts that are not begun when the caller is cancelled are dropped.

        Raises: EngineFailed; InternalError.
        """
        jobs = [_Text(tokens) for tokens in texts]
        with self._changed:
            if self._stopping:
                raise EngineFailed("The model's thread has ended.")
            self._waiting.extend(sorted(jobs, key=lambda job: -len(job.tokens)))  # alike together: less padding
            self._changed.notify()
        return list(await asyncio.gather(*(asyncio.wrap_future(job.vector) for job in jobs)))

    async def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        self._thread.join()
        gc.collect()
        mx.clear_cache()

    def _run(self) -> None:
        try:
            with lent_stream():
                self._serve()
        finally:
            self._end()

    def _serve(self) -> None:
        try:
            model = _Model(self._folder)
            self.width = len(model.vectors([[0]])[0])
        except Exception as error:
            self._stopping = True
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(None)
        while batch := self._next_batch():
            self._answer(model, batch)

    def _next_batch(self) -> list[_Text]:
        """Waits for one. Empty when there will be none."""
        batch: list[_Text] = []
        with self._changed:
            while not batch and not self._stopping:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                longest = 0
                while self._waiting:
                    longest = max(longest, len(self._waiting[0].tokens))
                    if batch and longest * (len(batch) + 1) > self._batch_tokens:
                        break
                    text = self._waiting.popleft()
                    if text.vector.set_running_or_notify_cancel():
                        batch.append(text)
        return batch

    def _answer(self, model: _Model, batch: list[_Text]) -> None:
        try:
            vectors = model.vectors([text.tokens for text in batch])
        except Exception as error:
            log.exception("A batch of texts failed")
            failure = InternalError("The texts could not be embedded.")
            failure.__cause__ = error
            for text in batch:
                text.vector.set_exception(failure)
            return
        for text, vector in zip(batch, vectors, strict=True):
            text.vector.set_result(vector)

    def _end(self) -> None:
        with self._changed:
            self._stopping = True
            for text in self._waiting:
                with contextlib.suppress(Exception):
                    text.vector.set_exception(EngineFailed("The model is being stopped."))
            self._waiting.clear()


class _Model:
    """Lives in one thread: MLX's streams do."""

    def __init__(self, folder: Path) -> None:
        """Raises: ValueError, RuntimeError, OSError."""
        try:
            from mlx_embeddings.utils import load_model
        except ImportError as error:
            raise RuntimeError(MISSING.format(error)) from error
        self._pooling = read_pooling(folder)
        self._model = load_model(folder, path_to_repo=str(folder))
        if self._pooling and self._pooling.dense and not hasattr(self._model, "dense"):
            raise ValueError("The model's modules.json names a Dense layer, which is not served for its architecture.")

    def vectors(self, texts: Sequence[Sequence[int]]) -> list[Vector]:
        lengths = [len(tokens) for tokens in texts]
        ids = np.zeros((len(texts), max(lengths)), np.int32)
        mask = np.zeros(ids.shape, np.int32)
        for i, tokens in enumerate(texts):
            ids[i, : len(tokens)] = tokens
            mask[i, : len(tokens)] = 1
        out = self._model(mx.array(ids), attention_mask=mx.array(mask))
        return list(np.array(self._pooled(out, mx.array(mask)).astype(mx.float32)))

    def _pooled(self, out: Any, mask: mx.array) -> mx.array:
        """Where the folder does not say how, or the rest of the model is in the library: as mlx-embeddings does it."""
        pooling = self._pooling
        if pooling is None or pooling.dense:
            own: mx.array = out.text_embeds
            return own
        states = out.last_hidden_state.astype(mx.float32)
        vectors = self._as_pooled(states) if states.ndim == 2 else pool(states, mask, pooling)
        return unit(vectors) if pooling.normalize else vectors

    def _as_pooled(self, vectors: mx.array) -> mx.array:
        """mlx-embeddings' ModernBERT pools by itself, as config.json says for classifiers."""
        kind = self._model.config.classifier_pooling
        if self._pooling is None or self._pooling.kind != kind:
            raise ValueError(f"This architecture is only served with its config.json's pooling, which is {kind!r}.")
        return vectors


def pool(states: mx.array, mask: mx.array, pooling: Pooling) -> mx.array:
    """states: (texts, tokens, width), padded on the right. mask: (texts, tokens)."""
    if pooling.kind == "cls":
        return states[:, 0]
    if pooling.kind == "last":
        return states[mx.arange(len(states)), mask.sum(axis=1) - 1]
    weights = mask[:, :, None].astype(states.dtype)
    return (states * weights).sum(axis=1) / weights.sum(axis=1)


def unit(vectors: mx.array) -> mx.array:
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
