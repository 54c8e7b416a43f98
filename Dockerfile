# Image of the HTTP server; `docker run IMAGE segment ...` runs other commands of refersam.
#
#   docker build -t refersam .
#   docker run --rm -p 8000:8000 refersam
#
# torch is installed from PyPI, or from the wheel index TORCH_INDEX. PyTorch's index of CPU builds gives a small image (the
# default build for x86-64 includes CUDA, several GB); an index of CUDA builds matches the CUDA version of your driver:
#
#   docker build --build-arg TORCH_INDEX=<PyTorch's wheel index> -t refersam .
#   docker run --rm --gpus all -p 8000:8000 refersam

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/refersam
WORKDIR /source
COPY constraints.txt ./
RUN /opt/refersam/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY refersam ./refersam
COPY sceneref ./sceneref
RUN /opt/refersam/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[serve]"

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home refersam
COPY --from=build /opt/refersam /opt/refersam
ENV PATH=/opt/refersam/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_DISABLE_TELEMETRY=1
USER refersam
WORKDIR /home/refersam
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["refersam"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
