"""Live sessions: sound without gaps at the client's pace, steered within bars, and still there after a lost line."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from starlette.websockets import WebSocketDisconnect
from toy_server import done, server_of, toy_server

from riffusion_engine.errors import RequestError
from riffusion_rt import Riffusion, StreamRequest
from riffusion_rt.server.heard_clock import Playing
from riffusion_rt.server.live_sessions import mix_text
from riffusion_rt.stream_request import read_mix

BAR = 14_112
"""Samples of the toy's bar."""
RATE = 44_100
LIVE = "ws://localhost/api/v1/live"


@pytest.fixture(scope="module")
def server(toy_bundle: Path) -> Iterator[TestClient]:
    with toy_server(toy_bundle, most_live=2, resumable_s=5.0) as made:
        yield made


class Listener:
    """One socket of a page."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.told: list[dict[str, Any]] = []
        self.headers: list[dict[str, Any]] = []
        self.sound: list[NDArray[Any]] = []

    def say(self, kind: str, **values: Any) -> None:
        self._socket.send_text(json.dumps({"type": kind, **values}))

    def hear(self) -> Any:
        """The next message."""
        message = self._socket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        if message.get("bytes") is not None:
            content = message["bytes"]
            (length,) = struct.unpack("<I", content[:4])
            assert (4 + length) % 4 == 0
            header = json.loads(content[4 : 4 + length])
            form = self.ready["format"]
            samples = np.frombuffer(content[4 + length :], "<i2" if form == "s16le" else "<f4")
            assert len(samples) == header["frames"]
            self.headers.append(header)
            self.sound.append(samples)
            return header
        fact = json.loads(message["text"])
        self.told.append(fact)
        return fact

    def until(self, kind: str, **wanted: Any) -> dict[str, Any]:
        """The next text message of a type with these values."""
        while True:
            message: dict[str, Any] = self.hear()
            if message.get("type") == kind and wanted.items() <= message.items():
                return message

    def blocks(self, count: int, *, played: bool = True) -> list[dict[str, Any]]:
        """So many blocks more; each is said to be played as soon as it is there."""
        goal = len(self.headers) + count
        while len(self.headers) < goal:
            header = self.hear()
            if played and "start_frame" in header:
                self.say("ack", played_frames=header["start_frame"] + header["frames"])
        return self.headers[goal - count :]

    @property
    def ready(self) -> dict[str, Any]:
        return next(each for each in self.told if each["type"] == "ready")


@contextmanager
def listener(client: TestClient, prompt: str = "funky piano", **setup: Any) -> Iterator[Listener]:
    with client.websocket_connect(LIVE) as socket:
        made = Listener(socket)
        prompts = [{"text": prompt, "weight": 1}]
        made.say("setup", **{"prompts": prompts, "seed": 1, "config": {"steps": 2}, **setup})
        made.until("ready")
        made.say("play")
        yield made


def test_blocks_follow_each_other_to_the_sample_and_say_what_they_are(server: TestClient) -> None:
    with listener(server) as page:
        blocks = page.blocks(6)
    ends = [block["start_frame"] + block["frames"] for block in blocks]
    assert [block["start_frame"] for block in blocks] == [0, *ends[:-1]]
    assert [block["bar"] for block in blocks] == list(range(6))
    assert [block["clip"] for block in blocks] == [0, 0, 1, 1, 2, 2]
    assert [block["columns"] for block in blocks[:2]] == [[0, 32], [32, 64]]
    assert [block["picture_frame"] for block in blocks] == [0, 0, 2 * BAR, 2 * BAR, 4 * BAR, 4 * BAR]
    assert blocks[0]["prompts"] == [{"text": "funky piano", "weight": 1.0}]
    assert all(np.abs(sound).max() > 0 for sound in page.sound)


def test_the_sound_is_the_streams_own(server: TestClient, toy_bundle: Path) -> None:
    with listener(server, format="f32le") as page:
        page.blocks(4)
    with Riffusion(toy_bundle, device="cpu", threads=1) as alone:
        stream = iter(alone.stream(StreamRequest("funky piano", seed=1, steps=2), live=False))
        own = [next(stream).samples[0] for _ in range(4)]
    assert page.headers[0]["steps"] == 2
    assert [len(sound) for sound in page.sound] == [len(sound) for sound in own]
    if all(header["steps"] == 2 for header in page.headers):
        difference = np.concatenate(page.sound) - np.concatenate(own)
        assert np.sqrt(np.mean(difference**2)) < 0.02


def test_no_more_is_sent_than_the_look_ahead_beyond_what_was_played(server: TestClient) -> None:
    with listener(server) as page:
        most = page.ready["look_ahead_s"] * RATE
        page.blocks(4, played=False)
        time.sleep(0.3)
        page.say("pause")
        page.until("status", state="paused")
        assert page.headers[-1]["start_frame"] <= most
        page.say("play")
        page.say("ack", played_frames=2 * BAR)
        page.blocks(2, played=False)
        assert most < page.headers[-1]["start_frame"] <= most + 2 * BAR


def test_other_prompts_are_heard_with_the_next_bar_that_was_not_sent(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(2)
        page.say("prompts", prompts=[{"text": "bells", "weight": 3}, {"text": "drums", "weight": 1}], glide=1)
        steered = page.until("steered")
        block = page.blocks(1)[0]
        assert block["start_frame"] == steered["from_frame"]
        assert {each["text"]: each["weight"] for each in block["prompts"]} == {"bells": 0.75, "drums": 0.25}
        assert block["up_next"] is None
        page.say("prompts", prompts=[{"text": "piano"}], glide=4)
        page.until("steered")
        (on_the_way,) = page.blocks(1)
        assert on_the_way["up_next"] == [{"text": "piano", "weight": 1.0}]
        assert {each["text"] for each in on_the_way["prompts"]} == {"bells", "drums", "piano"}


def test_settings_change_while_it_plays(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(2)
        page.say("config", config={"steps": 3, "seed_image": "og_beat", "strength": 1.0, "glide": None})
        page.until("status", wanted_steps=3)
        page.say("config", seed_image=None, negative_prompt="hum")
        page.say("config", config={"guidance": 3.0})
        page.say("config", config={"steps": 4})
        page.blocks(4)
        assert page.told[-1]["wanted_steps"] == 4
        (session,) = [each for each in server_of(server).service.live._sessions.values() if each.connected]
        heard = session._stream.request
        assert (heard.seed_image, heard.negative_prompt, heard.guidance) == (None, "hum", 3.0)
        page.blocks(3)
        page.say("config", config={"seed": 77})
        page.until("steered")
        assert page.blocks(1)[0]["seed"] == 77


def test_a_reset_begins_anew_and_counts_on(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(3)
        page.say("reset", seed=9)
        begin = page.until("reset")["from_frame"]
        first = page.blocks(1)[0]
    assert first["start_frame"] == begin == page.headers[-2]["start_frame"] + page.headers[-2]["frames"]
    assert (first["seed"], first["bar"]) == (9, 0)
    assert first["clip"] > page.headers[-2]["clip"]
    assert first["picture_frame"] == begin


def test_every_clip_has_its_picture(server: TestClient) -> None:
    with listener(server) as page:
        for block in page.blocks(4):
            answer = server.get(block["picture"])
            picture = Image.open(io.BytesIO(answer.content))
            assert (picture.mode, picture.size) == ("L", (64, 64))
        missing = page.headers[0]["picture"].replace("pictures/0", "pictures/999")
        assert server.get(missing).status_code == 404


def test_a_lost_line_is_taken_up_where_it_broke(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(3)
        identity, lacking = page.ready["session"], page.headers[1]["start_frame"]
    with listener(server, session=identity, from_frame=lacking) as again:
        assert again.ready["session"] == identity
        blocks = again.blocks(3)
    assert [block["start_frame"] for block in blocks[:2]] == [
        page.headers[1]["start_frame"],
        page.headers[2]["start_frame"],
    ]
    np.testing.assert_array_equal(again.sound[0], page.sound[1])
    assert blocks[2]["start_frame"] == blocks[1]["start_frame"] + blocks[1]["frames"]


def test_an_unknown_session_is_a_new_one(server: TestClient) -> None:
    with listener(server, session="no-such-session", from_frame=10**6) as page:
        assert page.ready["session"] != "no-such-session"
        assert page.blocks(1)[0]["start_frame"] == 0


def test_wrong_messages_are_told_and_the_session_goes_on(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(1)
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("prompts", {"prompts": []}),
            ("prompts", {"prompts": [{"text": "x", "weight": -1}]}),
            ("prompts", {"prompts": [{"text": "x" * 5000}]}),
            ("config", {"config": {"steps": 0}}),
            ("config", {"config": {"no_such": 1}}),
            ("config", {"config": {"seed_image": "/etc/passwd"}}),
            ("config", {"config": {"strength": 7}}),
            ("setup", {"prompts": [{"text": "x"}]}),
            ("dance", {}),
            ("ack", {"played_frames": -1}),
        ]
        for kind, values in wrong:
            page.say(kind, **values)
            assert page.until("error")["message"]
        page._socket.send_bytes(b"\x00")
        page.until("error")
        page.blocks(2)


def test_a_failing_engine_is_told_and_play_goes_on_with_it(
    server: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from riffusion_engine.errors import DeviceError
    from riffusion_rt import pipeline

    def broken(*_: object, **__: object) -> None:
        raise DeviceError("The device is gone", hint="Plug it in")

    with listener(server) as page:
        page.blocks(2)
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, "decode_pictures", broken)
            page.until("error", code="engine_failed")
            page.until("status", state="paused")
        page.say("play")
        page.blocks(2)


def test_idle_listeners_stop_the_music(toy_bundle: Path) -> None:
    with toy_server(toy_bundle, idle_s=2.0) as sleepy, listener(sleepy) as page:
        page.until("status", state="idle")
        page.say("play")
        page.until("status", state="playing")
        if (
            page.headers
        ):  # What came before the pause may fill the look-ahead: only what was played makes room.
            last = page.headers[-1]
            page.say("ack", played_frames=last["start_frame"] + last["frames"])
        page.blocks(1)


def test_there_are_so_many_sessions_and_no_more_unless_one_was_left(server: TestClient) -> None:
    with listener(server) as one:
        one.blocks(1)
        with listener(server) as two:
            two.blocks(1)
            with server.websocket_connect(LIVE) as third:
                third.send_text(json.dumps({"type": "setup", "prompts": [{"text": "x"}]}))
                assert json.loads(third.receive_text())["code"] == "busy"
                assert third.receive()["code"] == 1013
        with listener(server) as three:
            three.blocks(1)


def test_a_second_socket_takes_a_session_over(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(1)
        with listener(server, session=page.ready["session"], from_frame=0) as other:
            other.blocks(1)
            with pytest.raises(WebSocketDisconnect) as ended:
                while True:
                    page.hear()
            assert ended.value.code == 1000


def test_pages_of_other_sites_are_refused(server: TestClient) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with server.websocket_connect(LIVE, headers=headers) as socket:
            assert socket.receive()["code"] == 1008
    with server.websocket_connect(LIVE, headers={"Origin": "http://localhost"}) as socket:
        socket.send_text("no json")
        assert json.loads(socket.receive_text())["type"] == "error"
        assert socket.receive()["code"] == 1008


def test_a_key_may_come_with_the_setup(toy_bundle: Path) -> None:
    with toy_server(toy_bundle, api_key="correct horse") as locked:
        with locked.websocket_connect(LIVE) as socket:
            socket.send_text(json.dumps({"type": "setup", "prompts": [{"text": "x"}], "key": "wrong"}))
            assert socket.receive()["code"] == 1008
        with listener(locked, key="correct horse") as page:
            page.blocks(1)


def test_jobs_and_a_live_session_go_on_beside_each_other(server: TestClient) -> None:
    with listener(server) as page:
        page.blocks(1)
        jobs = [server.post("/api/v1/generate", json={"prompt": "x", "seed": seed}) for seed in range(6)]
        page.blocks(4)
        assert all(done(server, job)["status"] == "done" for job in jobs)
        page.blocks(2)


def test_draining_closes_sessions_with_the_code_for_it(toy_bundle: Path) -> None:
    with toy_server(toy_bundle) as ending, listener(ending) as page:
        page.blocks(1)
        server_of(ending).service.begin_drain()
        with pytest.raises(WebSocketDisconnect) as ended:
            while True:
                page.hear()
        assert ended.value.code == 1001
        with ending.websocket_connect(LIVE) as late:
            assert late.receive()["code"] == 1001
        assert ending.post("/api/v1/generate", json={"prompt": "x"}).status_code == 503
        assert ending.get("/readyz").status_code == 503
        assert ending.get("/healthz").status_code == 200


def test_prompts_become_the_mix_that_streams_read() -> None:
    assert dict(read_mix(mix_text([("a b", 1.0), ("c + d", 3.0)]))) == {"a b": 0.25, "c and d": 0.75}
    assert mix_text([("only", 0.2), ("silent", 0.0)]) == "only"
    with pytest.raises(RequestError):
        mix_text([("silent", 0.0)])


def test_what_is_heard_is_what_was_said_and_never_what_was_not_sent() -> None:
    playing = Playing(100)
    assert playing.heard_s(1000, going_on=True) == 0
    playing.say(500)
    playing.say(200)
    assert 5.0 <= playing.heard_s(1000, going_on=True) < 5.5
    assert playing.heard_s(1000, going_on=False) == 5.0
    assert playing.heard_s(450, going_on=True) == 4.5
