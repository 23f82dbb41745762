"""The page's built files: small, complete, and made from the source beside them."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
STATIC = ROOT / "riffusion_rt" / "server" / "static"
MOST_BYTES = 300_000
"""Of all files together, as they travel."""


def built_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_all_files_together_stay_under_300_kilobytes_compressed() -> None:
    sizes = {name: len(gzip.compress(data, 9, mtime=0)) for name, data in built_files(STATIC).items()}
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_the_relief_is_fetched_only_by_those_who_see_it() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert (reliefs := list(STATIC.glob("assets/relief-*.js")))
    assert not any(relief.name in page for relief in reliefs)


def test_no_file_is_fetched_from_elsewhere() -> None:
    for name, data in built_files(STATIC).items():
        if name.endswith((".html", ".css")):
            assert not re.search(rb"""(src|href)=["']?(https?:)?//|url\(["']?(https?:)?//|@import""", data), (
                name
            )


def test_every_package_of_the_bundle_comes_with_its_licence() -> None:
    licences = (STATIC / "LICENCES.txt").read_text(encoding="utf-8")
    packages = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name in [*packages, "tailwindcss", "scheduler"]:
        facts = locked[f"node_modules/{name}"]
        assert f"{name} {facts['version']} ({facts['license']})" in licences
    assert "SIL OPEN FONT LICENSE" in licences


@pytest.mark.skipif(shutil.which("npx") is None, reason="there is no npm")
@pytest.mark.skipif(not (WEB / "node_modules" / "vite").exists(), reason="run npm ci in web/ first")
def test_the_built_files_are_made_from_this_source(tmp_path: Path) -> None:
    command = ["npx", "--no-install", "vite", "build", "--outDir", str(tmp_path / "static"), "--emptyOutDir"]
    subprocess.run(command, cwd=WEB, check=True, capture_output=True)
    fresh, kept = built_files(tmp_path / "static"), built_files(STATIC)
    assert fresh.keys() == kept.keys()
    assert [name for name in kept if fresh[name] != kept[name]] == []
