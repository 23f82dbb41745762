"""What a data set was made of in, its README out: read by people, and by Hugging Face for its first lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from riffusion_train.cutting import CuttingRecipe

if TYPE_CHECKING:
    from riffusion_train.audio_dataset import DatasetSummary

_COMMONEST = 12


def dataset_card(
    recipe: CuttingRecipe, settings: Mapping[str, Any], summary: DatasetSummary, texts: Counter[str]
) -> str:
    """The Markdown of a data set's README."""
    params = recipe.params
    skipped = ", ".join(f"{count} {reason}" for reason, count in summary.skipped.most_common()) or "none"
    captions = ", ".join(f"{count} from {origin}" for origin, count in summary.captions.most_common())
    commonest = "\n".join(f"- {text} ({count})" for text, count in texts.most_common(_COMMONEST))
    if len(texts) > _COMMONEST:
        commonest += f"\n- and {len(texts) - _COMMONEST} more"
    sound = "stereo (left in green, right in blue)" if params.stereo else "mono"
    return f"""---
task_categories:
- text-to-image
- text-to-audio
tags:
- spectrogram
- riffusion
---

# Spectrogram pictures with captions

{sum(summary.pictures.values())} pictures of {sum(summary.recordings.values())} recordings, made by `riffusion-rt dataset`.

| | train | test |
|---|---|---|
| recordings | {summary.recordings["train"]} | {summary.recordings["test"]} |
| pictures | {summary.pictures["train"]} | {summary.pictures["test"]} |

A recording is on one side only. Pieces left out: {skipped}. Recordings that could not be read: {len(summary.failed)}.

## Pictures

{recipe.columns} columns of {params.step_ms} ms by {params.bands} mel bands from {params.f_min} to {params.f_max} Hz, {sound}; dark is
loud, low is at the bottom. Each picture's EXIF holds these numbers and its loudest magnitude, so that `riffusion-rt decode PICTURE`
makes it sound. {_cut_how(recipe)}

## Captions

Recordings: {captions}. The commonest of {len(texts)} captions:

{commonest}

## Read it

```python
from datasets import load_dataset

load_dataset("imagefolder", data_dir="THIS FOLDER")
```

Each row has `image` and `text`, and beside them `source`, `start_s`, `duration_s`, `bpm`, `beats`, `loop` and `turned_columns`.
Train on it: `riffusion-rt finetune THIS_FOLDER -o RUN`.

The licence of this data set is that of the recordings; state it here before you share it.

## Settings

```json
{json.dumps(settings, indent=2)}
```
"""  # noqa: E501


def _cut_how(recipe: CuttingRecipe) -> str:
    if recipe.bars:
        tempo = f"at {recipe.bpm:g} BPM" if recipe.bpm else "at the tempo found in each recording"
        return (
            f"A picture is {recipe.bars} whole bars of {recipe.beats_a_bar} beats {tempo}, begun on a downbeat and "
            "drawn on exactly these columns (the tempo gives way, the pitch does not)."
        )
    if recipe.loops:
        return "A picture is one recording, taken whole as a loop and drawn on exactly these columns."
    return "Recordings are cut one picture's length after another, silence at their ends left away."
