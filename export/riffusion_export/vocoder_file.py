"""A bundle folder enters; its vocoder's file and manifest entry leave, compared with the numpy form."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from riffusion_engine.devices import import_onnxruntime
from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import GraphSpec, LatentSpec, Manifest, TensorSpec, file_spec
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.vocoder_graph import IMAGE, MAX_VALUE, START, TURN, WAVEFORM, VocoderPlan, vocoder_model
from riffusion_rt.phase import PRESETS, Beginning, loop_targets, reconstruct

VOCODER = "vocoder"
"""The graph's name in the manifest."""
VOCODER_PATH = "vocoder/model.onnx"

PARITY_LIMIT = 1e-3
"""Relative L2 distance to the numpy form above which a vocoder is refused. Sound ones measure near 1e-5."""
BATCHES: tuple[int, ...] = (1, 3)
_SEED = 20_221_215
_PARTIALS = 5


def bundle_plan(params: SpectrogramParams, latent: LatentSpec) -> VocoderPlan | None:
    """The vocoder of a bundle's pictures, as circles like all clips that a model draws; None if they are narrower
    than a frame."""
    plan = VocoderPlan(params, latent.width * latent.vae_factor)
    return plan if plan.columns >= plan.grid.overlap else None


def add_vocoder(bundle: Path) -> GraphSpec | None:
    """Give a bundle that has none its vocoder, or a new one: the graph's file, its hash and its manifest entry.

    Returns:
        The manifest's entry, or None if the bundle's pictures are too narrow for a vocoder.

    Raises:
        BundleError: the folder is no bundle.
        ExportError: the graph strays too far from the numpy form.
        OutputError: the manifest cannot be written.
    """
    manifest = Manifest.read(bundle)
    plan = bundle_plan(manifest.spectrogram, manifest.latent)
    if plan is None:
        return None
    spec = write_vocoder(bundle, plan)
    completed = msgspec.structs.replace(
        manifest,
        graphs={**manifest.graphs, VOCODER: spec},
        files={**manifest.files, VOCODER_PATH: file_spec(bundle / VOCODER_PATH)},
    )
    completed.write(bundle)
    return spec


def write_vocoder(bundle: Path, plan: VocoderPlan) -> GraphSpec:
    """Write ``vocoder/model.onnx`` into a bundle folder and measure its parity.

    The arithmetic is float32 whatever the bundle's other graphs do: 16 bits hold no spectrogram's range.

    Returns:
        What the manifest says of it. ``parity`` is the relative L2 distance to
        :func:`riffusion_rt.phase.waveform_from_mel` from the same start, on ONNX Runtime's CPU.

    Raises:
        ExportError: the pictures are narrower than a frame, or the graph strays too far.
    """
    model = vocoder_model(plan)
    parity = measure_vocoder_parity(model, plan)
    worst = max(parity.values())
    if worst > PARITY_LIMIT:
        raise ExportError(
            f"The vocoder graph is {worst:.1e} away from the numpy form, more than {PARITY_LIMIT:.0e}",
            hint="Upgrade ONNX Runtime: pip install -U onnxruntime",
        )
    path = bundle / VOCODER_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    params = plan.params
    return GraphSpec(
        path=VOCODER_PATH,
        inputs=(TensorSpec(name=IMAGE, dtype="float32", shape=("batch", 3, params.bands, plan.columns)),),
        outputs=(TensorSpec(name=WAVEFORM, dtype="float32", shape=("batch", params.channels, plan.samples)),),
        weights_dtype="float32",
        compute_dtype="float32",
        parity=parity,
    )


def measure_vocoder_parity(model: onnx.ModelProto, plan: VocoderPlan) -> dict[str, float]:
    """Run a vocoder in ONNX Runtime on the CPU, and the numpy form from where the graph's loop started.

    The start is a choice between peaks, which rounding may tip; from there on both do the same.

    Returns:
        The relative L2 distance, keyed ``"batch 1"``, ``"batch 3"``.
    """
    session = _session_with_start(model, plan)
    return {f"batch {batch}": _distance(session, plan, batch) for batch in BATCHES}


def likely_pictures(params: SpectrogramParams, columns: int, count: int) -> NDArray[np.float32]:
    """Levels 0..1 of gliding partials over noise, ``(count, 3, bands, columns)``: pictures as a model might draw."""
    rng = np.random.default_rng(_SEED + count)
    rows = np.arange(params.bands)[::-1][:, None]
    pictures = []
    for _ in range(count):
        darkness = rng.random((3, params.bands, columns)) * 0.2
        for _ in range(_PARTIALS):
            centre = rng.uniform(0.05, 0.7) * params.bands + np.linspace(0, rng.normal(0, 8), columns)
            fade = np.exp(-np.linspace(0, rng.uniform(0, 3), columns))
            darkness += rng.uniform(0.5, 1, (3, 1, 1)) * np.exp(-(((rows - centre) / 2) ** 2)) * fade
        pictures.append(np.round(255 * (1 - np.clip(darkness, 0, 1))) / 255)
    return np.stack(pictures).astype(np.float32)


def _distance(session: Any, plan: VocoderPlan, batch: int) -> float:
    images = likely_pictures(plan.params, plan.columns, batch)
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, session.run(names, {IMAGE: images}), strict=True))
    wanted = numpy_waveforms(images, plan, got[START], got.get(TURN))
    error = np.linalg.norm(got[WAVEFORM].astype(np.float64) - wanted)
    return float(error / max(float(np.linalg.norm(wanted)), float(np.finfo(np.float32).tiny)))


def numpy_waveforms(
    images: NDArray[np.float32],
    plan: VocoderPlan,
    starts: NDArray[np.float32],
    turns: NDArray[np.int64] | None,
) -> NDArray[np.float32]:
    """The numpy form's sound of pictures ``(batch, 3, bands, columns)``, from starts at the graph's level."""
    params, constants = plan.params, plan.constants
    channels = images[:, 1:] if params.stereo else images[:, :1]
    mels = ((1 - channels[:, :, ::-1]) ** (1 / params.power) * MAX_VALUE).astype(np.float32)
    targets = [target for mel in mels for target in loop_targets(mel, params, constants)]
    with ThreadPoolExecutor(1) as executor:
        sounds = [
            reconstruct(
                target,
                constants.grid,
                constants.result,
                PRESETS[plan.preset].stages,
                executor,
                ends=plan.ends,
                refiner=constants.refiner,
                begun=Beginning(
                    int(turns[place, 0]) if turns is not None else 0, starts[place] * np.float32(MAX_VALUE)
                ),
            )
            for place, target in enumerate(targets)
        ]
    return np.stack(sounds).reshape(len(images), params.channels, plan.samples)


def _session_with_start(model: onnx.ModelProto, plan: VocoderPlan) -> Any:
    """A session of the same graph that also gives away where its loop started."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.append(helper.make_tensor_value_info(START, TensorProto.FLOAT, None))
    if plan.ends == "circle":
        seen.graph.output.append(helper.make_tensor_value_info(TURN, TensorProto.INT64, None))
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Fatal: failures arrive as exceptions.
    try:
        return onnxruntime.InferenceSession(
            seen.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
        raise ExportError(
            f"ONNX Runtime cannot load the vocoder graph: {str(error).splitlines()[0][:300]}",
            hint="Upgrade it: pip install -U onnxruntime",
        ) from error
