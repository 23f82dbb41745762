"""pull promises what an export needs and no more, goes on where it stopped, and says what stands in the way."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from riffusion_engine.errors import ModelNotFoundError
from riffusion_rt.cli import main
from riffusion_rt.hub import needed_files, pull
from riffusion_rt.models import locate_checkpoint, locate_model, locate_settings

COMMIT = "c0ffee" * 6 + "c0ff"
HUB_ID = "someone/techno"
CHECKPOINT_FILES = {
    "README.md": "card",
    "LICENSE": "licence",
    "model_index.json": "{}",
    "riffusion-model-v1.ckpt": "everything again",
    "safety_checker/model.safetensors": "not ours",
    "unet_traced/unet_traced.pt": "not ours",
    "tokenizer/vocab.json": "{}",
    "tokenizer/merges.txt": "",
    "scheduler/scheduler_config.json": "{}",
    "text_encoder/config.json": "{}",
    "text_encoder/model.safetensors": "text",
    "text_encoder/pytorch_model.bin": "pickled text",
    "unet/config.json": "{}",
    "unet/diffusion_pytorch_model.safetensors": "unet" * 1000,
    "unet/diffusion_pytorch_model.fp16.safetensors": "half a unet",
    "vae/config.json": "{}",
    "vae/diffusion_pytorch_model.bin": "pickled vae",
}
SETTINGS = [
    name for name in CHECKPOINT_FILES if name.startswith(("tok", "sched")) or name.endswith("/config.json")
]


class StandIn:
    """A hub of one repository: the answers that huggingface_hub asks for, and a record of what it asked."""

    def __init__(self, files: dict[str, str]) -> None:
        # Files of the same content would be one in the cache, and fetched once.
        self.files = {
            name: (text if len(text) > 2 else f'["{name}"]').encode() for name, text in files.items()
        }
        self.fetched: list[tuple[str, str]] = []
        self.cut: dict[str, int] = {}
        self.refusal: tuple[int, str] | None = None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if self.refusal:
            status, code = self.refusal
            self._send(request, status, b"{}", {"X-Error-Code": code})
        elif path.startswith(f"/api/models/{HUB_ID}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            body = {"id": HUB_ID, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self._send(request, 200, json.dumps(body).encode())
        elif path.startswith(f"/{HUB_ID}/resolve/"):
            self._file(request, path.split("/", 5)[5])
        else:
            self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data = self.files[name]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        wanted = request.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if wanted else 0
        if request.command == "GET":
            self.fetched.append((name, wanted))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.cut.pop(name, None) if request.command == "GET" else None
        self._send(request, 206 if start else 200, data[start:], headers, cut)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[:cut])
        if cut is not None and request.command == "GET":
            request.close_connection = True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in on this machine, and an empty cache."""
    from huggingface_hub import constants

    stand_in = StandIn(CHECKPOINT_FILES)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand_in.answer(self)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield stand_in
    server.shutdown()
    server.server_close()


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["pull", *arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


def test_what_was_pulled_is_found_by_its_id(hub: StandIn) -> None:
    content = json.loads(run(HUB_ID, "--json").stdout)
    folder = locate_checkpoint(HUB_ID)
    assert content["folder"] == str(folder)
    assert content["next"] == f"riffusion-rt export {HUB_ID} -o BUNDLE"
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_text() == "unet" * 1000
    assert f"riffusion-rt export {HUB_ID}" in _hint(lambda: locate_model(HUB_ID))


def test_only_one_set_of_weights_is_fetched_and_the_mark_of_completeness_last(hub: StandIn) -> None:
    list(pull(HUB_ID))
    names = [name for name, _ in hub.fetched]
    assert names[-1] == "model_index.json"
    assert set(names) == {
        *SETTINGS,
        "README.md",
        "LICENSE",
        "model_index.json",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
    }


def test_half_takes_float16_where_there_is_any(hub: StandIn) -> None:
    chosen = needed_files(HUB_ID, CHECKPOINT_FILES, half=True)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in chosen
    assert "unet/diffusion_pytorch_model.safetensors" not in chosen
    assert "text_encoder/model.safetensors" in chosen


def test_weights_in_pieces_come_with_their_index() -> None:
    pieces = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    files = [name for name in CHECKPOINT_FILES if not name.startswith("unet/diff")]
    chosen = needed_files(HUB_ID, [*files, *pieces, index])
    assert {*pieces, index} <= set(chosen)


def test_of_a_bundle_everything_is_fetched_and_it_plays_by_its_id(hub: StandIn) -> None:
    names = ("riffusion.json", "unet/model.onnx", ".gitattributes", "z.txt")
    hub.files = StandIn(dict.fromkeys(names, "")).files
    content = json.loads(run(HUB_ID, "--json").stdout)
    assert [name for name, _ in hub.fetched] == ["unet/model.onnx", "z.txt", "riffusion.json"]
    assert content["folder"] == str(locate_model(HUB_ID))
    assert f"--model {HUB_ID}" in content["next"]


def test_progress_counts_the_bytes_of_the_whole(hub: StandIn) -> None:
    steps = list(pull(HUB_ID))
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == steps[-1].total == sum(len(hub.files[name]) for name, _ in hub.fetched)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    unet = "unet/diffusion_pytorch_model.safetensors"
    hub.cut[unet] = 1500
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # Bytes that are kept at a time.
    list(pull(HUB_ID))
    ranges = [wanted for name, wanted in hub.fetched if name == unet]
    assert len(ranges) == 2
    assert ranges[1] == "bytes=1500-"
    assert (locate_checkpoint(HUB_ID) / unet).read_text() == "unet" * 1000


def test_one_given_up_is_no_model_and_the_next_fetches_the_rest(hub: StandIn) -> None:
    steps = pull(HUB_ID)
    next(step for step in steps if step.file.startswith("unet/diffusion"))
    steps.close()  # type: ignore[attr-defined]
    before = {name for name, _ in hub.fetched}
    assert "riffusion-rt pull" in _hint(lambda: locate_checkpoint(HUB_ID))
    hub.fetched.clear()
    list(pull(HUB_ID))
    again = {name for name, _ in hub.fetched}
    assert "model_index.json" in again
    assert "text_encoder/model.safetensors" in before - again


def test_a_second_pull_fetches_nothing(hub: StandIn) -> None:
    list(pull(HUB_ID))
    hub.fetched.clear()
    list(pull(HUB_ID))
    assert not hub.fetched


def test_settings_alone_are_enough_for_a_single_file(hub: StandIn) -> None:
    result = run(HUB_ID, "--settings-only")
    assert {name for name, _ in hub.fetched} == {*SETTINGS, "README.md", "LICENSE"}
    assert (locate_settings(HUB_ID) / "tokenizer" / "vocab.json").is_file()
    assert f"--like {HUB_ID}" in result.stdout
    assert "riffusion-rt pull" in _hint(lambda: locate_checkpoint(HUB_ID))


def test_offline_looks_and_asks_nobody(hub: StandIn) -> None:
    hub.refusal = (500, "")
    assert f"riffusion-rt pull {HUB_ID}" in run(HUB_ID, "--offline", code=2).stderr
    hub.refusal = None
    list(pull(HUB_ID))
    hub.refusal = (500, "")
    assert str(locate_checkpoint(HUB_ID)) in run(HUB_ID, "--offline").stdout


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((401, "RepoNotFound"), "no model someone/techno"),
        ((403, "GatedRepo"), "asks for its terms"),
        ((500, ""), "cannot be fetched"),
    ],
)
def test_what_stands_in_the_way_is_one_line(refusal: tuple[int, str], said: str, hub: StandIn) -> None:
    hub.refusal = refusal
    line = run(HUB_ID, code=2).stderr
    assert said in line
    assert "riffusion-rt pull someone/techno" in line
    assert line.count("\n") == 1


def test_no_network_is_one_line(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "goes on where it stopped" in _hint(lambda: list(pull(HUB_ID)))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["README.md", "model.ckpt"], "no tokenizer"),
        (["model_index.json", "tokenizer/vocab.json"], "no weights of its text_encoder"),
        (["tokenizer/vocab.json"], "no model_index.json"),
    ],
)
def test_a_repository_of_another_kind_is_refused(files: list[str], said: str) -> None:
    with pytest.raises(ModelNotFoundError, match=said):
        needed_files(HUB_ID, files)


def test_what_is_no_id_is_refused() -> None:
    assert "owner/model" in _hint(lambda: list(pull("techno")))


def _hint(act: Callable[[], object]) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        act()
    return caught.value.hint
