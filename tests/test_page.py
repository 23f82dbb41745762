"""The page in a browser: what is heard is taken from its audio thread and compared with what the server sent."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import theilslopes
from stand_in_live_server import BAR_FRAMES, RATE, STATIC, LiveServer, live_server, tones

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

driver = pytest.importorskip(
    "playwright.sync_api", reason="the browser's driver is not installed: pip install playwright"
)
pytest.importorskip("uvicorn", reason="the server's libraries are not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.skipif(not (STATIC / "index.html").exists(), reason="the page is not built: npm run build"),
    pytest.mark.flaky(reruns=2),
]

TAP = Path(__file__).parent / "data" / "tap.js"
PATIENCE_MS = 60_000
FADE_FRAMES = 400
expect = driver.expect
expect.set_options(timeout=PATIENCE_MS)
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[*SOFTWARE_GL, "--no-sandbox"])
        yield opened
        opened.close()


def new_context(browser: Browser, **settings: Any) -> BrowserContext:
    """A browser's window that waits as long as a busy machine needs."""
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE_MS)
    context.set_default_navigation_timeout(PATIENCE_MS)
    return context


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with live_server() as serving:
        yield serving


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    # The tap is a script of the test's own, which the real server's policy rightly forbids.
    context = new_context(browser, viewport={"width": 1280, "height": 800}, bypass_csp=True)
    context.add_init_script(path=TAP)
    opened = context.new_page()
    failures: list[str] = []
    opened.on("pageerror", lambda error: failures.append(str(error)))
    yield opened
    context.close()
    assert failures == []


def start(page: Page, server: LiveServer, prompt: str = "funky piano", query: str = "view=flat") -> None:
    """Open the page, type a prompt, and wait until it sounds."""
    page.goto(f"{server.url}?{query}")
    page.get_by_label("What should be heard?").fill(prompt)
    page.keyboard.press("Enter")
    wait_sounding(page)


def wait_sounding(page: Page) -> None:
    """Wait until music leaves the audio thread: by then the server has been asked for it, and the page knows."""
    page.wait_for_function("window.soundedAt")
    wait_heard(page, 0.3)


def wait_heard(page: Page, seconds: float) -> None:
    page.wait_for_function(f"window.heardFrames && heardFrames() >= {int(seconds * RATE)}")


def wait_settled(page: Page) -> int:
    """Wait until much music lies ready, as soon it does on a machine that is not overrun; frames played by then."""
    page.wait_for_function("document.querySelector('[role=meter]').ariaValueNow > 5")
    return int(page.evaluate("heardFrames()"))


def heard(page: Page) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(page.evaluate("heardSamples()")), np.float32)


def first_frame(samples: NDArray[np.float32], least: int = 0) -> tuple[int, int]:
    """Where in ``samples`` the music is at full level, and which frame of the session that is."""
    begin = int(np.flatnonzero(samples)[0]) + FADE_FRAMES
    window = samples[begin : begin + 64]
    guesses = range(least, least + 20 * RATE)
    known = tones(least, 20 * RATE + 64).astype(np.float32) / 32768
    for frame in guesses:
        if known[frame - least] == window[0] and np.array_equal(
            known[frame - least : frame - least + 64], window
        ):
            return begin, frame
    raise AssertionError("What is heard is nowhere in what was sent")


def check_exact(samples: NDArray[np.float32], seconds: float) -> None:
    """All that was heard is what was sent, no frame lost, doubled or changed, for so long at least."""
    begin, frame = first_frame(samples)
    length = len(samples) - begin
    assert length >= seconds * RATE
    np.testing.assert_array_equal(samples[begin:], tones(frame, length).astype(np.float32) / 32768)


def dry(page: Page) -> str:
    """How often the music ran dry, as the page says inside."""
    if not page.get_by_role("heading", name="Inside").count():
        page.keyboard.press("Escape")
        page.keyboard.press("i")
    return page.locator("[data-fact='Ran dry']").inner_text()


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.thorough)])
def test_music_is_heard_as_it_was_sent_to_the_sample(page: Page, server: LiveServer, seconds: int) -> None:
    server.look_ahead_s = 7.68
    start(page, server)
    settled = wait_settled(page)
    stumbles = dry(page)
    wait_heard(page, settled / RATE + seconds + 0.5)
    samples = heard(page)[settled:]
    check_exact(samples, seconds)
    assert np.sqrt(np.mean(samples[RATE:] ** 2)) > 0.1
    assert dry(page) == stumbles
    assert page.locator("[data-fact='Never came']").inner_text() == "0 frames"


