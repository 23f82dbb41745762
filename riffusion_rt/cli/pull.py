"""A hub id in, its model in the local cache out."""

from __future__ import annotations

import click

from riffusion_rt.cli.report import Report, reporting


@click.command("pull", short_help="Fetch a model from the hub, to export or to play.")
@click.argument("model")
@click.option("--half", is_flag=True, help="Take float16 weights where there are any: half the bytes.")
@click.option(
    "--settings-only", is_flag=True, help="Only tokenizer, scheduler and configurations, for a single file."
)
@click.option("--offline", is_flag=True, help="Fetch nothing: say whether it is all there.")
@reporting
def command(model: str, half: bool, settings_only: bool, offline: bool, as_json: bool, quiet: bool) -> None:
    """Fetch MODEL, a hub id such as riffusion/riffusion-model-v1, into Hugging Face's local cache.

    Only what an export or a player needs is fetched; what was interrupted goes on where it stopped. Afterwards
    `export` and `--model` take the id. Needs: pip install 'riffusion-rt[hub]'
    """
    report = Report(as_json, quiet)
    from riffusion_engine.errors import ModelNotFoundError
    from riffusion_rt.hub import pull
    from riffusion_rt.models import BUNDLE_MARK, locate_checkpoint, locate_model, locate_settings

    with report.progress("pull", "MB") as advance:
        for progress in pull(model, half=half, settings_only=settings_only, offline=offline):
            advance(progress.done // 10**6, progress.total // 10**6, progress.file)

    if settings_only:
        folder = locate_settings(model)
        following = f"riffusion-rt export FILE --like {model} -o BUNDLE"
    else:
        try:
            folder = locate_model(model)
        except ModelNotFoundError:
            folder = locate_checkpoint(model)
        bundle = (folder / BUNDLE_MARK).is_file()
        following = (
            f'riffusion-rt generate "funky piano" --model {model}'
            if bundle
            else f"riffusion-rt export {model} -o BUNDLE"
        )
    report.line(f"{folder}")
    report.line(f"Next: {following}")
    report.document({"model": model, "folder": folder, "next": following})
