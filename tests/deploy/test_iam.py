"""deploy/iam: the rights that the code uses, and no others."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import ray
import s3fs
import yaml

from pipeline.storage import open_store
from tests import faults, made, s3

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "iam"
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
INPUT, OUTPUT = "arn:aws:s3:::my-archive", "arn:aws:s3:::my-restored"
# What S3 asks for, by what is requested: a HEAD is a GET, the parts of a large object are a PUT.
RIGHTS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject"}
CALLS = {"create_instances": "RunInstances", "instances.filter": "DescribeInstances", "create_tags": "CreateTags"}


def statements(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / name).read_text())["Statement"]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def granted(name: str, resource: str = "") -> set[str]:
    """The actions that a policy allows, on what begins with `resource`."""
    return {
        action
        for statement in statements(name)
        for action in listed(statement["Action"])
        if any(one.startswith(resource) for one in listed(statement.get("Resource", "")))
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_a_policy_is_one(path: Path) -> None:
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = listed(statement["Action"])
        assert all(re.fullmatch(r"[a-z0-9]+:[A-Z][A-Za-z]+", action) for action in actions), "no wildcards"
        assert bool(statement.get("Resource")) != bool(statement.get("Principal"))


def right(request: str) -> str:
    """The right that a request to S3 needs."""
    method, _, target = request.partition(" ")
    url = urlsplit(target)
    query, key = parse_qs(url.query, keep_blank_values=True), url.path.strip("/").partition("/")[2]
    if not key:
        return "s3:ListBucket" if method in ("GET", "HEAD") else f"{method} of a bucket"
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
    return RIGHTS[method]


def work(endpoint: str, tmp_path: Path) -> None:
    """A restore that resumes and sweeps, and a put in parts that does not get through."""
    variables = s3.Server(endpoint).environment()
    for more in (["--limit", "4"], ["--limit", "4"]):
        command = [sys.executable, "-m", "jobs.restore", "s3://my-archive/photos", "s3://my-restored/photos", *more]
        command += ["--model", "identity", "--actors", "1"]
        subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, timeout=300)


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(400)
def test_storage_may_do_what_a_run_does(
    s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = s3fs.S3FileSystem(key=s3.KEY, secret=s3.SECRET, endpoint_url=s3_server.endpoint, skip_instance_cache=True)
    for bucket in ("my-archive", "my-restored"):
        fs.mkdir(bucket)
    for path in made.folder(tmp_path / "in", 4).rglob("*.jpg"):
        fs.put_file(str(path), f"my-archive/photos/{path.name}")
    with faults.before(s3_server.endpoint) as proxy:
        work(proxy.endpoint, tmp_path)
        for name, value in s3.Server(proxy.endpoint).environment().items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://my-restored/photos")
        store.put("a", b"a")
        store.remove("a")
        store.gives_others("a")
        large = tmp_path / "large.tar"
        large.write_bytes(bytes(110 * 2**20))  # put in parts
        store.put_file("shards/large.tar", large)
        requests = list(proxy.requests)
    buckets = ("my-archive", "my-restored")
    used = {bucket: {right(one) for one in requests if f" /{bucket}" in one} for bucket in buckets}
    assert used["my-archive"] == granted("storage.json", INPUT)
    # A put that is given up removes its parts; nothing else here is more than was seen.
    assert used["my-restored"] | {"s3:AbortMultipartUpload"} == granted("storage.json", OUTPUT)
    assert any("uploads" in one for one in requests)


def calls(source: str) -> set[str]:
    """What Ray's node provider asks of EC2, but for stopped nodes, which the cluster does not keep."""
    names = set(re.findall(r"ec2(?:_fail_fast)?\.(?:meta\.client\.)?([a-z_]+(?:\.filter)?)\b", source))
    names = {name for name in names if "_instances" in name or name in CALLS or name.startswith("describe_")}
    return names - {"start_instances", "stop_instances", "describe_instance_types", "describe_images"}


def test_the_head_may_do_what_rays_autoscaler_does() -> None:
    assert CLUSTER["provider"]["cache_stopped_nodes"] is False
    source = (Path(ray.__file__).parent / "autoscaler/_private/aws/node_provider.py").read_text()
    camel: Callable[[str], str] = lambda name: "".join(word.capitalize() for word in name.split("_"))  # noqa: E731
    asked = {f"ec2:{CALLS.get(name, camel(name))}" for name in calls(source)}
    assert len(asked) == 4
    assert granted("head.json") == {*asked, "iam:PassRole", "ssm:GetParameters"}


def test_the_policies_name_what_the_cluster_names() -> None:
    text = (FOLDER / "head.json").read_text()
    assert f'"ec2:ResourceTag/ray-cluster-name": "{CLUSTER["cluster_name"]}"' in text
    workers = [node for name, node in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]]
    (profile,) = {node["node_config"]["IamInstanceProfile"]["Name"] for node in workers}
    assert f":role/{profile}" in text
    images = {node["node_config"]["ImageId"] for node in CLUSTER["available_node_types"].values()}
    assert all(image.startswith("resolve:ssm:/aws/service/deeplearning/") for image in images)
