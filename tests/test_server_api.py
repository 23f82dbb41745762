"""The server's HTTP surface: jobs and their files, the original's route, facts, and errors that say what to do."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient
from PIL import Image
from toy_server import done, server_of, toy_server

from riffusion_rt import ClipRequest, Riffusion, WalkRequest
from riffusion_rt.server.page import FOR_EVER, add_page

ORIGINAL = {
    "start": {"prompt": "church bells", "seed": 42, "denoising": 0.75, "guidance": 7.0},
    "end": {"prompt": "jazz with piano", "seed": 123},
    "alpha": 0.25,
    "num_inference_steps": 4,
    "seed_image_id": "og_beat",
}


@pytest.fixture(scope="module")
def client(toy_bundle: Path) -> Iterator[TestClient]:
    with toy_server(toy_bundle, most_audio_s=20.0, most_upload_bytes=10**6, most_body_bytes=10**6) as made:
        yield made


@pytest.fixture(scope="module")
def recording() -> bytes:
    times = np.arange(2 * 44100) / 44100
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * 220 * times), 44100, format="FLAC")
    return buffer.getvalue()


def sound(client: TestClient, job: dict[str, Any], form: str = "wav") -> np.ndarray[Any, Any]:
    answer = client.get(job["result"]["audio"][form])
    assert answer.status_code == 200
    samples, _ = soundfile.read(io.BytesIO(answer.content), dtype="float32", always_2d=True)
    return samples.T


def test_a_clip_is_the_librarys_own(client: TestClient, toy_bundle: Path) -> None:
    answer = client.post("/api/v1/generate", json={"prompt": "funky piano", "seed": 3, "steps": 5})
    job = done(client, answer)
    assert job["status"] == "done", job
    assert job["progress"] == 1
    with Riffusion(toy_bundle, device="cpu", threads=1) as alone:
        own = alone.generate("funky piano", seed=3, steps=5)
    picture = np.asarray(Image.open(io.BytesIO(client.get(job["result"]["image"]).content)))
    assert np.mean(picture != np.asarray(own.image)) < 1e-3
    assert sound(client, job).shape == own.samples.shape
    assert job["result"]["duration_s"] == pytest.approx(own.duration_s)


def test_the_same_request_has_the_same_bytes_and_costs_nothing(client: TestClient) -> None:
    first = done(client, client.post("/api/v1/generate", json={"prompt": "same", "seed": 1}))
    again = client.post("/api/v1/generate", json={"prompt": "same", "seed": 1, "steps": 4}).json()
    assert again["status"] == "done", "four steps are the toy's own default"
    assert again["id"] != first["id"]
    for form in ("wav", "flac", "ogg", "mp3"):
        one, two = (client.get(job["result"]["audio"][form]) for job in (first, again))
        assert one.content == two.content
        assert one.headers["content-type"].startswith("audio/")


def test_the_same_request_at_the_same_time_is_made_once(client: TestClient) -> None:
    before = server_of(client).service.owner.counts.rows
    answers = [client.post("/api/v1/generate", json={"prompt": "at once", "steps": 20}) for _ in range(4)]
    jobs = [done(client, answer) for answer in answers]
    assert server_of(client).service.owner.counts.rows - before == 2 * 20
    assert len({client.get(job["result"]["audio"]["wav"]).content for job in jobs}) == 1


def test_all_kinds_of_jobs_are_done(client: TestClient, recording: bytes) -> None:
    walk = {"waypoints": [{"prompt": "a"}, {"prompt": "b", "seed": 2}], "alphas": [0.0, 0.5, 1.0]}
    walked = done(client, client.post("/api/v1/interpolate", json=walk))
    assert walked["result"]["duration_s"] == pytest.approx(3 * 0.64)
    song = done(
        client, client.post("/api/v1/song", json={"plan": 'intro 2 "bells" | verse 2 "piano"', "seed": 5})
    )
    assert song["result"]["duration_s"] == pytest.approx(4 * 0.32)
    assert "piano" in client.get(song["result"]["plan"]).text
    sections = {
        "sections": [{"name": "intro", "bars": 1}, {"name": "verse", "bars": 2, "prompt": ""}],
        "seed_image": "",
    }
    assert done(client, client.post("/api/v1/song", json=sections))["status"] == "done"
    files = {"audio": ("x.bin", recording)}
    remix = {"request": json.dumps({"prompt": "bells", "strength": 0.5})}
    remixed = done(client, client.post("/api/v1/remix", files=files, data=remix))
    assert remixed["result"]["duration_s"] == pytest.approx(2.0)
    extended = done(
        client,
        client.post("/api/v1/extend", files=files, data={"request": json.dumps({"duration_s": 0.5})}),
    )
    assert extended["result"]["duration_s"] == pytest.approx(2.5, abs=0.02)
    metadata = soundfile.SoundFile(io.BytesIO(client.get(remixed["result"]["audio"]["flac"]).content)).comment
    assert "(upload)" in metadata
    assert not re.search(r"/tmp|upload-", metadata)
    assert not list(server_of(client).service.folder.glob("upload-*"))


def test_pictures_may_be_sent_as_data_urls(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    body = {"prompt": "x", "seed_image": url, "strength": 0.5, "mask": url}
    assert done(client, client.post("/api/v1/generate", json=body))["status"] == "done"
    other = done(
        client, client.post("/api/v1/generate", json={**body, "mask": None, "seed_image": "beat-94"})
    )
    assert other["status"] == "done"


def test_a_running_job_shows_its_progress_and_what_it_looks_like(client: TestClient) -> None:
    job = client.post("/api/v1/generate", json={"prompt": "slow", "steps": 900}).json()
    while not (seen := client.get(job["url"]).json())["preview"]:
        assert seen["status"] in ("queued", "running")
    picture = client.get(seen["preview"])
    assert Image.open(io.BytesIO(picture.content)).size == (64, 64)
    assert picture.headers["cache-control"] == "no-store"
    client.delete(job["url"])
    ended = client.get(job["url"], params={"wait": 10}).json()
    assert ended["status"] == "cancelled"
    assert client.get(f"{job['url']}/audio.wav").status_code == 409


def test_players_may_ask_for_a_range(client: TestClient) -> None:
    job = done(client, client.post("/api/v1/generate", json={"prompt": "same", "seed": 1}))
    url = job["result"]["audio"]["wav"]
    whole = client.get(url).content
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert client.get(url, headers={"Range": "bytes=-5"}).content == whole[-5:]
    assert client.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    for odd in ("bytes=5-1-2", "apples=1-2", "bytes=" + "9" * 5000 + "-"):
        assert client.get(url, headers={"Range": odd}).status_code == 200


@pytest.mark.parametrize("path", ["/run_inference/", "/run_inference"])
def test_the_original_web_app_is_answered_as_by_its_own_server(client: TestClient, path: str) -> None:
    answer = client.post(path, content=json.dumps(ORIGINAL), headers={"Origin": "http://elsewhere.example"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == "*"
    output = answer.json()
    assert set(output) == {"image", "audio", "duration_s"}
    head, _, body = output["audio"].partition(",")
    assert head == "data:audio/mpeg;base64"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(body)))
    assert len(samples) / rate == pytest.approx(output["duration_s"], abs=0.1)
    head, _, body = output["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).format == "JPEG"


def test_the_original_surface_makes_the_librarys_walk(client: TestClient, toy_bundle: Path) -> None:
    output = client.post("/run_inference/", json=ORIGINAL).json()
    points = [
        {"prompt": "church bells", "seed": 42, "guidance": 7.0, "strength": 0.75},
        {"prompt": "jazz with piano", "seed": 123, "guidance": 7.0, "strength": 0.75},
    ]
    with Riffusion(toy_bundle, device="cpu", threads=1) as alone:
        request = WalkRequest(tuple(points), (0.25,), steps=4, seed_image="og_beat")  # type: ignore[arg-type]
        *_, own = alone.interpolate(request)
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(output["image"].partition(",")[2]))), np.float32)
    assert np.abs(made - np.asarray(own.image, np.float32)).mean() < 4, "but for what JPEG loses"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [
        b"no json",
        b"[]",
        b"{}",
        {**ORIGINAL, "alpha": 1.5},
        {**ORIGINAL, "seed_image_id": "../../etc/passwd"},
        {**ORIGINAL, "seed_image_id": "data:image/png;base64,AAAA"},
        {**ORIGINAL, "mask_image_id": "none_such"},
        {**ORIGINAL, "num_inference_steps": 0},
        {**ORIGINAL, "start": {"prompt": "x" * 5000, "seed": 1}},
        {**ORIGINAL, "start": {"prompt": "x", "seed": -1}},
    ],
)
def test_the_original_surface_says_what_is_wrong_in_plain_text(client: TestClient, wrong: Any) -> None:
    content = wrong if isinstance(wrong, bytes) else json.dumps(wrong)
    answer = client.post("/run_inference/", content=content)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.text) > 10


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("generate", {"prompt": "x", "steps": 0}, 422, "invalid"),
        ("generate", {"prompt": "x", "no_such": 1}, 422, "invalid"),
        ("generate", {"prompt": "\ud800"}, 422, "invalid"),
        ("generate", {"prompt": "x", "guidance": "a lot"}, 422, "invalid"),
        ("generate", {"prompt": "x", "strength": 0.5}, 400, "bad_request"),
        ("generate", {"prompt": "x", "seed_image": "/etc/passwd"}, 400, "bad_request"),
        ("generate", {"prompt": "x", "seed_image": "data:image/png;base64,AAAA"}, 415, "bad_picture"),
        ("generate", {"prompt": "x", "duration_s": 21}, 422, "invalid"),
        ("interpolate", {"waypoints": []}, 422, "invalid"),
        ("interpolate", {"waypoints": [{"prompt": "x"}], "alphas": [0.5] * 40}, 400, "bad_request"),
        ("song", {"plan": "/etc/passwd.toml"}, 400, "bad_request"),
        ("song", {"plan": 'verse 400 "x"'}, 400, "bad_request"),
        ("song", {"plan": 'verse 2 "x"', "seed_image": "/etc/passwd"}, 400, "bad_request"),
        ("song", {}, 400, "bad_request"),
        ("song", {"sections": [{"name": "verse"}]}, 400, "bad_request"),
    ],
)
def test_wrong_requests_are_told_why(
    client: TestClient, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post(
        f"/api/v1/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]


def test_uploads_are_judged_by_their_content(client: TestClient, recording: bytes) -> None:
    def send(content: bytes, request: str = '{"prompt": "x"}') -> Any:
        return client.post(
            "/api/v1/remix", files={"audio": ("sound.wav", content, "audio/wav")}, data={"request": request}
        )

    assert send(b"not sound").status_code == 415
    long = io.BytesIO()
    soundfile.write(long, np.zeros(44100 * 60, np.int16), 44100, format="FLAC")
    assert send(long.getvalue()).json()["error"]["code"] == "bad_request"
    assert send(recording, "{").status_code == 422
    assert send(recording, '{"steps": 0}').status_code == 422
    assert client.post("/api/v1/remix", data={"request": "{}"}).status_code == 422
    assert not list(server_of(client).service.folder.glob("upload-*"))


def test_a_body_too_large_is_refused_with_an_answer(client: TestClient) -> None:
    large = b"x" * (10**6 + 1)
    for path in ("/api/v1/generate", "/run_inference/"):
        answer = client.post(path, content=large)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
    answer = client.post(
        "/api/v1/generate", content=iter([large]), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413, "no length was said beforehand"


def test_the_schema_has_what_a_page_needs(client: TestClient) -> None:
    schema = client.get("/schema").json()
    assert schema == client.get("/api/v1/schema").json()
    assert schema["model"]["clip_s"] == pytest.approx(0.64)
    assert {"generate", "interpolate", "remix", "extend", "song", "live"} == set(schema["requests"])
    steps = schema["requests"]["live"]["properties"]["steps"]
    assert (steps["type"], steps["minimum"], steps["maximum"], steps["default"]) == ("integer", 1, 1000, 4)
    picture = client.get(schema["seed_images"][0]["url"])
    assert Image.open(io.BytesIO(picture.content)).height == 512
    assert client.get("/api/v1/seed-images/none.png").status_code == 404


def test_an_operator_sees_what_goes_on(client: TestClient) -> None:
    done(client, client.post("/api/v1/generate", json={"prompt": "same", "seed": 1}))
    assert client.get("/healthz").json() == {"status": "ok"}
    text = client.get("/metrics").text
    for name in ("riffusion_unet_rows_total", "riffusion_jobs_running", "riffusion_http_answers_total"):
        assert re.search(rf"^{name}\S* \d", text, re.MULTILINE)
    assert 'route="/api/v1/jobs/{identity}"' in text


def test_the_documentation_names_every_route_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/v1/generate", "/api/v1/remix", "/run_inference/", "/api/v1/jobs/{identity}"} <= set(paths)
    page = client.get("/docs").text
    assert all(path in page for path in paths)
    assert "http://" not in page
    assert "https://" not in page


def test_answers_carry_the_headers_that_keep_a_page_safe(client: TestClient) -> None:
    for path in ("/", "/schema", "/api/v1/jobs/none-such-job"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_only_the_servers_own_names_are_answered(client: TestClient) -> None:
    assert client.get("/schema", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/schema", headers={"Host": "127.0.0.1:3013"}).status_code == 200
    preflight = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/api/v1/generate", headers=preflight).headers
    assert client.options("/run_inference/", headers=preflight).headers["access-control-allow-origin"] == "*"


def test_the_page_is_served_with_headers_that_fit_its_files(client: TestClient, tmp_path: Path) -> None:
    from fastapi import FastAPI

    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "assets" / "index-abc.js").write_text("1")
    app = FastAPI()
    add_page(app, tmp_path)
    with TestClient(app) as page:
        assert page.get("/").text == "<p>page</p>"
        assert page.get("/").headers["cache-control"] == "no-cache"
        assert page.get("/assets/index-abc.js").headers["cache-control"] == FOR_EVER
        assert page.get("/../../etc/passwd").status_code == 404
    empty = FastAPI()
    add_page(empty, tmp_path / "none")
    with TestClient(empty) as notice:
        assert "has not been built" in notice.get("/").text


def test_a_server_with_a_key_wants_it_but_lets_results_be_played(toy_bundle: Path) -> None:
    with toy_server(toy_bundle, api_key="correct horse") as locked:
        body = {"prompt": "x"}
        refused = locked.post("/api/v1/generate", json=body)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "no_key"
        assert locked.post("/run_inference/", json=ORIGINAL).status_code == 401
        assert locked.get("/metrics").status_code == 401
        for headers in ({"Authorization": "Bearer correct horse"}, {"X-API-Key": "correct horse"}):
            answer = locked.post("/api/v1/generate", json=body, headers=headers)
            assert answer.status_code == 202
        assert locked.get("/").status_code == 200
        locked.headers["Authorization"] = "Bearer correct horse"
        job = done(locked, answer)
        del locked.headers["Authorization"]
        assert locked.get(job["url"]).status_code == 401
        assert locked.get(job["result"]["audio"]["wav"]).status_code == 200


def test_too_many_requests_are_told_when_to_come_back(toy_bundle: Path) -> None:
    with toy_server(toy_bundle, requests_a_minute=3, most_queued=0, at_once=1) as strict:
        long = {"prompt": "long", "steps": 900}
        first = strict.post("/api/v1/generate", json=long)
        busy = strict.post("/api/v1/generate", json={**long, "seed": 1})
        assert (first.status_code, busy.status_code) == (202, 503)
        assert int(busy.headers["retry-after"]) >= 1
        assert strict.post("/api/v1/generate", json={**long, "seed": 2}).status_code == 503
        limited = strict.post("/api/v1/generate", json=long)
        assert limited.status_code == 429
        assert 1 <= int(limited.headers["retry-after"]) <= 60
        assert strict.get("/schema").status_code == 200


def test_a_failing_stage_fails_its_job_and_nothing_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from riffusion_rt import pipeline

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/secret/path")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "finished_clip", broken)
        job = done(client, client.post("/api/v1/generate", json={"prompt": "broken"}))
        original = client.post("/run_inference/", json={**ORIGINAL, "alpha": 0.9})
    assert job["status"] == "failed"
    assert job["error"]["code"] == "internal"
    assert original.status_code == 500
    for text in (json.dumps(job), original.text):
        assert "secret" not in text
        assert "Traceback" not in text
    assert done(client, client.post("/api/v1/generate", json={"prompt": "broken"}))["status"] == "done"


def test_library_and_server_agree_on_a_request_without_a_prompt(client: TestClient) -> None:
    assert ClipRequest("").prompt == ""
    assert done(client, client.post("/api/v1/generate", json={"prompt": ""}))["status"] == "done"
