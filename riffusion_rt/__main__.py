"""``python -m riffusion_rt``: the same commands as ``riffusion-rt``."""

from riffusion_rt.cli import main

main(prog_name="riffusion-rt")