def test_a_new_prompt_is_up_next_then_heard_then_past(page: Page, server: LiveServer) -> None:
    start(page, server, "funky piano")
    stack = page.get_by_role("list", name="Prompts")
    page.get_by_label("What should be heard?").fill("church bells")
    page.keyboard.press("Enter")
    stack.locator("[data-tense=next]", has_text="church bells").wait_for()
    server.wait_for("prompts", prompts=[{"text": "church bells", "weight": 1}])
    line = stack.locator("[data-tense=now]", has_text="church bells")
    line.wait_for()
    small = line.evaluate("line => parseFloat(getComputedStyle(line).fontSize)")
    stack.locator("[data-tense=past]", has_text="funky piano").wait_for()
    grown = "([line, small]) => parseFloat(getComputedStyle(line).fontSize) > small"
    page.wait_for_function(grown, arg=[line.element_handle(), small])
    stack.get_by_role("button", name="funky piano").click()
    server.wait_for("prompts", prompts=[{"text": "funky piano", "weight": 1}])


def test_the_timeline_moves_with_the_audio_clock(page: Page, server: LiveServer) -> None:
    start(page, server)
    wait_heard(page, 1.5)
    at = "[Number(document.querySelector('.stage').dataset.frame), tapped.currentTime, tapped.outputLatency]"
    facts = []
    for _ in range(12):
        facts.append(page.evaluate(f"new Promise(done => requestAnimationFrame(() => done({at})))"))
        page.wait_for_timeout(300)
    frames, times, latencies = np.array(facts).T
    assert np.all(np.diff(frames) > 0)
    lag = times - frames / RATE
    # What began at some moment is heard later by the card's latency; an animation frame and a quantum are the rest.
    # Where the machine was too busy to paint, the picture is late by more: that is no drift.
    assert np.ptp(np.sort(lag)[:5]) < 0.12, lag
    assert theilslopes(frames, times)[0] == pytest.approx(RATE, rel=0.05)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    stood_still = (
        "async () => { const frame = () => document.querySelector('.stage').dataset.frame; const before = frame();"
        " await new Promise(done => setTimeout(done, 500)); return frame() === before; }"
    )
    assert any(page.evaluate(stood_still) for _ in range(20))
    assert latencies.min() >= 0


def test_a_dropped_line_is_taken_up_without_a_lost_frame(page: Page, server: LiveServer) -> None:
    server.look_ahead_s = 7.68
    server.drop_at = 14 * BAR_FRAMES
    start(page, server)
    settled = wait_settled(page)
    wait_heard(page, settled / RATE + 9.5)
    setups = server.of_type("setup")
    assert [setup.get("from_frame") for setup in setups] == [None, 14 * BAR_FRAMES]
    check_exact(heard(page)[settled:], 9)


def test_a_slow_server_raises_the_banner_and_makes_no_click(page: Page, server: LiveServer) -> None:
    server.times_real_time = 0.55
    start(page, server)
    banner = page.get_by_test_id("behind")
    banner.wait_for()
    expect(banner).to_contain_text("behind")
    page.get_by_role("button", name="Take fewer steps").click()
    server.wait_for("config", steps=8)
    wait_heard(page, 8)
    samples = heard(page)
    quiet = np.convolve(np.abs(samples), np.ones(512), "valid") == 0
    assert quiet[RATE:].any(), "the music never ran dry, so that nothing was tried"
    interior = np.abs(np.diff(tones(0, 10 * RATE).astype(np.float32) / 32768)).max()
    fade_step = 1 / (0.008 * RATE)
    assert np.abs(np.diff(samples)).max() <= interior + fade_step
    server.times_real_time = 50
    banner.wait_for(state="detached")


def test_a_link_brings_the_moment_back(page: Page, server: LiveServer) -> None:
    query = "view=flat&seed=77&guidance=6&numInferenceSteps=9&denoising=0.85&seedImageId=beat-117&alphaVelocity=0.5"
    start(page, server, "jazz piano", query)
    page.keyboard.press("Escape")
    page.keyboard.press("l")
    link = page.get_by_label("Link to this moment").input_value()
    asked = parse_qs(urlparse(link).query)
    assert asked["prompt"] == ["jazz piano"] and asked["seed"] == ["77"] and asked["alphaVelocity"] == ["0.5"]
    first = server.of_type("setup")[0]
    page.goto(link)
    page.get_by_role("button", name="Play", exact=True).click()
    wait_sounding(page)
    second = server.of_type("setup")[1]
    assert first["config"] == second["config"]
    assert first["config"] == {
        "guidance": 6,
        "steps": 9,
        "strength": 0.85,
        "seed_image": "beat-117",
        "glide": 2,
    }
    assert (first["prompts"], first["seed"]) == (second["prompts"], second["seed"])


