"""The page's files and a live session of tones that can be foretold to the sample: a server for the page's tests."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STATIC = Path(__file__).parents[1] / "riffusion_rt" / "server" / "static"
RATE = 44100
BAR_FRAMES = 28_224
"""A quarter of the usual bar, so that tests need not wait."""
BARS_A_CLIP = 2
LOOK_AHEAD_S = 2.56
GLIDE_CLIPS = 2
TONES_HZ = (196.0, 311.13, 523.25)


def tones(start: int, frames: int) -> NDArray[np.int16]:
    """Samples of the session from frame ``start`` on: the same ones however they are cut."""
    seconds = np.arange(start, start + frames) / RATE
    sound = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in TONES_HZ)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 0.31 * seconds)
    return np.rint(9000 / len(TONES_HZ) * 2 * sound * swell).astype("<i2")


@dataclass
class LiveServer:
    """What the tests may turn while the page runs, and what they may read."""

    port: int
    times_real_time: float = 50.0
    """Seconds of music made in a second."""
    look_ahead_s: float = LOOK_AHEAD_S
    """Seconds sent beyond what was heard."""
    drop_at: int | None = None
    """Frame before which the line is cut, once."""
    received: list[dict[str, Any]] = field(default_factory=list)
    """All messages of the page."""
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.port}/"

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Messages of one type, in their order."""
        return [message for message in self.received if message["type"] == kind]

    def wait_for(self, kind: str, patience_s: float = 30.0, **wanted: Any) -> dict[str, Any]:
        """A message of that type with those values, once it is here."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for message in reversed(self.of_type(kind)):
                if wanted.items() <= message.items():
                    return message
            time.sleep(0.02)
        raise AssertionError(f"No {kind} with {wanted} among {self.of_type(kind)}")


@contextlib.contextmanager
def live_server() -> Iterator[LiveServer]:
    """Serve until the block is left."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state = LiveServer(port)
    config = uvicorn.Config(_app(state), port=port, log_level="error", ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(10)


def _app(state: LiveServer) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles
    from starlette.websockets import WebSocket, WebSocketDisconnect

    from riffusion_rt.seed_image_set import seed_images

    async def schema(_: Request) -> Response:
        return JSONResponse(_schema())

    async def seed_picture(request: Request) -> Response:
        image = next(each for each in seed_images() if each.name == request.path_params["name"])
        return Response(_grey(image.path), media_type="image/png")

    async def clip_picture(request: Request) -> Response:
        images = seed_images()
        return Response(_grey(images[request.path_params["clip"] % len(images)].path), media_type="image/png")

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, asyncio.CancelledError):
            await _Session(state, socket).run()

    return Starlette(
        routes=[
            Route("/api/v1/schema", schema),
            Route("/api/v1/seed-images/{name}.png", seed_picture),
            Route("/api/v1/live/{session}/pictures/{clip:int}.png", clip_picture),
            WebSocketRoute("/api/v1/live", live),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ]
    )


