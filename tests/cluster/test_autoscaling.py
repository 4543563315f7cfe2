"""A pool on nodes that are added when needed and removed when not, with simulated GPUs."""

from __future__ import annotations

import pytest
import ray
import yaml

from tests.cluster.conftest import ROWS, events
from tests.cluster.head import started_head
from tests.outputs import markers
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

NOTHING = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files",
)  # fmt: skip


def fake_cluster(gcs_address: str) -> dict:
    """Ray's own provider that starts "machines" as processes; its example file is not in the wheel."""
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs_address,
            "use_node_id_as_ip": True,  # all "machines" have the same address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **{name: [] for name in NOTHING},
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoscaling")

    def arguments(gcs_address: str) -> list[str]:
        (folder / "cluster.yaml").write_text(yaml.safe_dump(fake_cluster(gcs_address)))
        return ["--num-cpus=0", f"--autoscaling-config={folder / 'cluster.yaml'}"]

    with started_head(arguments, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1") as head:
        ray.init(head.gcs_address, log_to_driver=False)
        yield head.gcs_address
        ray.shutdown()


def gpu_nodes() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]


def test_nodes_come_for_a_run_and_go_after_it(address, start):
    assert gpu_nodes() == []
    run = start(address, gpus_per_actor=1, actors=(1, 2), stand_in={"step_seconds": 2.0})
    wait_for(lambda: len(gpu_nodes()) == 2, 120)
    (end,) = events(run.finish(), "end")
    assert end["ok"] == ROWS
    assert len(markers(run.out)) == 12
    assert end["totals"]["started_workers"] == 2
    wait_for(lambda: gpu_nodes() == [], 120)


def test_what_no_node_type_has_is_refused_with_the_numbers(address, start):
    (error,) = events(start(address, gpus_per_actor=2).finish(status=2), "error")
    assert "needs 1 CPU and 2 GPU" in error["text"]
    assert "the autoscaler may start 2 × 1 CPU and 1 GPU" in error["text"]
