"""The page's built files out, with headers that let browsers keep what never changes; a notice where there are none."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from starlette.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
"""Where the page's build lies."""

ASK_AGAIN = "no-cache"
FOR_EVER = "public, max-age=31536000, immutable"

MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>riffusion-rt</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body><main><h1>riffusion-rt is running</h1>
<p>The page has not been built: run <code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>.</p>
<p>The API is there: <a href="/docs">what it offers</a>, <a href="/schema">its ranges</a>.</p>
</main></body></html>
"""


class PageFiles(StaticFiles):
    """Files of the build. What lies in ``assets/`` bears its hash in its name."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file, with how long it may be kept."""
        answer = await super().get_response(path, scope)
        if answer.status_code == 200:
            hashed = path.startswith("assets/")
            answer.headers["Cache-Control"] = FOR_EVER if hashed else ASK_AGAIN
        return answer


def add_page(app: FastAPI, folder: Path = STATIC) -> None:
    """Serve the page at ``/``, after all other routes."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        page = folder / "index.html"
        headers = {"Cache-Control": ASK_AGAIN}
        if not page.is_file():
            return HTMLResponse(MISSING, 200, headers)
        return FileResponse(page, headers=headers)

    if folder.is_dir():
        app.mount("/", PageFiles(directory=folder, check_dir=False))


def docs_routes(app: FastAPI) -> APIRouter:
    """``/docs``: the API as one plain page, made here, because it may load nothing from elsewhere."""
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    return routes


def docs_page(schema: dict[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            what = html.escape(operation.get("description") or operation.get("summary", ""))
            answers = ", ".join(
                f"{html.escape(str(status))} {html.escape(answer.get('description', ''))}"
                for status, answer in operation.get("responses", {}).items()
            )
            parts.append(
                f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{what}</p>"
                f"{_inputs(schema, operation)}<p>Answers: {answers}</p></section>"
            )
    title = html.escape(f"{schema['info']['title']} {schema['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>body{font:1rem/1.5 system-ui;'
        "max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;"
        "vertical-align:top}section{border-top:1px solid #bbb}</style></head><body><main>"
        f"<h1>{title}</h1><p>{html.escape(schema['info'].get('description', ''))}</p>"
        f'<p>The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>{"".join(parts)}</main></body></html>'
    )


def _inputs(schema: dict[str, Any], operation: dict[str, Any]) -> str:
    rows = [
        (parameter["name"], parameter.get("schema", {}), parameter.get("description", ""))
        for parameter in operation.get("parameters", ())
    ]
    for body in operation.get("requestBody", {}).get("content", {}).values():
        model = body.get("schema", {})
        if "$ref" in model:
            model = schema["components"]["schemas"][model["$ref"].rpartition("/")[2]]
        rows += [
            (name, facts, facts.get("description", "")) for name, facts in model.get("properties", {}).items()
        ]
    cells = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(_range(facts))}</td>"
        f"<td>{html.escape(text)}</td></tr>"
        for name, facts, text in rows
    )
    return f"<table>{cells}</table>" if cells else ""


def _range(facts: dict[str, Any]) -> str:
    options = [facts, *facts.get("anyOf", ())]
    kinds = [each["type"] for each in options if "type" in each and each["type"] != "null"]
    least = next((each["minimum"] for each in options if "minimum" in each), None)
    greatest = next((each["maximum"] for each in options if "maximum" in each), None)
    return " ".join(kinds[:1]) + (
        f", {least} … {greatest}" if least is not None and greatest is not None else ""
    )
