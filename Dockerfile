# One GPU or none: the commit that is checked out here, set up by the script that every other machine uses.
#
#   docker build -t wrn-pipe .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/work:/work" wrn-pipe wrn-pipe doctor
#
# torch's wheels bring CUDA; the host needs a driver that is new enough for them, which doctor says, and the NVIDIA
# container toolkit. --shm-size is for NCCL and the loader's workers.
FROM debian:12-slim
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git make python3.11 python3.11-dev python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

# The commit and no working tree: what runs here is what a record can name.
COPY .git /source/.git
RUN git clone --no-hardlinks /source /wrn-pipe && rm -rf /source
WORKDIR /wrn-pipe
RUN bash environment/setup.sh && rm -rf /root/.cache /var/lib/apt/lists/*

ENV PATH=/wrn-pipe/.venv/bin:$PATH
CMD ["wrn-pipe", "doctor"]