def press_between_frames(page: Page, key: str) -> tuple[int, int]:
    """Press ``key``; a frame that was heard before it, and one that is heard after it."""
    at = "Number(document.querySelector('.stage').dataset.frame)"
    before = page.evaluate(at)
    page.keyboard.press(key)
    painted = page.evaluate(
        at
    )  # As old as the last painting: only the next one is surely later than the key.
    return before, page.wait_for_function(f"(painted) => {at} > painted && {at}", arg=painted).json_value()


def test_a_recording_is_what_was_heard_and_as_long(page: Page, server: LiveServer) -> None:
    soundfile = pytest.importorskip("soundfile")
    start(page, server)
    page.keyboard.press("Escape")
    begin = press_between_frames(page, "r")
    page.wait_for_timeout(2500)
    end = press_between_frames(page, "r")
    sounds = {}
    for kind in ("wav", "flac"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save as {kind}").click()
        assert re.fullmatch(rf"funky-piano-\d+\.{kind}", download.value.suggested_filename)
        sounds[kind], rate = soundfile.read(
            io.BytesIO(Path(download.value.path()).read_bytes()), dtype="int16"
        )
        assert rate == RATE
    assert end[0] - begin[1] <= len(sounds["wav"]) <= end[1] - begin[0]
    np.testing.assert_array_equal(sounds["wav"], sounds["flac"])
    _, frame = first_frame(np.concatenate([np.zeros(1), sounds["wav"] / 32768]).astype(np.float32))
    np.testing.assert_array_equal(sounds["wav"], tones(frame - FADE_FRAMES, len(sounds["wav"])))


def test_several_prompts_are_weighed(page: Page, server: LiveServer) -> None:
    start(page, server, "strings")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    page.get_by_role("button", name="Add a prompt").click()
    page.get_by_label("Prompt 2", exact=True).fill("organ")
    page.get_by_label("Weight of prompt 2").fill("0.5")
    server.wait_for("prompts", prompts=[{"text": "strings", "weight": 1}, {"text": "organ", "weight": 0.5}])


def test_the_beat_is_chosen_uploaded_and_departed_from_in_words(page: Page, server: LiveServer) -> None:
    start(page, server)
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.get_by_label(re.compile("117 BPM")).first.check(force=True)
    page.get_by_text("keep it on beat").click()
    server.wait_for("config", seed_image="beat-117")
    server.wait_for("config", strength=0.75)
    picture = Path(STATIC.parents[1] / "seed_images" / "vibes-94.png")
    page.locator("input[type=file]").set_input_files(picture)
    page.get_by_text("Your picture").wait_for()
    data = base64.b64encode(picture.read_bytes()).decode()
    server.wait_for("config", seed_image=f"data:image/png;base64,{data}")


def test_settings_are_made_from_the_servers_schema(page: Page, server: LiveServer) -> None:
    start(page, server)
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.get_by_role("slider", name="Guidance").fill("7.5")
    page.get_by_label("Stay away from").fill("hum")
    page.get_by_label("Sampler").select_option("ddim")
    server.wait_for("config", guidance=7.5)
    server.wait_for("config", negative_prompt="hum")
    server.wait_for("config", sampler="ddim")


def test_a_clip_is_heard_again_and_gone_back_to(page: Page, server: LiveServer) -> None:
    start(page, server, "marimba", "view=flat&seed=9")
    wait_heard(page, 1)
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    clip = page.get_by_role("button", name=re.compile("Hear again: marimba.*0:00"))
    clip.locator("canvas").wait_for()
    page.get_by_role("button", name="Go back to this").last.click()
    server.wait_for("prompts", prompts=[{"text": "marimba", "weight": 1}], seed=9)
    clip.click()
    again = page.get_by_label(re.compile("Hearing again: marimba"))
    page.wait_for_function("element => element.duration > 0.5", arg=again.element_handle())
    server.wait_for("pause")
    page.get_by_role("button", name="Back to the music").click()
    page.get_by_role("button", name="Pause").wait_for()


def test_keys_do_what_the_help_says(page: Page, server: LiveServer) -> None:
    start(page, server)
    page.keyboard.press("Escape")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("b s")
    expect(page.get_by_label("What should be heard?")).to_have_value("b s")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Sound").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Sound").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Sound")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("play or pause")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_what_is_heard_is_said_to_screen_readers(page: Page, server: LiveServer) -> None:
    start(page, server)
    said = page.get_by_test_id("announcer")
    expect(said).to_have_text("Playing funky piano")
    page.get_by_role("button", name="Pause").click()
    expect(said).to_have_text("Paused")


