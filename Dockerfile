# The command sat2dem in a container, for pipelines: PyTorch's CPU build, and what reads STAC items.
#   docker build --tag sat2dem .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" sat2dem predict valley.tif dem.tif
FROM python:3.11-slim-bookworm

# rasterio's wheel takes libexpat from the system, which a slim image may lack. Debian keeps no earlier version to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY data data
COPY sat2dem_core sat2dem_core
RUN pip install --no-cache-dir --constraint constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu '.[catalogs]'

# A home that any user whom --user names can write to; without it, the container runs as nobody.
ENV HOME=/tmp
WORKDIR /data
USER 65534:65534
ENTRYPOINT ["sat2dem"]
CMD ["--help"]
