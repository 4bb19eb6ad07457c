"""deploy/rayjob.yaml: only fields that KubeRay knows, settings that fit the image, the lock and our parser."""

import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftrec.errors import InvalidInput
from jobs import restore
from jobs.command import make_parser
from pipeline.restore.settings import RestoreSettings
from pipeline.settings import load
from tests.deploy.locks import locked

ROOT = Path(__file__).parents[2]
# The fields in use, each looked up in KubeRay's own definition of a RayJob (ray.io/v1).
FIELDS = {
    "spec": {"entrypoint", "backoffLimit", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
             "rayClusterSpec"},
    "rayClusterSpec": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
                       "workerGroupSpecs"},
    "autoscalerOptions": {"version", "idleTimeoutSeconds", "resources"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
# Where the changes below are made.
RAY = "spec.rayClusterSpec"
GROUP = f"{RAY}.workerGroupSpecs.0"
POD = f"{GROUP}.template.spec"


@pytest.fixture
def job() -> dict[str, Any]:
    _, job = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
    return unshare(job)


def unshare(node: Any) -> Any:
    """A copy in which what YAML anchors share is apart, so that one change shows in one place."""
    if isinstance(node, dict):
        return {key: unshare(value) for key, value in node.items()}
    return [unshare(value) for value in node] if isinstance(node, list) else node


def project_version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def lint(job: dict[str, Any]) -> list[str]:
    """What is wrong with the job, one line each; empty when nothing is."""
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    levels = [("spec", spec), ("rayClusterSpec", cluster), ("headGroupSpec", head),
              ("autoscalerOptions", cluster["autoscalerOptions"]),
              *(("workerGroupSpecs", group) for group in workers)]
    unknown = [(where, name) for where, level in levels for name in set(level) - FIELDS[where]]
    problems = [f"{where}: unknown field {name}" for where, name in unknown]
    problems += [f"head: {problem}" for problem in lint_pod(head["template"]["spec"])]
    problems += [problem for group in workers for problem in lint_worker(group)]
    if cluster["rayVersion"] != locked()["ray"]:
        problems.append(f"rayVersion {cluster['rayVersion']} is not the locked {locked()['ray']}")
    if not cluster["enableInTreeAutoscaling"] or cluster["autoscalerOptions"]["version"] != "v2":
        problems.append("autoscaler v2 is not on")
    if head["rayStartParams"].get("num-cpus") != "0":
        problems.append("head: must offer no CPU")
    if not spec.get("shutdownAfterJobFinishes"):
        problems.append("the cluster outlives the job, and its bill")
    if spec.get("backoffLimit", 0) > 0:
        problems.append("KubeRay repeats refused input")
    stop = yaml.safe_load(spec.get("runtimeEnvYAML", "{}")).get("env_vars", {})
    if int(stop.get("RAY_JOB_STOP_WAIT_TIME_S", 3)) < 30:
        problems.append("a stopped job has no time to say how far it is")
    if not head["template"]["spec"].get("priorityClassName"):
        problems.append("head: may be preempted")
    return problems


def lint_pod(pod: dict[str, Any]) -> list[str]:
    problems = []
    if not pod["securityContext"].get("runAsNonRoot"):
        problems.append("may run as root")
    for container in pod["containers"]:
        if container["image"].rpartition(":")[2] != project_version():
            problems.append(f"image {container['image']} is not version {project_version()}")
        resources = container["resources"]
        if resources["requests"] != resources["limits"]:
            problems.append("requests differ from limits")
        volumes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod.get("volumes", [])}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        spilled = volumes.get(mounts["/tmp/ray"])
        if not spilled or int(spilled[:-2]) >= int(resources["limits"].get("ephemeral-storage", "0Gi")[:-2]):
            problems.append("no room for what Ray spills and logs")
        if any("value" in variable for variable in container.get("env", [])):
            problems.append("a plain value in env: credentials come from a secret")
    return problems


