"""Fine-tuned networks and the checkpoint they come from in, an ordinary diffusers checkpoint out."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from riffusion_engine.errors import OutputError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.checkpoint import Source
from riffusion_export.companions import copy_companions
from riffusion_export.facts import FACTS_FILES, facts_json
from riffusion_export.silence import quiet

CHECKPOINT_FOLDER = "checkpoint"


def save_checkpoint(
    source: Source, unet: Any, text_encoder: Any, params: SpectrogramParams | None, run: Path
) -> Path:
    """Write ``run/checkpoint``, whole or not at all: the trained networks, and the rest as ``source`` has it.

    ``params`` are the training pictures': the checkpoint now hears as they do.
    """
    output = run / CHECKPOINT_FOLDER
    try:
        with tempfile.TemporaryDirectory(dir=run, prefix=".checkpoint-") as scratch, quiet():
            folder = Path(scratch) / CHECKPOINT_FOLDER
            unet.save_pretrained(folder / "unet")
            text_encoder.save_pretrained(folder / "text_encoder")
            source.load("vae").save_pretrained(folder / "vae")  # type: ignore[operator]
            copy_companions(source.folder, folder)
            name = f"{source.facts.name}-{run.resolve().name}"
            description = f"Fine-tuned from {source.facts.name}: {source.facts.description}".rstrip(": ")
            facts = replace(
                source.facts,
                name=name,
                description=description,
                spectrogram=params or source.facts.spectrogram,
                loras=(),
            )
            (folder / FACTS_FILES[-1]).write_text(facts_json(facts), encoding="utf-8")
            (folder / "README.md").write_text(f"# {name}\n\n{description}.\n", encoding="utf-8")
            if output.exists():
                shutil.rmtree(output)
            folder.replace(output)
    except OSError as error:
        raise OutputError(
            f"Cannot write {output}: {error.strerror}", hint="Choose a writable place with -o"
        ) from error
    return output
