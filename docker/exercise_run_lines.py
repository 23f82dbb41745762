"""A Dockerfile in; its COPY and RUN lines run in plain folders, where no Docker engine is at hand, and a report out.

    sudo python docker/exercise_run_lines.py docker/Dockerfile.cpu --work FOLDER --serve

Each stage gets a folder with Debian 12 made by debootstrap, in which its lines run by chroot; with ``--serve`` the
entry point then starts as the image's user and is asked by the image's own HEALTHCHECK. What differs from a real build
is reported: Debian's Python stands in for the image's, nothing is isolated, and of a base image that is no Debian the
parts of a line run one by one, as far as they go. Needs root and debootstrap; FOLDER takes a few gigabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RELEASE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
DEBIAN_BASED = ("python:", "debian:")
HEALTHY_WITHIN_S = 180.0
STOPPED_WITHIN_S = 90.0
BETWEEN_ASKS_S = 2.0
NOTHING_TO_RUN = ("VOLUME", "EXPOSE", "STOPSIGNAL", "LABEL")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined."""

    word: str
    text: str


@dataclass
class Stage:
    """One FROM and what it has come to."""

    image: str
    root: Path
    stands_in: bool
    """Whether Debian stands in for another distribution."""
    env: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    folder: str = "/"
    user: str = "0"
    start: dict[str, list[str]] = field(default_factory=dict)


class Report:
    """What was run, what failed, and what was not run and why."""

    def __init__(self) -> None:
        self.failed = 0

    def say(self, verdict: str, what: str, why: str = "") -> None:
        """Tell one line's fate."""
        self.failed += verdict == "FAILED"
        short = " ".join(what.split())
        print(f"{verdict:8s} {short[:110]}{' - ' + why if why else ''}", flush=True)


