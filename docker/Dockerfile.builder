# syntax=docker/dockerfile:1
# Checkpoints in, bundles and TensorRT-RTX engines out: the one image with torch. It needs no GPU.
#
#   docker build -f docker/Dockerfile.builder -t riffusion-rt:builder .
#   docker run --rm -v "$PWD:/work" -w /work riffusion-rt:builder export CHECKPOINT -o BUNDLE
#   docker run --rm -v "$PWD:/work" -w /work riffusion-rt:builder build BUNDLE --target sm89
ARG PYTHON=3.12.8-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY export export
COPY training training
COPY riffusion_rt riffusion_rt
# --build-arg PIP_EXTRA_INDEX_URL=… chooses another build of torch, for instance one without CUDA.
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/riffusion-rt \
    && /opt/riffusion-rt/bin/pip install ".[cpu,export,hub,trt-rtx]"

FROM python:${PYTHON}
RUN useradd --create-home --uid 10001 riffusion \
    && mkdir -p /cache \
    && chown riffusion /cache
COPY --from=build /opt/riffusion-rt /opt/riffusion-rt
ENV PATH=/opt/riffusion-rt/bin:$PATH XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
VOLUME /cache
USER 10001
WORKDIR /home/riffusion
# It serves nothing: it is well when it can say what it has.
HEALTHCHECK --interval=5m --timeout=60s CMD ["riffusion-rt", "--version"]
ENTRYPOINT ["riffusion-rt"]
CMD ["doctor"]
