# syntax=docker/dockerfile:1
# The `tidings` program and the example worker on a slim Debian, as a user without rights.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches survive between builds; they are no layers, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package tidings-cli --package tidings-example-worker \
    && install -D --target-directory /out target/release/tidings target/release/worker

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
USER 10001:10001
ENTRYPOINT ["tidings"]
