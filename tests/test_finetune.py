"""Fine-tuning: what is learnt, what leaves, and what is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import CLIPTokenizer

pytest.importorskip("peft", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")

from striped_pictures import PARAMS, TOY, write_dataset

from riffusion_engine.errors import ImageFileError, OutputError, RequestError
from riffusion_export.checkpoint import Source, open_checkpoint
from riffusion_export.lora import LoraRequest, check_fit, fuse_loras, read_lora
from riffusion_rt.cli import main
from riffusion_rt.spectrogram_image import STEREO_PARAMS, save_png
from riffusion_train import latent_cache
from riffusion_train.adapters import LORA_FILE
from riffusion_train.finetune import STATE, FinetuneProgress, finetune
from riffusion_train.finetune_recipe import FinetuneRecipe
from riffusion_train.noise_objective import NoiseObjective, draw_step, objective_of
from riffusion_train.picture_folder import PictureFolder, read_picture_folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Toy tensors are smaller than what threads cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pictures(dataset: Path) -> PictureFolder:
    return read_picture_folder(dataset)


@pytest.fixture
def source(toy_checkpoint: Path) -> Source:
    return open_checkpoint(toy_checkpoint)


def run_through(
    pictures: PictureFolder, source: Source, run: Path, recipe: FinetuneRecipe
) -> list[FinetuneProgress]:
    return list(finetune(pictures, source, run, recipe))


@torch.no_grad()
def said_of_the_empty_prompt(source: Source, networks: dict[str, Any]) -> torch.Tensor:
    """What a UNet predicts of noise alone where nothing is asked for."""
    tokenizer = CLIPTokenizer.from_pretrained(source.folder / "tokenizer")
    ids = tokenizer([""], padding="max_length", max_length=77, return_tensors="pt").input_ids
    states = networks["text_encoder"](ids).last_hidden_state
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    said: torch.Tensor = networks["unet"](noise, 900, encoder_hidden_states=states.expand(4, -1, -1))[0]
    return said


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / STATE, weights_only=True)
    found: dict[str, torch.Tensor] = state["weights"]
    return found


@pytest.mark.parametrize("full", [False, True])
def test_sixteen_bit_training_leaves_what_is_read_elsewhere(
    pictures: PictureFolder, source: Source, tmp_path: Path, full: bool
) -> None:
    recipe = replace(TOY, steps=2, precision="bf16", full=full, ema_decay=0.9, learning_rate=1e-2)
    *_, last = run_through(pictures, source, tmp_path, recipe)
    assert last.result is not None
    if full:
        assert open_checkpoint(last.result).load("unet").dtype == torch.float32  # type: ignore[comparison-overlap]
    else:
        check_fit(
            [read_lora(LoraRequest(last.result))], {p: source.load(p) for p in ("text_encoder", "unet")}
        )
    assert {value.dtype for value in weights_of(tmp_path).values()} == {torch.float32}


def test_the_loss_falls(pictures: PictureFolder, source: Source, tmp_path: Path) -> None:
    recipe = replace(TOY, steps=45, batch=4, learning_rate=1e-2, schedule="constant", captionless=0)
    losses = [p.loss for p in run_through(pictures, source, tmp_path, recipe) if p.stage == "training"]
    assert losses[-1] < 0.8 * losses[0]


def test_the_empty_prompt_stays_what_it_was(pictures: PictureFolder, source: Source, tmp_path: Path) -> None:
    recipe = replace(TOY, steps=30, batch=4, learning_rate=1e-2, schedule="constant", captionless=0.5)
    moved = {}
    for preserve in (True, False):
        *_, last = run_through(pictures, source, tmp_path / str(preserve), replace(recipe, preserve=preserve))
        assert last.result is not None
        fused = {part: source.load(part) for part in ("text_encoder", "unet")}
        before = said_of_the_empty_prompt(source, fused)
        for part, network in fused.items():
            fuse_loras([read_lora(LoraRequest(last.result))], part, network)
        moved[preserve] = float((said_of_the_empty_prompt(source, fused) - before).square().mean())
    assert moved[True] < 0.5 * moved[False]


def test_stopping_it_saves_where_it_is(pictures: PictureFolder, source: Source, tmp_path: Path) -> None:
    running = finetune(pictures, source, tmp_path, TOY)
    for progress in running:
        if progress.stage == "training" and progress.done == 3:
            break
    running.close()  # type: ignore[attr-defined]
    *_, last = run_through(pictures, source, tmp_path, TOY)
    assert last.resumed_at == 3


def test_accumulated_batches_equal_a_larger_one(
    pictures: PictureFolder, source: Source, tmp_path: Path
) -> None:
    run_through(pictures, source, tmp_path / "large", replace(TOY, batch=4, steps=3))
    run_through(pictures, source, tmp_path / "small", replace(TOY, batch=2, accumulate=2, steps=3))
    large, small = weights_of(tmp_path / "large"), weights_of(tmp_path / "small")
    # Adam's first steps are as large as the learning rate however small a gradient is: compare where it is not noise.
    moved = torch.cat([(large[name] - small[name]).abs().flatten() for name in large])
    assert float(moved.median()) < 1e-5
    assert float((moved < 2e-4).float().mean()) > 0.99


def test_checkpointed_gradients_are_the_same(pictures: PictureFolder, source: Source, tmp_path: Path) -> None:
    run_through(pictures, source, tmp_path / "plain", replace(TOY, steps=2))
    run_through(
        pictures, source, tmp_path / "checkpointed", replace(TOY, steps=2, gradient_checkpointing=True)
    )
    for name, value in weights_of(tmp_path / "plain").items():
        torch.testing.assert_close(weights_of(tmp_path / "checkpointed")[name], value, atol=1e-5, rtol=1e-3)


@pytest.fixture(scope="module")
def lora(pictures: PictureFolder, toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("lora")
    recipe = replace(TOY, steps=12, learning_rate=2e-2)
    *_, last = run_through(pictures, open_checkpoint(toy_checkpoint), run, recipe)
    assert last.result == run / LORA_FILE
    return run / LORA_FILE


def test_diffusers_and_the_export_make_the_same_of_a_lora(
    lora: Path, toy_checkpoint: Path, source: Source
) -> None:
    from diffusers import StableDiffusionPipeline

    fused = {part: source.load(part) for part in ("text_encoder", "unet")}
    loras = [read_lora(LoraRequest(lora))]
    check_fit(loras, fused)
    changed = sum(fuse_loras(loras, part, network) for part, network in fused.items())
    assert changed == len(loras[0].layers)
    pipeline = StableDiffusionPipeline.from_pretrained(toy_checkpoint)
    pipeline.load_lora_weights(lora)
    ids = torch.arange(77)[None]
    with torch.no_grad():
        states = fused["text_encoder"](ids).last_hidden_state
        torch.testing.assert_close(states, pipeline.text_encoder(ids)[0], atol=1e-5, rtol=1e-4)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        ours = fused["unet"](latents, 500, encoder_hidden_states=states)[0]
        theirs = pipeline.unet(latents, 500, encoder_hidden_states=states)[0]
        before = source.load("unet")(latents, 500, encoder_hidden_states=states)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    assert (ours - before).abs().max() > 1e-2


def test_a_full_fine_tune_leaves_a_checkpoint_that_hears_like_its_pictures(
    toy_checkpoint: Path, source: Source, tmp_path: Path
) -> None:
    params = replace(STEREO_PARAMS, bands=64)
    pictures = read_picture_folder(write_dataset(tmp_path / "data", params=params))
    recipe = replace(TOY, full=True, text_encoder=False, ema_decay=0.5, steps=4)
    *_, last = run_through(pictures, source, tmp_path / "run", recipe)
    assert last.result is not None
    tuned = open_checkpoint(last.result)
    assert tuned.facts.spectrogram == params
    assert (last.result / "LICENSE").is_file()
    raw = weights_of(tmp_path / "run")
    for part, learns in (("unet", True), ("text_encoder", False), ("vae", False)):
        before, after = source.load(part).state_dict(), tuned.load(part).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before) != learns
    key = "conv_in.weight"
    average = tuned.load("unet").state_dict()[key]
    assert not torch.equal(average, raw[f"unet.{key}"])
    torch.testing.assert_close(average, raw[f"unet.{key}"], atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_weighs_like_capped_signal_to_noise_of_clean_latents(kind: str) -> None:
    alphas = torch.linspace(0.999, 0.01, 50)
    objective = NoiseObjective(alphas, kind, snr_cap=5.0)
    draw = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(50, 1, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    timesteps = torch.arange(50)
    noisy = objective.noisy(clean, noise, timesteps)
    wrong = clean + 0.1  # As if the network believed this of the clean latents.
    level = alphas.double()[:, None, None, None]
    believed_noise = (noisy - level.sqrt() * wrong) / (1 - level).sqrt()
    error = (
        (objective.target(wrong, believed_noise, timesteps) - objective.target(clean, noise, timesteps))
        .square()
        .mean(dim=(1, 2, 3))
    )
    snr = alphas / (1 - alphas)
    torch.testing.assert_close(
        (error * objective.weights(timesteps)).float(), 0.01 * snr.clamp(max=5.0), rtol=1e-3, atol=1e-6
    )
    assert NoiseObjective(alphas, kind, 0.0).weights(timesteps).unique().tolist() == [1.0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_white_noise_is_as_hard_to_predict_as_expected(kind: str) -> None:
    objective = NoiseObjective(torch.tensor([0.9, 0.5, 0.1]), kind)
    draw = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 1, 100, 100, generator=draw) for _ in range(2))
    timesteps = torch.arange(3)
    noisy, target = objective.noisy(clean, noise, timesteps), objective.target(clean, noise, timesteps)
    best = (noisy * target).mean(dim=(1, 2, 3)) / noisy.square().mean(dim=(1, 2, 3))
    left = (target - best[:, None, None, None] * noisy).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(objective.expected(timesteps), left, rtol=0.05, atol=0.01)


def test_measured_errors_of_little_noise_count_less() -> None:
    objective = NoiseObjective(torch.tensor([0.99, 0.5, 0.0]), "epsilon", snr_cap=5.0)
    torch.testing.assert_close(
        objective.balanced_weights(torch.arange(3)), torch.tensor([5 / 99, 1.0, 1.0]), rtol=1e-4, atol=0
    )
    assert (
        NoiseObjective(objective.alphas, "epsilon", 0.0).balanced_weights(torch.arange(3)).tolist() == [1] * 3
    )


def test_without_balance_errors_are_not_measured(
    pictures: PictureFolder, source: Source, tmp_path: Path
) -> None:
    states = {}
    for balance in (False, True):
        run = tmp_path / str(balance)
        run_through(pictures, source, run, replace(TOY, steps=2, captionless=0.0, balance=balance))
        states[balance] = torch.load(run / STATE, weights_only=True)
    assert "usual" not in states[False]
    assert float(states[True]["usual"]["known"].sum()) == 2 * TOY.batch


def test_the_schedule_and_the_prediction_are_the_checkpoints_own(
    tmp_path: Path, toy_checkpoint: Path
) -> None:
    from riffusion_export.toy import write_toy_checkpoint

    write_toy_checkpoint(tmp_path / "v", prediction_type="v_prediction")
    assert objective_of(tmp_path / "v" / "scheduler", 5.0).kind == "v_prediction"
    objective = objective_of(toy_checkpoint / "scheduler", 5.0)
    assert objective.kind == "epsilon"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(objective.alphas, torch.cumprod(1 - betas, 0))


def test_chance_is_a_function_of_the_seed_and_the_step() -> None:
    def draw(step: int, batch: int = 4) -> object:
        return draw_step(0, step, batch, 10, (1, 2, 2), 1000, 0.5)

    assert torch.equal(draw(3).noise, draw(3).noise)  # type: ignore[attr-defined]
    assert not torch.equal(draw(3).noise, draw(4).noise)  # type: ignore[attr-defined]
    seen = torch.cat([draw(step, 5).chosen for step in range(4)])  # type: ignore[attr-defined]
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    spread = torch.sort(draw(7, 8).timesteps).values  # type: ignore[attr-defined]
    assert ((spread[1:] - spread[:-1] - 125).abs() <= 1).all()


def test_pictures_are_encoded_once(
    pictures: PictureFolder, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_through(pictures, source, tmp_path, replace(TOY, steps=1))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(latent_cache, "encode_picture", never)
    *_, last = run_through(pictures, source, tmp_path, replace(TOY, steps=2))
    assert last.resumed_at == 1


def test_a_loop_is_encoded_as_if_it_went_round(
    pictures: PictureFolder, source: Source, tmp_path: Path
) -> None:
    model = source.load("vae")
    loop, device = pictures.train[1], torch.device("cpu")
    with Image.open(loop.path) as image:
        turned = np.roll(np.asarray(image), 32, axis=1)
    save_png(Image.fromarray(turned), tmp_path / "turned.png", PARAMS)
    first = latent_cache.encode_picture(model, replace(loop, loop=True), device)
    second = latent_cache.encode_picture(
        model, replace(loop, loop=True, path=tmp_path / "turned.png"), device
    )
    cut = latent_cache.encode_picture(model, replace(loop, path=tmp_path / "turned.png"), device)
    assert first.shape == cut.shape == (1, 4, 8, 8)
    # The toy's attention sees the whole picture, so this is near, not exact.
    assert np.abs(np.roll(first, 4, axis=3) - second).mean() < np.abs(np.roll(first, 4, axis=3) - cut).mean()


def test_curves_pictures_and_sounds_are_logged(
    pictures: PictureFolder, source: Source, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = replace(TOY, steps=4, sample_every=2, sample_steps=2, prompts=("funky piano",))
    stages = [p.stage for p in run_through(pictures, source, tmp_path, recipe)]
    assert stages.count("sampling") == 2
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/weighted", "loss/plain", "loss/held out", "learning rate"} <= set(tags["scalars"])
    assert [point.step for point in events.Scalars("loss/weighted")] == [1, 2, 3, 4]
    assert tags["images"] == ["picture/funky piano"]
    assert tags["audio"] == ["sound/funky piano"]
    found = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert found == [f"00000{step}-funky-piano.{suffix}" for step in (2, 4) for suffix in ("png", "wav")]


def test_pictures_that_do_not_fit_are_refused(source: Source, tmp_path: Path) -> None:
    odd = read_picture_folder(write_dataset(tmp_path / "odd", size=(72, 64)))
    with pytest.raises(RequestError, match="multiples of 16"):
        run_through(odd, source, tmp_path / "run", TOY)
    stereo = read_picture_folder(write_dataset(tmp_path / "stereo", params=replace(STEREO_PARAMS, bands=64)))
    with pytest.raises(RequestError, match="stereo True instead of False"):
        run_through(stereo, source, tmp_path / "run", TOY)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_mixed_with_another(pictures: PictureFolder, source: Source, tmp_path: Path) -> None:
    run_through(pictures, source, tmp_path, replace(TOY, steps=1))
    with pytest.raises(OutputError, match="another rank"):
        run_through(pictures, source, tmp_path, replace(TOY, rank=8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp16"}, "fp16"),
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"rank": 0}, "rank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    pictures: PictureFolder, source: Source, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        run_through(pictures, source, tmp_path, replace(TOY, cpu=True, **change))  # type: ignore[arg-type]


def test_an_empty_or_damaged_data_set_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no data set") as refusal:
        read_picture_folder(tmp_path / "absent")
    assert "riffusion-rt dataset" in refusal.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="lists no pictures"):
        read_picture_folder(tmp_path / "empty")
    folder = write_dataset(tmp_path / "cut")
    (folder / "train" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ImageFileError, match=r"3\.png"):
        read_picture_folder(folder)
    mixed = write_dataset(tmp_path / "mixed")
    Image.new("RGB", (32, 64)).save(mixed / "test" / "0.png")
    with pytest.raises(ImageFileError, match="32x64"):
        read_picture_folder(mixed)


def test_without_its_extra_the_verb_says_what_to_install(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from riffusion_rt.cli import finetune as verb

    monkeypatch.setattr(verb, "find_spec", lambda package: None if package == "peft" else object())
    run = CliRunner().invoke(main, ["finetune", str(dataset), "-o", str(tmp_path / "run")])
    assert run.exit_code == 2
    assert "needs peft" in run.stderr
    assert "pip install 'riffusion-rt[train]'" in run.stderr