class _Session:
    def __init__(self, state: LiveServer, socket: Any) -> None:
        self._state, self._socket = state, socket
        self._playing = False

    async def run(self) -> None:
        setup = await self._take()
        wanted = setup.get("session")
        name = wanted if wanted in self._state.sessions else f"s{len(self._state.sessions) + 1}"
        fresh = {"next": 0, "acked": 0, "from": setup["prompts"], "to": setup["prompts"], "since": 0}
        self._facts = self._state.sessions.setdefault(name, {**fresh, "seed": setup["seed"]})
        if wanted == name:
            self._facts["next"] = setup["from_frame"]
        await self._say(
            type="ready",
            session=name,
            sample_rate=RATE,
            channels=1,
            look_ahead_s=self._state.look_ahead_s,
            bar_s=BAR_FRAMES / RATE,
        )
        self._name = name
        sender = asyncio.create_task(self._play())
        try:
            while True:
                await self._steer(await self._take())
        finally:
            sender.cancel()

    async def _take(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json()
        self._state.received.append(message)
        return message

    async def _say(self, **message: Any) -> None:
        await self._socket.send_json(message)

    async def _steer(self, message: dict[str, Any]) -> None:
        facts = self._facts
        if message["type"] == "ack":
            facts["acked"] = message["played_frames"]
        elif message["type"] in ("play", "pause"):
            self._playing = message["type"] == "play"
        elif message["type"] == "prompts":
            facts.update({"from": facts["to"], "to": message["prompts"], "since": facts["next"]})
            facts["seed"] = message.get("seed", facts["seed"])
            await self._say(type="steered", prompts=facts["to"], from_frame=facts["next"])

    async def _play(self) -> None:
        while True:
            facts, state = self._facts, self._state
            ahead = facts["next"] + BAR_FRAMES - facts["acked"]
            if not self._playing or ahead > state.look_ahead_s * RATE:
                await asyncio.sleep(0.02)
                continue
            if state.drop_at is not None and facts["next"] >= state.drop_at:
                state.drop_at = None
                await self._socket.close(1012)
                return
            frames = BAR_FRAMES - facts["next"] % BAR_FRAMES
            await asyncio.sleep(frames / RATE / state.times_real_time)
            await self._socket.send_bytes(self._block(frames))
            facts["next"] += frames
            behind = max(0.0, 1 - state.times_real_time)
            await self._say(
                type="status",
                state="playing",
                steps=15,
                wanted_steps=15,
                times_real_time=state.times_real_time,
                behind_s=behind,
                note="",
            )

    def _block(self, frames: int) -> bytes:
        facts = self._facts
        start = facts["next"]
        clip = start // (BARS_A_CLIP * BAR_FRAMES)
        share = min(1.0, (start - facts["since"]) / (GLIDE_CLIPS * BARS_A_CLIP * BAR_FRAMES) + 0.25)
        mix = {each["text"]: 0.0 for each in facts["from"] + facts["to"]}
        for prompts, part in ((facts["from"], 1 - share), (facts["to"], share)):
            for each in prompts:
                mix[each["text"]] += part * each["weight"]
        header = {
            "start_frame": start,
            "frames": frames,
            "clip": clip,
            "bar": start // BAR_FRAMES,
            "prompts": [{"text": text, "weight": weight} for text, weight in mix.items() if weight > 1e-6],
            "up_next": None,
            "seed": facts["seed"] + clip // 4,
            "alpha": share,
            "columns": [0, 256],
            "picture_frame": clip * BARS_A_CLIP * BAR_FRAMES,
            "picture": f"/api/v1/live/{self._name}/pictures/{clip}.png",
            "compute_s": 0.01,
            "gain_db": 0.0,
            "note": "",
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 4)
        return struct.pack("<I", len(text)) + text + tones(start, frames).tobytes()


def _grey(path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.open(path).convert("L").save(buffer, "PNG")
    return buffer.getvalue()


def _schema() -> dict[str, Any]:
    from riffusion_rt.seed_image_set import seed_images

    number = {"type": "number", "minimum": 0, "maximum": 100, "default": 5.0, "description": "How much."}
    steps = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, {"type": "null"}], "default": None}
    text = {"type": "string", "default": "", "description": "What to stay away from."}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    live = {
        "guidance": number,
        "steps": steps,
        "sampler": {"type": "string"},
        "negative_prompt": text,
        "strength": share,
        "glide": {"type": "integer", "minimum": 1, "maximum": 100, "default": 2},
    }
    return {
        "version": "0",
        "model": {
            "name": "tones",
            "sample_rate": RATE,
            "channels": 1,
            "clip_s": BARS_A_CLIP * BAR_FRAMES / RATE,
            "columns": 512,
            "bands": 512,
        },
        "samplers": ["ddim", "dpm++2m-karras"],
        "formats": ["wav", "flac", "ogg", "mp3"],
        "seed_images": [
            {
                "id": each.name,
                "label": each.sounds,
                "bpm": each.bpm,
                "url": f"/api/v1/seed-images/{each.name}.png",
            }
            for each in seed_images()
        ],
        "live": {"format": ["s16le"], "block_s": BAR_FRAMES / RATE, "look_ahead_s": LOOK_AHEAD_S},
        "requests": {
            name: {"type": "object", "properties": live}
            for name in ("live", "generate", "song", "remix", "extend")
        },
    }
