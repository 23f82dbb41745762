"""The script that runs Dockerfiles without Docker reads each of them whole, and copies as COPY does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
IMAGES = sorted((ROOT / "docker").glob("Dockerfile.*"))
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "USER", "COPY", "RUN", "ENTRYPOINT", "CMD", "HEALTHCHECK"}


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "docker" / "exercise_run_lines.py"
    spec = importlib.util.spec_from_file_location("exercise_run_lines", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.suffix[1:])
def test_every_instruction_of_our_images_is_known(script: Any, image: Path) -> None:
    read = script.read_dockerfile(image.read_text())
    assert {instruction.word for instruction in read} <= KNOWN | set(script.NOTHING_TO_RUN)
    runs = [instruction.text for instruction in read if instruction.word == "RUN"]
    assert runs
    assert not any("\\" in text for text in runs), "continued lines are joined"


def test_comments_and_continuations_are_read_as_docker_does(script: Any) -> None:
    read = script.read_dockerfile("# a comment\nRUN one \\\n    # inside\n    && two\n\nuser 10001\n")
    assert [(each.word, each.text) for each in read] == [("RUN", "one && two"), ("USER", "10001")]


def test_names_are_put_in(script: Any) -> None:
    assert (
        script.substituted("python:${PYTHON}-$KIND", {"PYTHON": "3.12", "KIND": "slim"}) == "python:3.12-slim"
    )
    assert dict(script.pairs_of('A=1 B="two words" C')) == {"A": "1", "B": "two words"}


def test_files_land_where_copy_puts_them(script: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "engine" / "__pycache__").mkdir(parents=True)
    (context / "engine" / "a.py").write_text("a")
    (context / "engine" / "__pycache__" / "a.pyc").write_text("a")
    (context / "LICENSE").write_text("mine")
    build = script.Stage("python:3", tmp_path / "build", False, folder="/source")
    script.copy_in(build, {}, context, "LICENSE ./")
    script.copy_in(build, {}, context, "engine engine")
    assert (build.root / "source" / "LICENSE").read_text() == "mine"
    assert [path.name for path in (build.root / "source" / "engine").iterdir()] == ["a.py"]
    final = script.Stage("python:3", tmp_path / "final", False)
    script.copy_in(final, {"build": build}, context, "--from=build /source/engine /opt/engine")
    assert (final.root / "opt" / "engine" / "a.py").read_text() == "a"
