# Gatepost with every extra, in an image that needs no root, no writable file system and no network at start.
# It is checked by tests/house/test_deployment.py; building it takes a machine with Docker, which CI has not.
#
#   docker build -t gatepost:local .
#   docker run --read-only --tmpfs /tmp -v gatepost:/var/lib/gatepost -p 127.0.0.1:8000:8000 gatepost:local

# ---- build: makes the wheel and a virtual environment with everything that is pinned, by hash, from wheels only ----
# The minor version that the test suite runs on; its fixes come with every new build.
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# What changes seldom comes first, so that a change of the code does not install everything anew. /opt/gatepost has no
# pip of its own, and what builds the wheel stays in a place that the image does not get.
COPY requirements/build.txt requirements/deploy.txt requirements/
RUN python -m venv --without-pip /opt/gatepost \
 && python -m pip --python /opt/gatepost/bin/python install --require-hashes --only-binary :all: \
      --requirement requirements/deploy.txt \
 && python -m pip install --require-hashes --only-binary :all: --requirement requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m hatchling build --target wheel --directory dist \
 && python -m pip --python /opt/gatepost/bin/python install --no-index --no-deps dist/*.whl \
 && python -m compileall -q /opt/gatepost/lib

# ---- what runs ----
FROM python:3.11-slim-bookworm

# By number, so that files of a volume belong to the same user everywhere. Nothing is ever installed into it.
RUN pip uninstall --yes --quiet setuptools wheel pip \
 && groupadd --gid 10001 gatepost \
 && useradd --uid 10001 --gid gatepost --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gatepost \
 && install --directory --owner gatepost --group gatepost --mode 0700 /var/lib/gatepost

COPY --from=build /opt/gatepost /opt/gatepost

# Bytecode was made above, and the file system may be read-only. PYTHONUNBUFFERED is left alone on purpose: logs go to
# standard error, a whole line at a time as it is. What is published decides who reaches it, not the address inside.
ENV PATH=/opt/gatepost/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEPOST_HOST=0.0.0.0 \
    GATEPOST_PORT=8000 \
    GATEPOST_LOG_FORMAT=json \
    GATEPOST_STORE=sqlite:////var/lib/gatepost/gatepost.db

USER 10001:10001
WORKDIR /var/lib/gatepost
EXPOSE 8000

# Whatever runs tells at port 8000 how it is: `serve` does, `worker` with `--http 127.0.0.1:8000`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]

# It finishes what is under way: give it longer than GATEPOST_SHUTDOWN_SECONDS (`docker stop --time 45`).
STOPSIGNAL SIGTERM
ENTRYPOINT ["gatepost"]
CMD ["serve"]
