"""The vocoder graph is the numpy form, in operators that every runtime has."""

import importlib.util
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import LatentSpec, Manifest
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.vocoder_file import (
    add_vocoder,
    bundle_plan,
    likely_pictures,
    measure_vocoder_parity,
    write_vocoder,
)
from riffusion_export.vocoder_graph import MAX_VALUE, VocoderPlan, vocoder_model
from riffusion_export.vocoder_transforms import GraphText, HalfTransform, NaturalSynthesis
from riffusion_rt import phase
from riffusion_rt.phase_stft import Ends

PARAMS = SpectrogramParams()
COLUMNS = 48


def mels_of(images: np.ndarray, params: SpectrogramParams) -> np.ndarray:
    """The mel amplitudes that pictures stand for: (pictures, channels, bands, columns)."""
    channels = images[:, 1:] if params.stereo else images[:, :1]
    return ((1 - channels[:, :, ::-1]) ** (1 / params.power) * MAX_VALUE).astype(np.float32)


def relative_l2(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("ends", ["circle", "mirror"])
@pytest.mark.parametrize("preset", list(phase.PRESETS))
def test_from_the_same_start_the_graph_is_the_numpy_form(preset: str, ends: Ends) -> None:
    plan = VocoderPlan(PARAMS, COLUMNS, preset, ends=ends)
    parity = measure_vocoder_parity(vocoder_model(plan), plan)
    assert set(parity) == {"batch 1", "batch 3"}
    assert 0 < max(parity.values()) < 1e-3


@pytest.mark.parametrize("ends", ["circle", "mirror"])
@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        SpectrogramParams(stereo=True),
        SpectrogramParams(stereo=True, f_min=10, f_max=20_000),
        SpectrogramParams(bands=64, step_ms=20),
    ],
)
def test_picture_in_waveform_out_for_any_batch(params: SpectrogramParams, ends: Ends) -> None:
    runner = session(vocoder_model(VocoderPlan(params, 24, "fast", ends=ends)))
    images = likely_pictures(params, 24, 3)
    for batch in (images, images[:1]):
        (got,) = runner.run(None, {"image": batch})
        assert got.shape == (len(batch), params.channels, 24 * params.hop_length)
        for sound, mel in zip(got, mels_of(batch, params), strict=True):
            wanted = phase.waveform_from_mel(mel, params, preset="fast", loop=ends == "circle")
            # The start's choice between two equal peaks may differ: louder differences than rounding's are allowed.
            assert relative_l2(sound, wanted) < 2e-2


def test_a_loop_and_unrolled_iterations_are_the_same() -> None:
    image = likely_pictures(PARAMS, COLUMNS, 1)
    looped, unrolled = (
        session(vocoder_model(VocoderPlan(PARAMS, COLUMNS, "fast", unrolled=way))).run(
            None, {"image": image}
        )[0]
        for way in (False, True)
    )
    assert relative_l2(looped, unrolled) < 1e-5


def test_a_silent_picture_is_silent_and_finite() -> None:
    white = np.ones((1, 3, PARAMS.bands, COLUMNS), np.float32)
    runner = session(vocoder_model(VocoderPlan(PARAMS, COLUMNS, "fast")))
    assert not runner.run(None, {"image": white})[0].any()
    assert np.isfinite(runner.run(None, {"image": 0 * white})[0]).all()


def test_products_rounded_as_tf32_stay_near() -> None:
    image = likely_pictures(PARAMS, COLUMNS, 1)
    exact, rounded = (
        session(vocoder_model(VocoderPlan(PARAMS, COLUMNS, "fast", round_products_to=to))).run(
            None, {"image": image}
        )[0]
        for to in (None, "tf32")
    )
    assert 1e-5 < relative_l2(rounded, exact) < 0.1


def test_only_standard_operators_and_no_transform_operator() -> None:
    model = vocoder_model(VocoderPlan(PARAMS, COLUMNS))
    assert {node.domain for node in model.graph.node} == {""}
    assert not {"DFT", "STFT"} & {node.op_type for node in model.graph.node}
    assert len(model.SerializeToString()) < 3e6


