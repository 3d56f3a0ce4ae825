# Tailrace with all its parts, as an ordinary user; the command is `tailrace`.
FROM python:3.11-slim AS build
WORKDIR /source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tailrace
# The pinned packages first: they change less often than the source.
COPY requirements.lock ./
RUN /opt/tailrace/bin/pip install --require-hashes -r requirements.lock
COPY . ./
RUN /opt/tailrace/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/tailrace /opt/tailrace
RUN useradd --system --uid 10001 --home-dir /var/lib/tailrace --create-home tailrace
# State (the producers' spool, the services' databases) lies in one folder: mount a volume there.
ENV PATH=/opt/tailrace/bin:$PATH PYTHONUNBUFFERED=1 XDG_STATE_HOME=/var/lib/tailrace
USER tailrace
WORKDIR /var/lib/tailrace
VOLUME /var/lib/tailrace
ENTRYPOINT ["tailrace"]
CMD ["--help"]
