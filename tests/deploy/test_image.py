"""The image for clusters, as far as it can be checked without Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv

import pytest
import yaml

from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
STEPS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)]


def of(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def sources() -> list[str]:
    return [source for copy in of("COPY") for source in copy.split()[1:-1]]


def test_it_is_rays_own_image_of_the_pinned_release():
    pinned = re.search(r"^ray==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE).group(1)
    assert of("ARG") == [f"RAY={pinned}", "KIND=-gpu"]
    image = of("FROM")[0].replace("${RAY}", pinned).replace("${KIND}", "-gpu")
    docker = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["docker"]
    assert image == docker["worker_image"] and image.removesuffix("-gpu") == docker["head_image"]


def test_what_it_copies_is_there_and_not_left_out():
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((REPOSITORY / source).exists() for source in sources())
    assert sorted(sources()) == sorted(allowed)


def test_nobody_is_root_in_it_and_caches_are_a_volume():
    assert of("USER") == ["1000:100"]
    mounts = yaml.safe_load((REPOSITORY / "jobs" / "rayjob.yaml").read_text())
    worker = mounts["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert of("VOLUME")[0] in [mount["mountPath"] for mount in worker["volumeMounts"]]


def test_make_builds_it():
    # When make itself runs the tests, what it passes on would have this one print folders, too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    dry_run = ["make", "--dry-run", "image"]
    commands = subprocess.run(dry_run, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert commands.stdout.split() == ["docker", "build", "--build-arg", "KIND=-gpu", "--tag", "sdbatch:0.1.0", "."]


@pytest.mark.cluster
def test_its_pip_command_gives_a_command_that_runs(tmp_path):
    """In an empty environment of the same Python; minutes, and gigabytes from the package index."""
    for source in sources():
        subprocess.run(["cp", "-r", REPOSITORY / source, tmp_path], check=True)
    venv.create(tmp_path / "venv", with_pip=True)
    assert sys.version_info[:2] == (3, 11)
    (install,) = [run for run in of("RUN") if run.startswith("pip install")]
    install = install.replace("/home/ray/sdbatch-source", str(tmp_path))
    subprocess.run(f"{tmp_path}/venv/bin/{install}", shell=True, check=True)
    command = [tmp_path / "venv" / "bin" / "sdbatch", "--help"]
    helped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "generate" in helped.stdout
