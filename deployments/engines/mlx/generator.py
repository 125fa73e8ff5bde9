"""The one place that touches mlx-lm's private parts.

mlx-lm's continuous batching, prompt cache and tool parsers live behind `mlx_lm.server.ResponseGenerator`, which is no
public API (the version is pinned, and tests/engines hold it to what is used here). Its HTTP server is not used.
An exception in its thread ends that thread for good, hence: whatever can be wrong with a request is found before it
is submitted, or inside `_tokenize`, the one step whose exceptions mlx-lm hands back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import gc
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import server, utils
from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, trim_prompt_cache

from deployments.engines.mlx import metal, tokenizers
from deployments.engines.mlx.adapter_files import read
from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.jobs import Chat, Job, Started, Token
from deployments.engines.mlx.lora import adapted
from deployments.engines.mlx.sampling import Guard, make_processors, make_sampler
from deployments.engines.mlx.streams import lent_stream
from deployments.errors import ApiError, EngineFailed, InternalError, InvalidRequest

log = logging.getLogger("ray.serve.llm_manager")


@dataclass
class _Arguments(server.GenerationArguments):  # type: ignore[misc]  # mlx-lm has no types
    job: Job
    eos: frozenset[int]
    guard: Guard | None = None


# mlx-lm builds these from the fields of its own requests, with no way to add one; it looks the two functions up in
# its module each time.
def _sampler(args: _Arguments, _tokenizer: Any) -> Any:
    return make_sampler(args.job.sampling)


def _logits_processors(args: _Arguments) -> list[Any]:
    processors = make_processors(args.job)
    if not processors:
        return []
    args.guard = Guard(processors, args.eos)
    return [args.guard]


server._make_sampler = _sampler
server._make_logits_processors = _logits_processors
utils.load_tokenizer = tokenizers.load


class _PromptCache(LRUPromptCache):  # type: ignore[misc]  # mlx-lm has no types
    def fetch_nearest_cache(self, model: Any, tokens: list[int]) -> tuple[Any, list[int]]:
        """Leaves at least one token to process: a prompt that is cached whole would end mlx-lm's thread."""
        cache, rest = super().fetch_nearest_cache(model, tokens)
        if rest:
            return cache, rest
        if can_trim_prompt_cache(cache):
            trim_prompt_cache(cache, 1)
            return cache, tokens[-1:]
        return None, tokens


class _Provider(server.ModelProvider):  # type: ignore[misc]  # mlx-lm has no types
    def _load(self, *key: Any) -> None:
        super()._load(*key)
        mx.eval(self.model)  # also what is no parameter, such as frequencies: other threads will use it


class _AdapterProvider(server.ModelProvider):  # type: ignore[misc]  # mlx-lm has no types
    """Instead of mlx-lm's own way to load an adapter, which reads the base weights once more."""

    def __init__(self, base: server.ModelProvider, folder: Path) -> None:
        super().__init__(base.cli_args)
        self._base = base
        self._folder = folder

    def _load(self, *key: Any) -> None:
        model = self._base.model
        if model is None:
            raise EngineFailed("The model is being stopped.")
        self.model = adapted(model, read(self._folder))
        self.tokenizer = self._base.tokenizer
        self.processor = self._base.processor
        self.is_batchable = self._base.is_batchable
        self.model_key = key


class _Generation:
    """One sequence inside mlx-lm, in the place of the queue it puts its results on."""

    def __init__(self, index: int, args: _Arguments, generator: Generator, inbox: asyncio.Queue[Any]) -> None:
        self.index = index
        self.args = args
        self.cancelled = False
        self._generator = generator
        self._inbox = inbox
        self._context: Any = None

    def put(self, item: Any) -> None:
        """Called in mlx-lm's thread."""
        last = item is None or isinstance(item, Exception)
        if isinstance(item, server.GenerationContext):
            self._context = item
        elif self.cancelled and self._context is not None:
            # mlx-lm looks at this right after it puts an item, and at no other time; a batched sequence is then
            # dropped without a word.
            self._context.stop()
            last = last or not self._generator.sequential
        elif self._generator.stopping and self._context is not None:
            self._context.stop()
            item = item or EngineFailed("The model is being stopped.")
        self._generator.call_soon(self.receive, item, last)

    def receive(self, item: Any, last: bool) -> None:
        if last:
            self._generator.live.discard(self)
        if not self.cancelled:
            self._inbox.put_nowait((self, item))


