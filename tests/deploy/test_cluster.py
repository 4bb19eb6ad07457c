"""cluster.yaml: valid for Ray and for EC2, and free of mistakes that neither finds in time."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from jobs import restore
from jobs.command import make_parser
from tests.deploy.locks import locked

ROOT = Path(__file__).parents[2]
GPU_INSTANCE = re.compile(r"(g[4-9]|gr6|p[2-9])\w*\.")    # EC2 families with NVIDIA GPUs
MEMORY = {"m6i.xlarge": 16, "m6i.4xlarge": 64, "g5.2xlarge": 32, "g5.48xlarge": 768}    # GiB, as EC2 lists them
SOFTWARE_GIB = 60    # of disk: two images and PyTorch
OFF = {"gpu-8-spot"}    # until somebody wants one
SECRET = re.compile(r"AKIA|aws_secret|secret_access_key|BEGIN [A-Z ]*PRIVATE KEY", re.IGNORECASE)


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def run_instances_shape() -> botocore.model.Shape:
    """What EC2's RunInstances takes, from botocore's own data: no network."""
    api = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    return botocore.model.ServiceModel(api, "ec2").operation_model("RunInstances").input_shape


def lint(config: dict[str, Any]) -> list[str]:
    """What is wrong with the cluster, one line each; empty when nothing is."""
    types = config["available_node_types"]
    workers = {name: node for name, node in types.items() if name != config["head_node_type"]}
    problems = [line for name, node in types.items() for line in lint_node(name, node)]
    problems += [line for name, node in workers.items() for line in lint_worker(name, node)]
    problems += lint_head(types[config["head_node_type"]]) + lint_software(config)
    on = [node for name, node in workers.items() if name not in OFF]
    if not any("GPU" in node.get("resources", {}) and is_spot(node) for node in on):
        problems.append("no spot GPU worker type")
    if config["max_workers"] < max((node.get("max_workers", 0) for node in workers.values()), default=0):
        problems.append("max_workers is below that of a node type, which can never be reached")
    return problems


def is_spot(node: dict[str, Any]) -> bool:
    return node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"


def lint_node(name: str, node: dict[str, Any]) -> list[str]:
    instance = node.get("node_config", {}).get("InstanceType", "")
    if not instance:
        return [f"{name}: no InstanceType"]
    problems = []
    if bool(GPU_INSTANCE.match(instance)) != (node.get("resources", {}).get("GPU", 0) > 0):
        problems.append(f"{name}: GPU resources do not fit {instance}")
    if "CPU" not in node.get("resources", {}):
        problems.append(f"{name}: no CPU resource")
    if instance not in MEMORY:
        return [*problems, f"{name}: {instance} is no such machine as is known here"]
    disk = sum(each["Ebs"]["VolumeSize"] for each in node["node_config"].get("BlockDeviceMappings", []))
    if disk and disk < SOFTWARE_GIB + MEMORY[instance]:
        problems.append(f"{name}: a disk of {disk} GiB is too small to spill {MEMORY[instance]} GiB to")
    missing = {"ImageId", "IamInstanceProfile", "BlockDeviceMappings"} - set(node["node_config"])
    return problems + [f"{name}: no {field}" for field in sorted(missing)]


def lint_worker(name: str, node: dict[str, Any]) -> list[str]:
    problems = []
    if node.get("min_workers") != 0:
        problems.append(f"{name}: min_workers must be 0, an idle cluster costs nothing but its head")
    if node.get("max_workers", 0) < 1 and name not in OFF:
        problems.append(f"{name}: max_workers must be at least 1")
    if node.get("resources", {}).get("CPU", 0) < 1:
        problems.append(f"{name}: no CPUs")
    return problems


def lint_head(head: dict[str, Any]) -> list[str]:
    problems = []
    if head.get("max_workers") != 0:
        problems.append("head: max_workers must be 0")
    if head.get("resources", {}).get("CPU") != 0:
        problems.append("head: must offer no CPU")
    if is_spot(head):
        problems.append("head: must not be spot")
    return problems


def lint_software(config: dict[str, Any]) -> list[str]:
    problems = []
    docker = config.get("docker", {})
    expected = f"rayproject/ray:{locked()['ray']}-py311-"
    for field in ("image", "head_image"):   # without the first the autoscaler fails where there is the second
        if not docker.get(field, "").startswith(expected):
            problems.append(f"docker.{field}: is not {expected}...")
    mounted = config["file_mounts"].values()
    problems += [f"file_mounts: no {path}" for path in mounted if not (ROOT / path).exists()]
    if config["provider"].get("cache_stopped_nodes", True):
        problems.append("cache_stopped_nodes: stopped disks cost money")
    if any("0.0.0.0" in command for command in config["head_start_ray_commands"]):
        problems.append("the dashboard listens to the world")
    if SECRET.search(yaml.safe_dump(config)):
        problems.append("a secret in the file")
    return problems


def test_ray_accepts_it(config):
    validate_config(prepare_config(copy.deepcopy(config)))
    types = AutoscalingConfig(config, skip_content_hash=True).get_node_type_configs()
    assert types["head"].max_worker_nodes == 1     # Ray counts the head itself
    assert types["gpu-spot"].min_worker_nodes == 0
    assert types["gpu-spot"].resources["GPU"] == 1


def test_ray_refuses_a_misspelt_setting(config):
    config["available_node_types"]["gpu-spot"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(config))


def test_spot_goes_before_on_demand(config):
    """The autoscaler compares priorities only between types that fit the demand equally well."""
    spot, fallback = (config["available_node_types"][name] for name in ("gpu-spot", "gpu-on-demand"))
    assert spot["resources"] == fallback["resources"]
    assert spot["node_config"]["InstanceType"] == fallback["node_config"]["InstanceType"]
    assert spot["priority"] > fallback["priority"]
    assert is_spot(spot)
    assert not is_spot(fallback)


def test_ec2_accepts_every_node(config):
    shape = run_instances_shape()
    instance_types = shape.members["InstanceType"].enum
    for node in config["available_node_types"].values():
        request = {"MinCount": 1, "MaxCount": 1, **node["node_config"]}
        botocore.validate.validate_parameters(request, shape)
        assert node["node_config"]["InstanceType"] in instance_types


def test_ec2_refuses_a_misspelt_field(config):
    request = {"MinCount": 1, "MaxCount": 1, **config["available_node_types"]["gpu-spot"]["node_config"]}
    request["InstanceMarketOptions"] = {"MarketTyp": "spot"}
    with pytest.raises(botocore.validate.ParamValidationError, match="MarketTyp"):
        botocore.validate.validate_parameters(request, run_instances_shape())


def test_no_lint(config):
    assert lint(config) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("available_node_types.gpu-spot.resources", {}, "GPU resources do not fit"),
        ("available_node_types.gpu-spot.resources.GPU", 0, "GPU resources do not fit"),
        ("available_node_types.cpu-spot.resources.GPU", 1, "GPU resources do not fit"),
        ("available_node_types.gpu-spot.node_config", {}, "no InstanceType"),
        ("available_node_types.gpu-spot.node_config.InstanceMarketOptions", {}, "no spot GPU worker"),
        ("available_node_types.gpu-8-spot.node_config.InstanceType", "g5.2xlarge2", "no such machine"),
        ("available_node_types.head.node_config.BlockDeviceMappings", [{"Ebs": {"VolumeSize": 70}}], "too small"),
        ("available_node_types.gpu-spot.min_workers", 1, "min_workers must be 0"),
        ("available_node_types.gpu-spot.max_workers", 0, "at least 1"),
        ("available_node_types.gpu-spot.max_workers", 99, "can never be reached"),
        ("available_node_types.head.max_workers", 1, "head: max_workers"),
        ("available_node_types.head.resources.CPU", 4, "head: must offer no CPU"),
        ("available_node_types.head.node_config.InstanceMarketOptions", {"MarketType": "spot"}, "be spot"),
        ("docker.image", "rayproject/ray:latest", "docker.image"),
        ("docker.image", "", "docker.image"),
        ("file_mounts", {"/home/ray/x": "./no-such-folder"}, "no ./no-such-folder"),
        ("provider.cache_stopped_nodes", True, "stopped disks"),
        ("head_start_ray_commands", ["ray start --head --dashboard-host=0.0.0.0"], "listens to the world"),
        ("setup_commands", ["export AWS_SECRET_ACCESS_KEY=x"], "secret"),
    ],
)
def test_lint_finds(config, path, value, complaint):
    *parents, last = path.split(".")
    place = config
    for name in parents:
        place = place[name]
    place[last] = value
    assert any(complaint in problem for problem in lint(config))


def header(config_text: str) -> list[str]:
    """The commands that its first comment gives."""
    lines = config_text.partition("\n\ncluster_name")[0].splitlines()
    return [line[4:].partition("  #")[0].strip() for line in lines if line.startswith("#   ")]


def test_the_commands_of_the_header_are_ours():
    """What they install has a name that an index knows as ours or the lock pins; the job asks for GPUs."""
    commands = header((ROOT / "cluster.yaml").read_text())
    assert not [command for command in commands if "install" in command and "driftrec" in command]
    (job,) = [shlex.split(command) for command in commands if command.startswith("driftrec ")]
    flags = vars(make_parser("restore", "", restore.PARTS).parse_args(job[2:]))
    assert flags["gpus_per_actor"] == "1"
    assert flags["submit"] == "http://localhost:8265"


def test_both_kinds_of_gpu_machines(config):
    assert {node["resources"].get("GPU") for node in config["available_node_types"].values()} == {None, 1, 8}
