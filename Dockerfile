# sdbatch on Ray's own image, for every node of a cluster: `make image`, or `make image IMAGE_KIND=` for CPUs.
ARG RAY=2.60.0
ARG KIND=-gpu
FROM rayproject/ray:${RAY}-py311${KIND}

COPY --chown=1000:100 constraints.txt pyproject.toml README.md LICENSE /home/ray/sdbatch-source/
COPY --chown=1000:100 sdbatch /home/ray/sdbatch-source/sdbatch
RUN pip install --no-cache-dir --constraint /home/ray/sdbatch-source/constraints.txt /home/ray/sdbatch-source

# Models and compiled kernels: a volume of the node, so that they are made once per node, not once per container.
RUN mkdir -p /home/ray/.cache/sdbatch
VOLUME /home/ray/.cache

USER 1000:100
WORKDIR /home/ray
