"""The Dockerfiles of deploy/: built from files that exist and pinned versions, and run as nobody in particular."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
CONTEXT = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) of a Dockerfile: comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def lint(text: str, context: str) -> list[str]:
    """What is wrong with the Dockerfile, one line each; empty when nothing is."""
    steps = instructions(text)
    stages = {rest.split(" AS ")[1] for word, rest in steps if word == "FROM" and " AS " in rest}
    images = [rest.split()[0] for word, rest in steps if word == "FROM" and rest.split()[0] not in stages]
    sources = [source for word, rest in steps if word in ("COPY", "ADD") and "--from=" not in rest
               for source in rest.split()[:-1]]
    allowed = {line[1:] for line in context.splitlines() if line.startswith("!")}
    loose = [image for image in images if not re.search(r":\d+\.\d+\.\d+", image)]
    problems = [f"{image}: not pinned to a patch version" for image in loose]
    problems += [f"{source}: does not exist" for source in sources if not (ROOT / source).exists()]
    problems += [f"{source}: kept out by the ignore file" for source in sources if source not in allowed]
    problems += [f"{name}: let in, never copied" for name in sorted(allowed - set(sources))]
    users = [rest for word, rest in steps if word == "USER"]
    if not users or not users[-1].isdigit() or users[-1] == "0":
        problems.append("USER: must be a number other than 0, or Kubernetes can't check runAsNonRoot")
    if re.search(r"(?i)(secret|password|token|access_key)\s*=", text):
        problems.append("a secret in the image")
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    if not all(re.search(r"-[rc] /requirements/\${LOCK}.lock|--no-deps", rest) for rest in installs):
        problems.append("pip installs versions that are not locked")
    return problems


@pytest.mark.parametrize("name", ["Dockerfile", "ray-up.Dockerfile"])
def test_no_lint(name):
    text, context = ((ROOT / "deploy" / f"{name}{suffix}").read_text() for suffix in ("", ".dockerignore"))
    assert lint(text, context) == []


def test_the_image_of_ray_up_is_the_one_that_cluster_yaml_names():
    base = re.search(r"^FROM (\S+)", (ROOT / "deploy" / "ray-up.Dockerfile").read_text(), re.MULTILINE)[1]
    assert f"image: {base}\n" in (ROOT / "cluster.yaml").read_text()
    assert f"ray=={re.search(r':([0-9.]+)-', base)[1]}\n" in (ROOT / "requirements" / "runtime.lock").read_text()


def test_python_is_the_one_that_is_locked():
    version = re.search(r"FROM python:(\d+\.\d+)\.", TEXT)[1]
    assert f"Python {version}." in (ROOT / "requirements" / "runtime.lock").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest", "not pinned"),
        ("COPY jobs jobs", "COPY job job", "job: does not exist"),
        ("COPY jobs jobs", "COPY Makefile Makefile", "kept out by the ignore file"),
        ("COPY jobs jobs\n", "", "jobs: let in, never copied"),
        ("USER 1000", "USER driftrec", "USER"),
        ("USER 1000\n", "", "USER"),
        ("ENV RAY_USAGE_STATS_ENABLED=0", "ENV AWS_SECRET=x", "secret"),
        ("pip install -r /requirements/${LOCK}.lock", "pip install torch", "not locked"),
    ],
)
def test_lint_finds(before, after, complaint):
    assert before in TEXT
    assert any(complaint in problem for problem in lint(TEXT.replace(before, after), CONTEXT))
