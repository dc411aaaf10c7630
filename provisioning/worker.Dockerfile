# The image that a rented machine runs: supervisor, worker, CUDA's cuBLAS, the default model. No torch, no Vast.ai client,
# no secret: it is public, and whatever it needs to know of a fleet comes in its environment.
#
#   docker build -f provisioning/worker.Dockerfile -t NAME/whisperfleet-worker:VERSION .
#
# Push it where everybody may pull, and rent with the digest that the push prints: WHISPERFLEET_WORKER_IMAGE=NAME@sha256:…
# Smaller and without a model of its own: --build-arg MODEL=none; the worker then fetches it when it is first tested.
#
# The base is pinned by the digest of its multi-platform index. To take a newer one: `docker buildx imagetools inspect
# nvidia/cuda:TAG` prints the index's digest; its CUDA must be of the major version that CTranslate2 loads cuBLAS of
# (tests/unit/test_worker_image.py looks into the library), and Ubuntu's Python one that constraints.txt is good for.
# "base" and not "runtime" or "cudnn-runtime": CTranslate2 loads cuBLAS alone, and no cuDNN any more. That comes as a Python
# package here; the larger bases bring what nothing loads, and every machine would pay and wait for it.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04@sha256:133c78a0575303be34164d0b90137a042172bdf60696af01a3c424ab402d86e2 AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*


FROM base AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/whisperfleet
WORKDIR /src
COPY pyproject.toml README.md constraints.txt ./
COPY workers workers
COPY workflows workflows
COPY provisioning provisioning
COPY benchmarks benchmarks
# cuBLAS of the base's CUDA release
RUN /opt/whisperfleet/bin/pip install --no-cache-dir -c constraints.txt . nvidia-cublas-cu12==12.8.4.1


FROM build AS model
ARG MODEL=turbo
ENV HF_HOME=/opt/models HF_HUB_DISABLE_TELEMETRY=1
RUN mkdir /opt/models \
    && if [ "$MODEL" != none ]; then /opt/whisperfleet/bin/whisperfleet models fetch "$MODEL"; fi


FROM base
# A container's root is the host's business anyhow; not being root keeps a flaw of ours from becoming more than ours.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/whisperfleet --shell /usr/sbin/nologin worker
COPY --from=model --chown=10001:10001 /opt/models /opt/models
COPY --from=build /opt/whisperfleet /opt/whisperfleet
# Libraries of a CUDA release run on every driver of its major version; kernels that are compiled at load, as for cards
# newer than CTranslate2's, need a driver as new as they are, and a machine that lacks it fails its self-test. So more
# machines will do than the base says, down to `provisioning.cloud.OfferQuery.min_cuda`.
ENV PATH=/opt/whisperfleet/bin:${PATH} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=12.4" \
    LD_LIBRARY_PATH=/opt/whisperfleet/lib/python3.12/site-packages/nvidia/cublas/lib \
    WHISPERFLEET_NEEDS_GPU=1 \
    WHISPERFLEET_HOME=/var/lib/whisperfleet \
    HF_HOME=/opt/models \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/whisperfleet
# The first process: it collects the processes that others leave behind, drains on SIGTERM, and listens on no port.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/whisperfleet/bin/whisperfleet-supervisor"]
