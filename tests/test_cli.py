"""The command line as a whole promises instant help, one-line errors and exit codes scripts can trust."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from riffusion_engine.errors import OutputError, RequestError
from riffusion_rt.cli import main
from riffusion_rt.cli.destination import check_writable, clip_paths, slug
from riffusion_rt.cli.failure import printable

HEAVY = {"PIL", "msgspec", "numpy", "onnxruntime", "scipy", "soundfile", "tokenizers", "torch", "tqdm"}
VERBS = ("generate", "encode", "decode", "inspect", "sample-clips", "export", "doctor")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="riffusion-rt")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the verb ``doctor`` raise whatever it is given."""

    def install(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        module = ModuleType("riffusion_rt.cli.doctor")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "riffusion_rt.cli.doctor", module)

    return install


def test_help_lists_every_verb_with_what_it_does() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        (line,) = [line for line in result.stdout.splitlines() if line.strip().startswith(f"{verb} ")]
        assert line.strip().endswith(".")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"Usage: riffusion-rt {verb}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["generate"], ["--version"]])
def test_help_and_mistypes_load_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from riffusion_rt.cli import main\n"
        f"try: main({arguments!r}, prog_name='riffusion-rt')\n"
        "except SystemExit: pass\n"
        f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "riffusion_rt", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: riffusion-rt ")


def test_no_verb_at_all_shows_the_help() -> None:
    assert "generate" in run().output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generat", "piano"], "did you mean 'generate'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["--frob"], "No such option '--frob'"),
        (["generate"], "Missing argument 'PROMPT'. See `riffusion-rt generate --help`"),
        (["generate", "piano", "--steps", "many"], "'many' is not a valid integer"),
    ],
)
def test_a_mistype_is_one_line_with_where_to_look(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("riffusion-rt: ")
    assert said in result.stderr
    assert "--help`" in result.stderr


def test_an_error_the_user_can_mend_is_one_line_with_its_hint(failing: Any) -> None:
    failing(RequestError("It is\nbroken", hint="Mend it"))
    result = run("doctor")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "riffusion-rt: It is broken. Mend it\n"


def test_an_error_nobody_expected_is_one_line_and_says_how_to_see_more(failing: Any) -> None:
    failing(ZeroDivisionError("by zero"))
    result = run("doctor")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "riffusion-rt: Unexpected ZeroDivisionError: by zero. Run `riffusion-rt --traceback"
    )
    assert result.stderr.count("\n") == 1


def test_traceback_shows_where(failing: Any) -> None:
    failing(ZeroDivisionError("by zero"))
    result = run("--traceback", "doctor")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("riffusion-rt: Unexpected ZeroDivisionError")


def test_an_interrupt_is_one_line_and_130(failing: Any) -> None:
    failing(KeyboardInterrupt())
    result = run("doctor")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "riffusion-rt: Interrupted\n")


def test_messages_cannot_act_on_the_terminal() -> None:
    assert printable("a\x1b[31mb\u202ec\ud800 é\u00a0ピ") == "a\ufffd[31mb\ufffdc\ufffd é\u00a0ピ"


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Funky Piano", "funky-piano"),
        ("(church bells:1.5), [loud]!", "church-bells-1-5-loud"),
        ("ピアノ", "ピアノ"),
        ("../../etc/passwd", "etc-passwd"),
        ("🎹", "clip"),
        ("", "clip"),
        ("x" * 500, "x" * 40),
    ],
)
def test_a_file_is_named_after_its_prompt(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_clips_are_numbered_or_named_by_seed(tmp_path: Path) -> None:
    assert clip_paths(tmp_path / "a.mp3", "x", [7]) == [tmp_path / "a.mp3"]
    assert clip_paths(tmp_path / "a.mp3", "x", [7, 8]) == [tmp_path / "a-0001.mp3", tmp_path / "a-0002.mp3"]
    assert clip_paths(tmp_path, "Funky piano", [7]) == [tmp_path / "funky-piano-7.wav"]
    assert clip_paths(None, "Funky piano", [7, 8]) == [Path("funky-piano-7.wav"), Path("funky-piano-8.wav")]


def test_places_that_cannot_be_written_are_found_out_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_writable([tmp_path / "new" / "folder" / "a.wav"])
    assert not (tmp_path / "new").exists()
    for path in (tmp_path, tmp_path / "file" / "a.wav", tmp_path / ("x" * 300) / "a.wav"):
        with pytest.raises(OutputError, match="Cannot write"):
            check_writable([path])
