#!/usr/bin/env bash
# Make the environment that benchmarks/phase_compare.py runs in: riffusion-rt beside its peer, torchaudio.
#
#   benchmarks/phase_environment.sh [FOLDER]     (default .venvs/phase)
#
# An environment of its own, because torchaudio's wheel is built against CUDA torch: beside a CPU-only torch its
# extension fails to load and takes every library with it that probes for torchaudio. The transforms compared here
# are pure Python, so beside a CPU-only torch the extension is removed.
# The clips come from Debian packages: fluidsynth, fluid-soundfont-gm, musescore-general-soundfont-small,
# sonic-pi-samples. The benchmark skips, with a reason, the kinds whose package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-.venvs/phase}"

python3 -m venv "$folder"
"$folder/bin/pip" install --quiet "torch==2.13.0"
"$folder/bin/pip" install --quiet --no-deps "torchaudio==2.11.0"
"$folder/bin/pip" install --quiet "visqol-python>=3.8" "zimtohrli>=0.2.1" "onnx>=1.19" "onnxruntime>=1.23" -e .

if ! "$folder/bin/python" -c "import torchaudio" 2>/dev/null; then
    echo "torch without CUDA: removing torchaudio's extension, its transforms stay"
    packages="$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
    rm -f "$packages"/torchaudio/lib/*.so
fi
"$folder/bin/python" -c "import torchaudio; torchaudio.transforms.GriffinLim(); print('torchaudio', torchaudio.__version__)"