def test_an_exported_bundle_has_a_vocoder_for_its_pictures(toy_bundle: Path) -> None:
    manifest = Manifest.read(toy_bundle)
    spec = manifest.graph("vocoder")
    assert spec.path == "vocoder/model.onnx"
    assert spec.path in manifest.files
    assert set(spec.parity) == {"batch 1", "batch 3"}
    assert max(spec.parity.values()) < 1e-3
    runner = onnxruntime.InferenceSession(toy_bundle / spec.path, providers=["CPUExecutionProvider"])
    assert [value.name for value in runner.get_inputs()] == [value.name for value in spec.inputs]
    assert runner.get_inputs()[0].shape == list(spec.inputs[0].shape)
    assert runner.get_outputs()[0].shape == list(spec.outputs[0].shape)


def test_a_bundle_without_a_vocoder_gets_one_later(toy_bundle: Path, tmp_path: Path) -> None:
    whole = Manifest.read(toy_bundle)
    bundle = shutil.copytree(toy_bundle, tmp_path / "bundle")
    shutil.rmtree(bundle / "vocoder")
    graphs = {name: graph for name, graph in whole.graphs.items() if name != "vocoder"}
    files = {path: file for path, file in whole.files.items() if not path.startswith("vocoder/")}
    msgspec.structs.replace(whole, graphs=graphs, files=files).write(bundle)
    assert add_vocoder(bundle) == whole.graph("vocoder")
    assert Manifest.read(bundle) == whole
    Manifest.read(bundle).verify(bundle)


def test_a_bundle_of_pictures_narrower_than_a_frame_has_no_vocoder() -> None:
    latent = LatentSpec(channels=4, height=8, width=1, scale=1, shift=0, vae_factor=8)
    assert bundle_plan(SpectrogramParams(bands=64), latent) is None


def test_a_picture_narrower_than_a_frame_is_refused() -> None:
    with pytest.raises(ExportError, match="10 columns"):
        vocoder_model(VocoderPlan(PARAMS, 9))


@pytest.mark.parametrize(("length", "points"), [(80, 80), (80, 160), (60, 120), (45, 45), (2000, 4000)])
def test_two_products_are_a_fourier_transform_and_back(length: int, points: int) -> None:
    transform = HalfTransform(length, points)
    frames = np.random.default_rng(0).standard_normal((1, 2, length)).astype(np.float32)
    graph = GraphText()
    spectra = transform.forward(graph, "frames")
    back = transform.backward(graph, spectra)
    got, again = run_text(graph, {"frames": frames}, [spectra, back])
    full = np.fft.fft(frames, points)
    bins = np.arange(transform.rows)[:, None] + transform.outer * np.arange(transform.inner)
    np.testing.assert_allclose(got[..., : transform.inner], full.real[..., bins], atol=2e-3)
    np.testing.assert_allclose(got[..., transform.inner :], full.imag[..., bins], atol=2e-3)
    np.testing.assert_allclose(again, frames, atol=1e-4)


@pytest.mark.parametrize(("points", "bins"), [(60, 31), (90, 20), (4410, 1001), (2000, 1001)])
def test_natural_synthesis_is_an_inverse_fourier_transform(points: int, bins: int) -> None:
    synthesis = NaturalSynthesis(points, bins)
    rng = np.random.default_rng(1)
    spectra = np.zeros((1, 2, synthesis.padded), np.complex64)
    spectra[..., :bins] = rng.standard_normal((1, 2, bins)) + 1j * rng.standard_normal((1, 2, bins))
    graph = GraphText()
    frames = synthesis.backward(graph, "real", "imaginary")
    (got,) = run_text(graph, {"real": spectra.real.copy(), "imaginary": spectra.imag.copy()}, [frames])
    wanted = np.fft.irfft(spectra[..., : points // 2 + 1], points)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_it_builds_with_tensorrt_rtx_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    script = Path(__file__).parents[1] / "benchmarks" / "phase_rtx_build.py"
    described = importlib.util.spec_from_file_location("phase_rtx_build", script)
    assert described is not None
    assert described.loader is not None
    benchmark = importlib.util.module_from_spec(described)
    described.loader.exec_module(benchmark)
    spec = write_vocoder(tmp_path, VocoderPlan(PARAMS, 16, "fast"))
    assert benchmark.build(benchmark.tensorrt_rtx(), tmp_path / spec.path)


def run_text(graph: GraphText, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    """Run nodes under construction."""
    body = onnx.helper.make_graph(
        graph.nodes,
        "text",
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, v.shape) for n, v in feeds.items()],
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs],
        list(graph.constants.values()),
    )
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return list(session(model).run(outputs, feeds))
