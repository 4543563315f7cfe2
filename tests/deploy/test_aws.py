"""cluster.yaml against Ray's own schema and against EC2's parameters."""

from __future__ import annotations

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def node_types(config) -> dict[str, dict]:
    return config["available_node_types"]


def test_ray_takes_it(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["min_workers"] == 0
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


def test_ec2_knows_every_parameter_and_instance_type(node_types):
    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    for node_type in node_types.values():
        call = node_type["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(call, shape)
        assert not report.has_errors(), report.generate_report()
    known = ec2.shape_for("InstanceType").enum
    text = (REPOSITORY / "cluster.yaml").read_text()
    named = [line.split("InstanceType:")[1].split()[0] for line in text.splitlines() if "InstanceType:" in line]
    assert len(named) == 5
    assert set(named) <= set(known)


def test_nothing_is_open_and_nobody_gets_in_without_the_token(config, node_types):
    for node_type in node_types.values():
        # Where a node type names no group, Ray makes one with port 22 open to 0.0.0.0/0.
        assert node_type["node_config"]["SecurityGroupIds"]
        assert "KeyName" not in node_type["node_config"]
        assert node_type["node_config"]["IamInstanceProfile"]
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    assert "security_group" not in config["provider"]
    assert config["provider"]["use_internal_ips"] is True
    assert config["auth"]["ssh_proxy_use_node_id"] is True
    assert "~/.ray/auth_token" in config["file_mounts"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_gpu_workers_are_spot_and_grow_from_zero(config, node_types):
    gpu = node_types["gpu"]
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= config["max_workers"]
    assert gpu["resources"]["GPU"] == 1
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert node_types["head"]["resources"] == {"CPU": 0}


def test_every_file_that_is_mounted_exists(config):
    for local in config["file_mounts"].values():
        if not local.startswith("~"):
            assert (REPOSITORY / local).exists(), local