VIEWPORTS = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.mark.parametrize("device", VIEWPORTS)
def test_no_rule_of_accessibility_is_broken(browser: Browser, server: LiveServer, device: str) -> None:
    axe_module = pytest.importorskip("axe_playwright_python.sync_playwright")
    width, height = VIEWPORTS[device]
    context = new_context(browser, viewport={"width": width, "height": height}, reduced_motion="reduce")
    context.add_init_script(path=TAP)
    page = context.new_page()
    axe = axe_module.Axe()

    def check(place: str) -> None:
        found = axe.run(page).response["violations"]
        assert not [(place, rule["id"], rule["nodes"][0]["html"]) for rule in found]

    page.goto(server.url)
    page.get_by_role("button", name="church bells").wait_for()
    check("before any music")
    page.get_by_role("button", name="church bells").click()
    wait_sounding(page)
    check("while it plays")
    for key in "mbslcni":
        page.keyboard.press(key)
        page.locator("section").wait_for()
        check(f"sheet {key}")
        page.keyboard.press("Escape")
    page.keyboard.press("?")
    check("help")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="About").click()
    check("about")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_less_motion_means_a_picture_that_stands_still(browser: Browser, server: LiveServer) -> None:
    context = new_context(browser, reduced_motion="reduce")
    page = context.new_page()
    page.goto(server.url)
    page.locator("[data-view=flat] canvas").wait_for()
    context.close()


def test_without_webgl_the_picture_is_flat(browser: Browser, server: LiveServer) -> None:
    context = new_context(browser)
    context.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext ="
        " function (kind, ...rest) { return kind === '2d' ? get.call(this, kind, ...rest) : null; };"
    )
    page = context.new_page()
    for query in ("", "?view=relief"):
        page.goto(server.url + query)
        page.locator("[data-view=flat] canvas").wait_for()
    context.close()


def test_a_processor_is_not_asked_for_a_landscape(browser: Browser, server: LiveServer) -> None:
    context = new_context(browser)
    page = context.new_page()
    page.goto(server.url)
    page.locator("[data-view=flat] canvas").wait_for()
    context.close()


def test_the_relief_rises_where_there_is_webgl(browser: Browser, server: LiveServer) -> None:
    from PIL import Image

    context = new_context(browser, viewport={"width": 480, "height": 300})
    page = context.new_page()
    page.goto(f"{server.url}?view=relief")
    page.locator("[data-view=relief] canvas").wait_for()
    deadline = time.monotonic() + PATIENCE_MS / 1000
    spread = 0.0
    while spread < 20 and time.monotonic() < deadline:
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot(timeout=PATIENCE_MS))).convert("L"))
        spread = float(pixels[60:200, 240:].std())
    assert spread >= 20
    context.close()


def test_everything_comes_from_the_server_itself(page: Page, server: LiveServer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    start(page, server, query="view=relief")
    foreign = [url for url in asked if not url.startswith((server.url, "blob:", "data:"))]
    assert asked and foreign == []


def test_music_of_another_rate_than_the_schema_says_is_played_at_its_own(
    page: Page, server: LiveServer
) -> None:
    def older(route: Route) -> None:
        answer = route.fetch()
        facts = answer.json()
        facts["model"]["sample_rate"] = RATE // 2
        route.fulfill(response=answer, json=facts)

    page.route("**/api/v1/schema", older)
    server.look_ahead_s = 7.68
    start(page, server)
    page.wait_for_function(f"tapped.sampleRate === {RATE} && window.soundedAt")
    settled = wait_settled(page)
    wait_heard(page, settled / RATE + 2.5)
    check_exact(heard(page)[settled:], 2)


def refused(error: dict[str, str]) -> str:
    return json.dumps({"error": error})


def test_the_page_waits_for_a_server_that_opens_its_model(page: Page, server: LiveServer) -> None:
    opening = refused({"code": "busy", "message": "The model is being opened", "hint": ""})
    page.route("**/api/v1/schema", lambda route: route.fulfill(status=503, body=opening), times=1)
    page.goto(f"{server.url}?view=flat")
    said = page.get_by_role("alert", name="").filter(has_text="The model is being opened")
    said.wait_for()
    said.wait_for(state="detached")


def test_the_page_says_so_when_there_is_no_server(page: Page, server: LiveServer) -> None:
    page.route("**/api/v1/schema", lambda route: route.abort())
    page.goto(f"{server.url}?view=flat")
    page.get_by_text("cannot be reached").wait_for()


def test_a_server_with_a_key_is_opened_with_it(page: Page, server: LiveServer) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(status=401, body=refused({"code": "no_key", "message": "This server wants a key"}))

    page.route("**/api/v1/schema", guard)
    page.goto(f"{server.url}?view=flat")
    page.get_by_label("This server wants a key").fill("sesame")
    page.get_by_role("button", name="Open").click()
    page.get_by_label("This server wants a key").wait_for(state="detached")
    page.get_by_role("button", name="church bells").click()
    assert server.wait_for("setup")["key"] == "sesame"
