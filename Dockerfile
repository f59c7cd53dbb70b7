# The server on a CPU. Build: docker build -t mindformers-glm .   Run: docker compose up
FROM python:3.11-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
RUN useradd --uid 1000 --create-home glm
COPY --from=build /wheels /wheels
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir "$(ls /wheels/mindformers_glm-*.whl)[serve,structured,glm4]"
USER 1000
WORKDIR /home/glm
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["mindformers-glm"]
# Every address of the container; compose.yaml publishes the port on the host's 127.0.0.1 alone.
CMD ["serve", "--model", "glm2_tiny", "--host", "0.0.0.0", "--port", "8000"]
