"""A checkpoint's folder in; the files beside its networks out: tokenizer, scheduler, licences, card and index."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

from riffusion_engine.errors import ExportError
from riffusion_export.facts import licence_files
from riffusion_export.published_v1 import SCHEDULER_CONFIG
from riffusion_export.silence import quiet


def copy_companions(checkpoint: Path, bundle: Path) -> None:
    """Copy what stands beside the networks of ``checkpoint``, and write the index that pipelines load by.

    Raises:
        ExportError: the tokenizer is incomplete.
    """
    shutil.copytree(checkpoint / "tokenizer", bundle / "tokenizer", dirs_exist_ok=True)
    _copy_scheduler(checkpoint / "scheduler", bundle / "scheduler")
    _complete_tokenizer(bundle / "tokenizer")
    for path in licence_files(checkpoint):
        shutil.copy2(path, bundle)
    card = checkpoint / "README.md"
    if card.is_file():
        shutil.copy2(card, bundle)
    scheduler = json.loads((bundle / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    write_index(bundle, scheduler.get("_class_name", "PNDMScheduler"))


def write_index(folder: Path, scheduler: str = "PNDMScheduler") -> None:
    """Write the ``model_index.json`` of a Stable Diffusion pipeline without a safety checker."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": metadata.version("diffusers"),
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy_scheduler(scheduler: Path, copy: Path) -> None:
    if scheduler.is_dir():
        shutil.copytree(scheduler, copy, dirs_exist_ok=True)
        return
    with quiet():
        from diffusers import PNDMScheduler

        PNDMScheduler(**SCHEDULER_CONFIG).save_pretrained(copy)


def _complete_tokenizer(folder: Path) -> None:
    """Have the tokenizer in both forms: tokenizer.json for ``tokenizers``, vocab.json and merges.txt for the others."""
    combined, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not combined.is_file():
        if not (vocabulary.is_file() and merges.is_file()):
            raise ExportError(
                "The checkpoint's tokenizer has neither tokenizer.json nor vocab.json and merges.txt",
                hint="Copy the checkpoint's tokenizer folder again",
            )
        with quiet():
            from transformers import CLIPTokenizer

            CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(combined))
    if not (vocabulary.is_file() and merges.is_file()):
        model = json.loads(combined.read_text(encoding="utf-8"))["model"]
        vocabulary.write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        merges.write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
