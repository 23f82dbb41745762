"""The verb that serves: refused in one line where it cannot, before a model is opened."""

from __future__ import annotations

import socket
import sys

import pytest
from click.testing import CliRunner

from riffusion_rt.cli import main


def test_a_server_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("riffusion_rt.server.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert "riffusion-rt[server]" in result.output


@pytest.mark.parametrize(
    "wrong", [["--at-once", "0"], ["--api-key", "short"], ["--threads", "0"], ["--port", "0"]]
)
def test_settings_out_of_range_are_refused_in_one_line(wrong: list[str]) -> None:
    result = CliRunner().invoke(main, ["serve", *wrong])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(main, ["serve", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 2
    assert "Cannot listen" in result.output
    assert "--port" in result.output
