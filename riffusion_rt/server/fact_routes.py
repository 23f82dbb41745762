"""What a page or an operator asks of a server: what there is to choose from, whether it lives, and what it does."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool

from riffusion_rt import __version__
from riffusion_rt.bar_grid import BarGrid
from riffusion_rt.samplers import SAMPLERS
from riffusion_rt.server.answers import error_answer
from riffusion_rt.server.job_routes import PREFIX
from riffusion_rt.server.request_schema import controls
from riffusion_rt.server.result_store import AUDIO_TYPES
from riffusion_rt.server.service import NotReady, Service, ServiceSource
from riffusion_rt.stream_request import LOOK_AHEAD_CLIPS

FROM_RECORDINGS = frozenset({"remix", "extend"})
"""Requests that always start from a recording."""

_MADE_HERE = "public, max-age=86400"


def schema_of(service: Service) -> dict[str, Any]:
    """Everything a page builds its controls from."""
    from riffusion_rt.seed_image_set import seed_images

    manifest = service.owner.manifest
    spec, params, grid = manifest.latent, manifest.spectrogram, BarGrid.of(manifest)
    bodies = service.bodies.named()
    requests = {
        name: controls(model, manifest.defaults, seeded=name in FROM_RECORDINGS)
        for name, model in bodies.items()
    }
    return {
        "version": __version__,
        "model": {
            "name": manifest.name,
            "device": service.owner.device,
            "sample_rate": params.sample_rate,
            "channels": params.channels,
            "clip_s": grid.clip_s,
            "columns": spec.width * spec.vae_factor,
            "bands": params.bands,
        },
        "samplers": list(SAMPLERS),
        "formats": list(AUDIO_TYPES),
        "seed_images": [
            {
                "id": image.name,
                "label": image.sounds,
                "bpm": image.bpm,
                "url": f"{PREFIX}/seed-images/{image.name}.png",
            }
            for image in seed_images()
        ],
        "live": {
            "format": ["s16le", "f32le"],
            "block_s": grid.bar_s,
            "look_ahead_s": LOOK_AHEAD_CLIPS * grid.clip_s,
        },
        "limits": {
            "audio_s": service.settings.most_audio_s,
            "upload_bytes": service.settings.most_upload_bytes,
            "body_bytes": service.settings.most_body_bytes,
            "prompt_characters": service.settings.most_prompt_characters,
        },
        "requests": requests,
    }


def fact_routes(source: ServiceSource) -> APIRouter:
    """The routes that change nothing."""
    routes = APIRouter(tags=["facts"])

    @routes.get("/schema")
    @routes.get(f"{PREFIX}/schema")
    async def schema() -> dict[str, Any]:
        """What may be asked for, within which ranges: JSON Schema for every kind of request."""
        return schema_of(source())

    @routes.get(
        f"{PREFIX}/seed-images/{{identity}}.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
    )
    async def seed_picture(identity: Annotated[str, InPath(pattern=r"^[a-z0-9_-]{1,40}$")]) -> Response:
        """One of the seed images that come with the package."""
        from riffusion_rt.seed_image_set import seed_images

        found = next((each for each in seed_images() if each.name == identity), None)
        if found is None:
            raise HTTPException(404, "There is no such seed image")
        content = await run_in_threadpool(found.path.read_bytes)
        return Response(content, media_type="image/png", headers={"Cache-Control": _MADE_HERE})

    @routes.get("/healthz")
    async def healthy() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @routes.get("/readyz", responses={503: {"description": "Not yet, or no more"}})
    async def ready() -> Any:
        """Whether work is accepted."""
        try:
            draining = source().draining
        except NotReady:
            return error_answer(
                503, "not_ready", "The model is being opened", "Try again in a moment", {"Retry-After": "2"}
            )
        if draining:
            return error_answer(503, "draining", "The server is shutting down", "Ask another one")
        return {"status": "ready"}

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters and gauges for Prometheus."""
        content = await run_in_threadpool(source().metrics.text)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
