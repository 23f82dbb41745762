"""Not TensorRT: a module with the names that the builder calls, which records the calls and builds nothing.

It stands in where a test is about the cache, the lock, the child process or the header. What the environment variable
STAND_IN_DOES says it does instead of a build: "refuse", "die", "chat", "crawl".
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = os.environ.get("STAND_IN_VERSION", "0.0-stand-in")

BuilderFlag = SimpleNamespace(TF32="TF32")
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
LayerType = SimpleNamespace()
ComputeCapability = SimpleNamespace(SM75="SM75", SM89="SM89", SM120="SM120")


class ILogger:
    ERROR = 1


class IProgressMonitor:
    pass


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self.logger = logger

    def parse_from_file(self, path: str) -> bool:
        return Path(path).is_file()


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(flags=flags)

    def create_builder_config(self) -> Any:
        return _Config()

    def create_optimization_profile(self) -> Any:
        return _Profile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        does = os.environ.get("STAND_IN_DOES", "")
        if does == "refuse":
            self.logger.log(ILogger.ERROR, "no kernel\nfor this")
            return None
        config.progress_monitor.phase_start("building", None, 4)
        for step in range(4):
            if does == "crawl":
                time.sleep(0.1)
            if does == "chat":
                print("a line that is no event", flush=True)
            if does == "die" and step == 2:
                print("the last words of native code", file=sys.stderr, flush=True)
                os.abort()
            if not config.progress_monitor.step_complete("building", step):
                return None
        config.progress_monitor.phase_finish("building")
        with Path(os.environ["STAND_IN_LOG"]).open("a") as log:
            log.write(f"{os.getpid()}\n")
        return b"stand-in, no engine: " + json.dumps([network.flags, config.calls]).encode()


class _Config:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.progress_monitor: Any = None
        self.num_compute_capabilities = 0

    def clear_flag(self, flag: str) -> None:
        self.calls.append(["clear", flag])

    def set_compute_capability(self, capability: str, index: int) -> None:
        self.calls.append([capability, index])

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.calls.append(profile.shapes)
        return len(self.calls)


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self.shapes[name] = [smallest, best, largest]
