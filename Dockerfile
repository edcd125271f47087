# Images of the static binaries that `just dist` put into dist/: one target a service.
#
#   docker build --target task-api -t task-events/task-api:dev .
#
# The base brings CA certificates and time zones, and no shell; `--build-arg BASE=scratch` brings nothing,
# which is enough but for https to the internet: without the system's CAs, API_JWKS_URL, WEBHOOK_URL and others need
# their variable ..._CA_FILE.
ARG BASE=gcr.io/distroless/static-debian13:nonroot

FROM ${BASE} AS base
# The mount point of state. A new named volume takes its owner from here.
COPY --chown=65532:65532 dist/state /var/lib/task-events
ENV STATE_DIR=/var/lib/task-events
WORKDIR /var/lib/task-events
USER 65532:65532

FROM base AS task-api
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/task-api /task-api
ENV HOST=0.0.0.0
EXPOSE 8000
ENTRYPOINT ["/task-api"]

FROM base AS notification-service
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/notification-service /notification-service
ENTRYPOINT ["/notification-service"]

FROM base AS audit-service
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/audit-service /audit-service
# For `taskctl audit verify`, where the log is.
COPY dist/linux-${TARGETARCH}/taskctl /taskctl
ENV AUDIT_LOG_PATH=/var/lib/task-events/audit.log
ENTRYPOINT ["/audit-service"]

FROM base AS dlq-processor
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/dlq-processor /dlq-processor
ENTRYPOINT ["/dlq-processor"]

FROM base AS taskctl
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/taskctl /taskctl
ENTRYPOINT ["/taskctl"]