def read_dockerfile(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [Instruction(word.upper(), rest[0] if rest else "") for word, *rest in pairs]


def substituted(text: str, names: dict[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced by what is known."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: names.get(found[1], ""), text)


def pairs_of(text: str) -> Iterator[tuple[str, str]]:
    """NAME=VALUE pairs of ENV and ARG; an ARG without a value is left out."""
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if equals:
            yield name, value


def make_base(folder: Path, mirror: str) -> None:
    """Debian 12 in a folder, once."""
    if (folder / "etc" / "debian_version").exists():
        return
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(folder), mirror]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def new_root(base: Path, root: Path, files: list[Path]) -> None:
    """A stage's own copy of the base, with what this machine needs to reach the network."""
    # Only one file system: debootstrap may have left the kernel's own mounted in the base.
    subprocess.run(["cp", "--archive", "--one-file-system", "--no-target-directory", base, root], check=True)
    for name in ("proc", "sys"):
        (root / name).mkdir(exist_ok=True)
    command = root / "usr/local/bin/python"
    if not command.exists():
        command.symlink_to("/usr/bin/python3")
    for file in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *files):
        target = root / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            shutil.copytree(file, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(file, target)


@contextmanager
def kernel_files(root: Path) -> Iterator[None]:
    """/proc of the running kernel inside a root."""
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


def in_root(stage: Stage, command: list[str]) -> list[str]:
    """A command line that runs ``command`` in a stage as its user."""
    inside = ["sh", "-c", 'cd "$0" && exec "$@"', stage.folder, *command]
    return ["chroot", f"--userspec={stage.user}:{stage.user}", str(stage.root), *inside]


def copy_in(stage: Stage, stages: dict[str, Stage], context: Path, text: str) -> None:
    """A COPY line."""
    words = text.split()
    source = context
    if words[0].startswith("--from="):
        source = stages[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    into = stage.root / (target if target.startswith("/") else f"{stage.folder}/{target}").lstrip("/")
    # Linked, not copied, from a stage that is done: an environment with CUDA's libraries takes gigabytes.
    copy = shutil.copy2 if source == context else os.link
    for name in sources:
        path = source / name.lstrip("/")
        if path.is_dir():
            leave_out = shutil.ignore_patterns("__pycache__") if source == context else None
            shutil.copytree(
                path, into, symlinks=True, ignore=leave_out, dirs_exist_ok=True, copy_function=copy
            )
        else:
            place = into / path.name if target.endswith("/") or len(sources) > 1 else into
            place.parent.mkdir(parents=True, exist_ok=True)
            copy(path, place)


def run_line(stage: Stage, text: str, extra: dict[str, str], report: Report) -> bool:
    """A RUN line, whole; where the base is another, part by part. Returns whether the stage can go on."""
    # Where Debian stands in for another distribution, one part that it cannot do need not keep the others back.
    parts = re.split(r"\s+&&\s+", text) if stage.stands_in else [text]
    done_all = True
    for part in parts:
        command = in_root(stage, ["/bin/sh", "-c", part])
        began = time.monotonic()
        with kernel_files(stage.root):
            done = subprocess.run(
                command,
                env={**stage.env, **extra},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode == 0:
            report.say("ran", f"RUN {part}", f"{time.monotonic() - began:.0f} s")
            continue
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        if stage.stands_in:
            report.say("not run", f"RUN {part}", f"Debian stands in for {stage.image}: {last}")
        else:
            report.say("FAILED", f"RUN {part}", last)
            done_all = False
    return done_all


def serve(stage: Stage, extra: dict[str, str], report: Report) -> None:
    """Start the image's command as its user, wait for its HEALTHCHECK, and stop it as Docker would."""
    env = {**stage.env, **extra, "HOME": "/home/riffusion"}
    command = [*stage.start.get("ENTRYPOINT", []), *stage.start.get("CMD", [])]
    with kernel_files(stage.root):
        running = subprocess.Popen(in_root(stage, command), env=env, start_new_session=True)
        try:
            healthy = _healthy(stage, env, running)
            report.say("ran" if healthy else "FAILED", f"CMD {' '.join(command)}", f"as user {stage.user}")
            check = " ".join(stage.start["HEALTHCHECK"])
            report.say("ran" if healthy else "FAILED", f"HEALTHCHECK {check}")
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                code = running.wait(STOPPED_WITHIN_S)
                report.say("ran", "STOPSIGNAL SIGTERM", f"it ended with {code}")
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
                report.say("FAILED", "STOPSIGNAL SIGTERM", "it went on")


def _healthy(stage: Stage, env: dict[str, str], running: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while time.monotonic() < deadline and running.poll() is None:
        asked = subprocess.run(
            in_root(stage, stage.start["HEALTHCHECK"]), env=env, capture_output=True, check=False
        )
        if asked.returncode == 0 and running.poll() is None:
            return True
        time.sleep(BETWEEN_ASKS_S)
    return False


def exercise(arguments: argparse.Namespace) -> int:
    """Go through a Dockerfile; returns how many of its lines failed."""
    report, stages, names = Report(), dict[str, Stage](), dict[str, str]()
    stage: Stage | None = None
    extra = dict(pairs_of(shlex.join(arguments.env)))
    make_base(arguments.work / "base", arguments.mirror)
    for number, instruction in enumerate(read_dockerfile(arguments.dockerfile.read_text())):
        word, text = instruction.word, instruction.text
        if word == "FROM":
            image, *called = substituted(text, names).split()
            root = arguments.work / f"{arguments.dockerfile.suffix[1:]}-{number}"
            if root.exists():
                raise SystemExit(f"{root} is there already: delete it")
            new_root(arguments.work / "base", root, arguments.file)
            stage = Stage(image, root, not image.startswith(DEBIAN_BASED))
            stages[called[1] if called else str(number)] = stage
            report.say("stood in", f"FROM {image}", "Debian 12 and its python3")
        elif word == "ARG":
            names.update(pairs_of(text))
        elif stage is None:
            raise SystemExit(f"{word} comes before FROM")
        elif word == "ENV":
            stage.env.update(pairs_of(substituted(text, {**names, **stage.env})))
        elif word == "WORKDIR":
            stage.folder = text
            (stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            stage.user = text
        elif word == "COPY":
            copy_in(stage, stages, arguments.context, text)
            report.say("ran", f"COPY {text}")
        elif word == "RUN":
            if not run_line(stage, text, extra, report):
                break
        elif word in ("ENTRYPOINT", "CMD"):
            stage.start[word] = json.loads(text)
        elif word == "HEALTHCHECK":
            stage.start[word] = json.loads(text[text.index("[") :])
        else:
            report.say("not run", f"{word} {text}", "nothing to run" if word in NOTHING_TO_RUN else "unknown")
    if stage is not None and not report.failed and arguments.serve:
        serve(stage, extra, report)
    return report.failed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where roots are made; delete it afterwards")
    parser.add_argument("--context", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument(
        "--serve", action="store_true", help="start the image's command and ask its HEALTHCHECK"
    )
    parser.add_argument(
        "--file", type=Path, action="append", default=[], help="of this machine, put into roots"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for RUN and CMD")
    sys.exit(1 if exercise(parser.parse_args()) else 0)


if __name__ == "__main__":
    main()