class Submission:
    """The items of several sequences as they come, each with its job's index. Close it to cancel what still runs."""

    def __init__(self, generations: Sequence[_Generation], inbox: asyncio.Queue[Any]) -> None:
        self._generations = generations
        self._inbox = inbox
        self._open = len(generations)

    def stop(self, index: int) -> None:
        """Ends one sequence: none of its items comes any more."""
        if not self._generations[index].cancelled:
            self._generations[index].cancelled = True
            self._open -= 1

    def close(self) -> None:
        for generation in self._generations:
            generation.cancelled = True

    async def __aiter__(self) -> AsyncIterator[tuple[int, Started | Token]]:
        while self._open > 0:
            generation, item = await self._inbox.get()
            if generation.cancelled:
                continue
            if item is None:
                self._open -= 1
            elif isinstance(item, ApiError):
                raise item
            elif isinstance(item, Exception):
                raise InternalError("The generation failed.") from item
            elif isinstance(item, server.GenerationContext):
                yield generation.index, _started(item)
            elif isinstance(item, server.Response):
                if item.finish_reason and generation.args.guard and generation.args.guard.failure:
                    raise InternalError("The generation was ended: its constraints could not be applied.")
                yield generation.index, _token(item)


class Generator(server.ResponseGenerator):  # type: ignore[misc]  # mlx-lm has no types
    """A loaded model and its thread. live: sequences that mlx-lm works on, cancelled ones included."""

    def __init__(self, provider: server.ModelProvider, context_length: int, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread, which loads the model: await `loaded` for the outcome."""
        self.context_length = context_length
        self.live: set[_Generation] = set()
        self.loaded: asyncio.Future[None] = loop.create_future()
        self.stopping = False
        self._loop = loop
        self._ended = False
        super().__init__(provider, _PromptCache(provider.cli_args.prompt_cache_size))

    @classmethod
    def of_folder(cls, folder: Path, args: MLXArgs, context_length: int, loop: asyncio.AbstractEventLoop) -> Generator:
        return cls(_Provider(_cli_args(folder, args)), context_length, loop)

    def with_adapter(self, folder: Path) -> Generator:
        """A generator over the same weights, with a thread, a batch and a prompt cache of its own. Its `loaded` raises
        ValueError, with what is wrong with the adapter."""
        return Generator(_AdapterProvider(self.model_provider, folder), self.context_length, self._loop)

    @property
    def running(self) -> int:
        return len(self.live)

    @property
    def device_mb(self) -> float:
        return metal.device_mb()

    @property
    def tokenizer(self) -> Any:
        return self.model_provider.tokenizer

    @property
    def sequential(self) -> bool:
        return not (self.model_provider.is_batchable and self.cli_args.kv_bits is None)

    def check(self) -> None:
        """Raises: EngineFailed when the thread has ended."""
        if self._ended or not self.is_healthy:
            raise EngineFailed("The model's generation thread has ended.")

    def submit(self, jobs: Sequence[Job]) -> Submission:
        """Raises: EngineFailed."""
        self.check()
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        generations = [_Generation(i, self._arguments(job), self, inbox) for i, job in enumerate(jobs)]
        for generation, job in zip(generations, jobs, strict=True):
            self.live.add(generation)
            self.requests.put((generation, _request(job), generation.args))
        return Submission(generations, inbox)

    async def close(self) -> None:
        self.stopping = True
        await asyncio.to_thread(self._release)

    def call_soon(self, callback: Any, *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *args)

    def _release(self) -> None:
        self.stop_and_join()
        gc.collect()
        mx.clear_cache()

    def _arguments(self, job: Job) -> _Arguments:
        return _Arguments(
            # Another model's name would make mlx-lm unload this one.
            model=server.ModelDescription("default_model", "default_model", None),
            sampling=None,
            logits=None,
            stop_words=[],
            max_tokens=0,  # known once the prompt is tokenised
            num_draft_tokens=0,
            logprobs=True,
            top_logprobs=job.sampling.top_logprobs,
            seed=None,
            chat_template_kwargs=dict(job.prompt.template_args) if isinstance(job.prompt, Chat) else None,
            job=job,
            eos=frozenset(self.tokenizer.eos_token_ids),
        )

    def _run_generate(self) -> None:
        failure: BaseException | None = None
        try:
            with lent_stream():
                self.model_provider.load_default()
                self.call_soon(self._set_loaded, None)
                self._generate()
        except BaseException as error:
            log.exception("The generation thread ended")
            failure = error
        self.call_soon(self._on_end, failure)

    def _set_loaded(self, failure: BaseException | None) -> None:
        if self.loaded.done():
            return
        if failure is None:
            self.loaded.set_result(None)
        elif isinstance(failure, Exception):
            self.loaded.set_exception(failure)
        else:
            self.loaded.set_exception(RuntimeError(f"{type(failure).__name__}: {failure}"))

    def _on_end(self, failure: BaseException | None) -> None:
        self._ended = True
        self._set_loaded(failure or RuntimeError("The generation thread ended."))
        for generation in list(self.live):
            generation.receive(EngineFailed("The model's generation thread has ended."), True)

    def _tokenize(self, tokenizer: Any, request: Any, args: _Arguments) -> tuple[Any, ...]:
        tokens, *rest = self._encode(tokenizer, request, args)
        param = "prompt" if request.request_type == "text" else "messages"
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param=param)
        room = self.context_length - len(tokens)
        if room < 1:
            raise InvalidRequest(
                f"This model's maximum context length is {self.context_length} tokens, but the prompt has "
                f"{len(tokens)}.",
                param=param,
                code="context_length_exceeded",
            )
        args.max_tokens = min(room, args.job.max_tokens or room)
        return tokens, *rest

    def _encode(self, tokenizer: Any, request: Any, args: _Arguments) -> tuple[Any, ...]:
        if not isinstance(request.prompt, str):
            tokens = list(request.prompt)
            return tokens, [tokens], ["assistant"], "normal", None
        try:
            return super()._tokenize(tokenizer, request, args)  # type: ignore[no-any-return]
        except Exception as error:
            # A chat template raises whatever it likes, and only for reasons that lie in the messages.
            log.info("The prompt was refused", exc_info=True)
            param = "prompt" if request.request_type == "text" else "messages"
            raise InvalidRequest(f"The prompt was refused by the model's template: {error}", param=param) from error


def _request(job: Job) -> Any:
    if isinstance(job.prompt, Chat):
        # mlx-lm edits the messages in place.
        messages = copy.deepcopy(list(job.prompt.messages))
        tools = copy.deepcopy(list(job.prompt.tools)) if job.prompt.tools else None
        return server.CompletionRequest("chat", "", messages, tools, None)
    return server.CompletionRequest("text", job.prompt, [], None, None)


def _started(context: Any) -> Started:
    return Started(
        prompt=context.prompt,
        cached_tokens=max(0, context.prompt_cache_count),
        machine=context.text_sm,
        state=context.initial_state,
        tool_parser=context.tool_parser,
    )


def _token(response: Any) -> Token:
    top = sorted(((entry["id"], entry["logprob"]) for entry in response.top_tokens), key=lambda e: -e[1])
    return Token(response.token, response.text, response.logprob, tuple(top), response.finish_reason)


def _cli_args(folder: Path, args: MLXArgs) -> argparse.Namespace:
    return argparse.Namespace(
        model=str(folder),
        adapter_path=None,
        draft_model=None,
        trust_remote_code=args.trust_remote_code,
        chat_template=args.chat_template,
        use_default_chat_template=False,
        chat_template_args=args.chat_template_args,
        pipeline=False,
        decode_concurrency=args.decode_concurrency,
        prompt_concurrency=args.prompt_concurrency,
        prefill_step_size=args.prefill_step_size,
        prompt_cache_size=args.prompt_cache_size,
        prompt_cache_bytes=None if args.prompt_cache_mb is None else args.prompt_cache_mb * 1024 * 1024,
        kv_bits=args.kv_bits,
        kv_group_size=64,
        quantized_kv_start=server.DEFAULT_QUANTIZED_KV_START,
    )
