"""The page on top of the real server and a toy model: what is heard is what came through the socket; jobs are made."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from test_page import FADE_FRAMES, PATIENCE_MS, RATE, browser, heard, page, pytestmark, wait_heard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("fastapi", reason="the server's libraries are not installed")

WINDOW = 256
"""Frames that tell one place of the music from all others."""

__all__ = ["browser", "page", "pytestmark"]


@pytest.fixture(scope="module")
def service(toy_bundle: Path) -> Iterator[str]:
    """The address of `riffusion-rt serve` with the toy model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "riffusion_rt", "serve", "--model", str(toy_bundle), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not _answers(url):
        assert process.poll() is None and time.monotonic() < deadline, "The server does not start"
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


class Sent:
    """What came through the page's sockets."""

    def __init__(self, page: Page) -> None:
        self.blocks: list[tuple[dict[str, object], NDArray[np.int16]]] = []
        self.messages: list[dict[str, object]] = []
        page.on("websocket", lambda line: line.on("framereceived", self._take))

    def _take(self, payload: str | bytes) -> None:
        if isinstance(payload, str):
            self.messages.append(json.loads(payload))
            return
        (length,) = struct.unpack_from("<I", payload)
        self.blocks.append((json.loads(payload[4 : 4 + length]), np.frombuffer(payload[4 + length :], "<i2")))

    def samples(self) -> NDArray[np.float32]:
        """All samples, which must be without a hole."""
        end = 0
        for header, samples in self.blocks:
            assert header["start_frame"] == end
            end += len(samples)
        return np.concatenate([samples for _, samples in self.blocks]).astype(np.float32) / 32768


def play(page: Page, service: str, prompt: str) -> None:
    page.goto(f"{service}?view=flat&seed=3&lookAhead=6&numInferenceSteps=1&guidance=1")
    page.get_by_label("What should be heard?").fill(prompt)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=pytest.mark.thorough)])
def test_a_models_music_is_heard_frame_by_frame_while_it_is_steered(
    page: Page, service: str, seconds: int
) -> None:
    sent = Sent(page)
    play(page, service, "funky piano")
    wait_heard(page, seconds / 2)
    page.get_by_label("What should be heard?").fill("church bells")
    page.keyboard.press("Enter")
    page.locator("[data-tense=now]", has_text="church bells").wait_for()
    wait_heard(page, seconds)
    sound, music = heard(page), sent.samples()
    assert check_each_frame_once(sound, music) > RATE
    joints = np.array([header["start_frame"] for header, _ in sent.blocks[1:]], int)
    steps = np.abs(np.diff(music))
    assert steps[joints - 1].max() <= np.delete(steps, joints - 1).max()
    assert np.sqrt(np.mean(sound[RATE:] ** 2)) > 1e-3


def check_each_frame_once(sound: NDArray[np.float32], music: NDArray[np.float32]) -> int:
    """What is heard is what came, in order and unchanged; returns how many frames were compared.

    Where a busy machine let the music run dry it must go on, after a fade, with the very next frame.
    """
    begin = int(np.flatnonzero(sound)[0]) + FADE_FRAMES
    frame = find(sound[begin : begin + WINDOW], music)
    compared = 0
    while True:
        length = min(len(sound) - begin, len(music) - frame)
        same = sound[begin : begin + length] == music[frame : frame + length]
        run = length if same.all() else int(np.argmin(same))
        compared += run
        if run == length:
            return compared
        begin, frame = begin + run, frame + run + FADE_FRAMES
        try:
            begin += find(music[frame : frame + WINDOW], sound[begin:])
        except AssertionError:
            # It ran dry just before the tap was read.
            assert len(sound) - begin < 3 * RATE
            return compared


def find(window: NDArray[np.float32], where: NDArray[np.float32]) -> int:
    """Where a window begins."""
    for frame in np.flatnonzero(where == window[0]):
        if np.array_equal(where[frame : frame + WINDOW], window):
            return int(frame)
    raise AssertionError("What is heard is not what came")


def test_the_page_keeps_to_the_servers_content_policy(browser: Browser, service: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{service}?view=relief")
    page.get_by_role("button", name="church bells").click()
    page.locator("[data-tense=now]", has_text="church bells").wait_for()
    page.get_by_role("button", name="Pause").wait_for()
    context.close()
    assert complaints == []


def test_a_song_is_made_shown_heard_and_saved(page: Page, service: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    page.goto(f"{service}?view=flat")
    page.get_by_role("button", name="Make").click()
    page.get_by_label("Plan").fill('verse 2 "funky piano" | outro 2 "church bells"')
    page.get_by_role("button", name="Make it").click()
    page.get_by_text(re.compile(r"^done")).wait_for()
    player = page.locator("audio[aria-label=Song]")
    player.evaluate("player => { player.preload = 'auto'; player.load(); }")
    page.wait_for_function("player => player.duration > 0.5", arg=player.element_handle())
    for kind in ("wav", "flac", "ogg", "mp3"):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Save Song as {kind}").click()
        samples, rate = soundfile.read(io.BytesIO(Path(download.value.path()).read_bytes()))
        assert rate == RATE and len(samples) > RATE // 2


@pytest.mark.parametrize("kind", ["Remix", "Extend"])
def test_an_upload_is_drawn_anew_or_goes_on(page: Page, service: str, tmp_path: Path, kind: str) -> None:
    recording = tmp_path / "tone.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(RATE) / 20)).astype("<i2").tobytes())
    page.goto(f"{service}?view=flat")
    page.get_by_role("button", name="Make").click()
    page.get_by_role("button", name=kind).click()
    page.get_by_label("Recording").set_input_files(recording)
    page.get_by_role("textbox", name="Prompt", exact=True).fill("church bells")
    page.get_by_role("button", name="Make it").click()
    page.get_by_text(re.compile(r"^done")).wait_for()
    page.get_by_role("link", name=f"Save {kind}: church bells as flac").wait_for()


def test_a_walk_from_prompt_to_prompt_is_made(page: Page, service: str) -> None:
    page.goto(f"{service}?view=flat")
    page.get_by_role("button", name="Make").click()
    page.get_by_role("button", name="Walk").click()
    page.get_by_role("textbox", name="Prompts", exact=True).fill("funky piano\nchurch bells")
    page.get_by_role("button", name="Make it").click()
    page.get_by_text(re.compile(r"^done")).wait_for()


def test_a_job_is_cancelled_from_the_page(page: Page, service: str) -> None:
    page.goto(f"{service}?view=flat")
    page.get_by_role("button", name="Make").click()
    page.get_by_label("Plan").fill('verse 400 "funky piano"')
    page.get_by_role("button", name="Make it").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("cancelled").wait_for()


def test_a_plan_that_cannot_be_read_is_explained(page: Page, service: str) -> None:
    page.goto(f"{service}?view=flat")
    page.get_by_role("button", name="Make").click()
    page.get_by_label("Plan").fill("verse 2 | chorus 3")
    page.get_by_role("button", name="Make it").click()
    page.get_by_role("alert").wait_for(timeout=PATIENCE_MS)
    assert "plan" in page.get_by_role("alert").inner_text()