def lint_worker(group: dict[str, Any]) -> list[str]:
    pod, name = group["template"]["spec"], group["groupName"]
    problems = [f"{name}: {problem}" for problem in lint_pod(pod)]
    if not group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]:
        problems.append(f"{name}: does not scale from zero")
    if pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", "0") == "0":
        problems.append(f"{name}: no GPU")
    tolerated = {toleration["key"] for toleration in pod.get("tolerations", [])}
    if not {"nvidia.com/gpu", "cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} <= tolerated:
        problems.append(f"{name}: GPU or spot taints are not tolerated")
    return problems


def test_kind(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")


def test_no_lint(job):
    assert lint(job) == []


def test_user_and_image_are_those_of_the_dockerfile(job):
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        assert f"\nUSER {pod['securityContext']['runAsUser']}\n" in dockerfile
        assert f"IMAGE={pod['containers'][0]['image']}\n" in dockerfile


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("spec.backofLimit", 3, "unknown field backofLimit"),
        ("spec.backoffLimit", 3, "repeats refused input"),
        ("spec.runtimeEnvYAML", "{}", "no time"),
        (f"{RAY}.headGroupSpec.template.spec.priorityClassName", "", "preempted"),
        (f"{POD}.volumes", [], "no room"),
        ("spec.shutdownAfterJobFinishes", False, "outlives"),
        (f"{RAY}.rayVersion", "2.9.0", "not the locked"),
        (f"{RAY}.enableInTreeAutoscaling", False, "autoscaler"),
        (f"{RAY}.autoscalerOptions.idleTimeout", 60, "unknown field idleTimeout"),
        (f"{RAY}.headGroupSpec.rayStartParams", {}, "head: must offer no CPU"),
        (f"{RAY}.headGroupSpec.template.spec.securityContext", {}, "head: may run as root"),
        (f"{GROUP}.minReplicas", 1, "scale from zero"),
        (f"{POD}.tolerations", [], "taints"),
        (f"{POD}.containers.0.image", "driftrec:latest", "is not version"),
        (f"{POD}.containers.0.resources.limits", {"cpu": 1}, "no GPU"),
        (f"{POD}.containers.0.resources.requests", {}, "differ from"),
        (f"{POD}.containers.0.env", [{"value": "x"}], "plain value"),
    ],
)
def test_lint_finds(job, path, value, complaint):
    *parents, last = path.split(".")
    place: Any = job
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    assert any(complaint in problem for problem in lint(job))


def settings_of(entrypoint: str) -> RestoreSettings:
    """The settings that the command line of the job gives; SystemExit or InvalidInput where it is wrong."""
    retry, more, python, dash_m, module, *arguments = shlex.split(entrypoint)
    assert (retry, int(more) > 0) == ("retry", True)
    assert (python, dash_m, module) == ("python", "-m", "jobs.restore")
    flags = vars(make_parser("restore", "", restore.PARTS).parse_args(arguments))
    (flags["input"],) = flags["input"]
    return load(RestoreSettings, flags={name: flags[name] for name in RestoreSettings.model_fields if name in flags})


def test_our_parser_takes_the_entrypoint(job):
    settings = settings_of(job["spec"]["entrypoint"])
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert settings.input.startswith("s3://")
    assert settings.output.startswith("s3://")
    # Named, because a cluster that has no GPU yet gives no default; and no more than can come.
    assert settings.gpus_per_actor == 1
    assert settings.actors is not None
    assert settings.actors <= group["maxReplicas"]


def test_the_priority_class_is_there(job):
    made, _ = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("scheduling.k8s.io/v1", "PriorityClass")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["priorityClassName"] == made["metadata"]["name"]


@pytest.mark.parametrize(
    ("ends", "code", "runs"),
    [
        ([0], 0, 1), ([1, 0], 0, 2), ([1, 1, 1, 1, 0], 1, 4),
        ([2, 0], 2, 1), ([3, 0], 3, 1), ([130, 0], 130, 1), ([1, 2, 0], 2, 2),
    ],
)
def test_only_a_failed_run_is_run_again(job, ends, code, runs, tmp_path):
    """The entrypoint as a shell starts it, with a command in Python's place that ends as it is told."""
    (tmp_path / "retry").symlink_to(ROOT / "deploy" / "retry.sh")
    (tmp_path / "ends").write_text("".join(f"{end}\n" for end in ends))
    (tmp_path / "python").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/runs\n'
        f'code=$(sed -n "$(wc -l < {tmp_path}/runs)p" {tmp_path}/ends)\nexit "$code"\n'
    )
    (tmp_path / "python").chmod(0o755)
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RETRY_WAIT_S": "0"}
    assert subprocess.run(job["spec"]["entrypoint"], shell=True, env=where, timeout=60).returncode == code
    begun = (tmp_path / "runs").read_text().splitlines()
    assert len(begun) == runs
    assert set(begun) == {shlex.join(shlex.split(job["spec"]["entrypoint"])[3:])}


@pytest.mark.parametrize("extra", ["--no-such-flag", "--max-failed many", "--actors 0"])
def test_our_parser_refuses_a_wrong_entrypoint(job, extra):
    with pytest.raises((SystemExit, InvalidInput)):
        settings_of(f"{job['spec']['entrypoint']} {extra}")
