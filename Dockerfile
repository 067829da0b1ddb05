# The image of oncegate: one static binary, the roots of the public certificate authorities, and nothing else.
#
#   docker build -t oncegate .
#   docker run -p 8080:8080 -v "$PWD/oncegate.toml:/etc/oncegate/oncegate.toml:ro" -v oncegate:/var/lib/oncegate oncegate
#
# In that file listeners are on 0.0.0.0, or nobody outside the container reaches them, and so is [admin] where
# metrics are read from outside. It works in /var/lib/oncegate, which is where an embedded store is kept.

FROM docker.io/library/rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY bench bench
COPY src src
# A target that is named keeps the flags away from build scripts and macros, which cannot be static.
RUN RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --release --locked --features otlp --bin oncegate --target "$(rustc --print host-tuple)" && \
    install -D -t /out/usr/bin "target/$(rustc --print host-tuple)/release/oncegate" && \
    install -D -m 644 -t /out/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt && \
    install -d /out/var/lib/oncegate

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="oncegate" \
      org.opencontainers.image.description="A reverse proxy that lets each operation through once" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/usr/bin/oncegate /usr/bin/oncegate
COPY --from=build /out/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/var/lib/oncegate /var/lib/oncegate
USER 65532:65532
WORKDIR /var/lib/oncegate
VOLUME /var/lib/oncegate
EXPOSE 8080/tcp 9090/tcp
# It drains: drain_timeout (30 s) and 4.5 s more at most. Container runtimes kill after 10 s unless told otherwise.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=10s --retries=3 \
    CMD ["/usr/bin/oncegate", "healthcheck", "--config", "/etc/oncegate/oncegate.toml"]
ENTRYPOINT ["/usr/bin/oncegate"]
CMD ["serve", "--config", "/etc/oncegate/oncegate.toml"]
