#!/usr/bin/env bash
# Load a bundle unchanged in optimum's ORTStableDiffusionPipeline, and compare its pictures and its speed with ours.
#
#   benchmarks/interop_optimum.sh BUNDLE [FOLDER [OPTION…]]     (the environment's folder, default .venvs/optimum)
#
# An environment of its own, because optimum-onnx 0.1.0 needs transformers 4. It is made once and kept.
set -euo pipefail
bundle="$(realpath "${1:?usage: benchmarks/interop_optimum.sh BUNDLE [FOLDER]}")"
folder="$(realpath -m "${2:-"$(dirname "$0")/../.venvs/optimum"}")"
cd "$(dirname "$0")/.."

if ! "$folder/bin/python" -I -c "import optimum.onnxruntime, riffusion_rt" 2>/dev/null; then
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet \
        "torch==2.13.0" "optimum-onnx==0.1.0" "transformers>=4.57,<4.58" "diffusers>=0.35,<0.36" -e ".[cpu]"
fi
exec "$folder/bin/python" benchmarks/interop_optimum.py "$bundle" "${@:3}"
