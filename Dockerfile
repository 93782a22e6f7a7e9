# fpt_d2 with PyTorch and Detectron2, pinned by requirements/, for a user without rights. Two examples:
#
#   docker build --tag fpt_d2 .
#   docker build --tag fpt_d2:cuda --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04 --build-arg FORCE_CUDA=1 .
#   docker run --rm -it --gpus all --shm-size 8g --volume "$PWD:/work" fpt_d2:cuda fpt-train --config-file ...
#
# BASE: a Debian or Ubuntu with Python 3.10 or newer; to compile for GPUs one with nvcc of the CUDA that torch is built for.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ git ninja-build python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

COPY requirements /opt/fpt_d2/requirements
WORKDIR /opt/fpt_d2
RUN pip install --no-cache-dir --constraint requirements/constraints.txt \
    -r requirements/build.txt -r requirements/torch.txt -r requirements/runtime.txt

# Detectron2 as its INSTALL.md builds it: against the torch that is there. No GPU is visible to a build, so that compiling
# for them is forced, and for which ones is said. The commit is the newest that fpt_d2 is tested with.
ARG DETECTRON2=02b5c4e295e990042a714712c21dc79b731e8833
ARG FORCE_CUDA=0
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
RUN FORCE_CUDA="$FORCE_CUDA" TORCH_CUDA_ARCH_LIST="$TORCH_CUDA_ARCH_LIST" pip install --no-cache-dir --no-deps \
    --no-build-isolation "git+https://github.com/facebookresearch/detectron2.git@$DETECTRON2"

COPY setup.py pyproject.toml README.md LICENSE ./
COPY fpt_d2 fpt_d2
COPY configs configs
COPY recipes recipes
RUN pip install --no-cache-dir --no-build-isolation --constraint requirements/constraints.txt \
    --constraint requirements/dev.txt ".[convert,export,fast-eval,hub]"

# That of the user who owns what is mounted at /work; Ubuntu has one of that number already.
ARG USER_ID=1000
RUN useradd --create-home --no-log-init --non-unique --uid "$USER_ID" fpt && install --directory --owner fpt /work
USER fpt
WORKDIR /work
CMD ["fpt-train", "--help"]
