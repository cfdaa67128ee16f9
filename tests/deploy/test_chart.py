"""The Helm chart, the manifests without Helm and the examples, by the real programs and the published schemas.

No cluster is asked: `helm lint`, `helm template` and `kubectl kustomize` need none.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chart
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.engines

ROOT = Path(__file__).parents[2]
CASES = sorted(path for path in (chart.CHART / "ci").glob("*-values.yaml"))
OLDEST, NEWEST = "1.30", "1.37"

Manifest = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Manifest]]
One = Callable[[list[Manifest], str], Manifest]

PLAIN = ("--set", "insecure=true")
METRICS_API = ("autoscaling.kind=keda", "autoscaling.keda.trigger=metrics-api")


def values(case: Path) -> tuple[str, str]:
    return ("--values", str(case))


def container(manifests: list[Manifest], one: One) -> Manifest:
    (found,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    loader: Manifest = found
    return loader


def environment(manifests: list[Manifest], one: One) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(manifests, one)["env"]}


# ---- what is written ----


def test_everything_that_scripts_chart_writes_is_as_it_would_write_it_now(programs: dict[str, str]) -> None:
    for path, text in chart.written(programs["helm"]).items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: run scripts/chart"
    assert {path.name for path in chart.BASE.iterdir()} == {
        path.name for path in chart.written(programs["helm"]) if path.parent == chart.BASE
    }


def test_the_chart_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())

    assert about["appVersion"] == version
    assert version.startswith(about["version"])


def test_every_value_has_a_description_and_refuses_what_it_does_not_know() -> None:
    """What `additionalProperties: false` is not said of takes misspelt keys."""

    def below(schema: Manifest, name: str) -> Iterator[str]:
        for key, value in schema.get("properties", {}).items():
            if "default" in value and "description" not in value and not name.startswith("resources."):
                yield f"{name}{key}: no description"
            if "properties" in value:
                if value.get("additionalProperties") is not False:
                    yield f"{name}{key}: takes anything"
                yield from below(value, f"{name}{key}.")

    schema = json.loads((chart.CHART / "values.schema.json").read_text())

    assert list(below(schema, "")) == []
    assert schema["additionalProperties"] is False


# ---- what the real programs and the published schemas say ----


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_helm_lints_the_chart_strictly(case: Path, helm: Helm) -> None:
    done = helm("lint", "--strict", *values(case))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_manifests_are_what_kubernetes_knows_to_the_last_key(case: Path, version: str, render: Render) -> None:
    validate = pytest.importorskip("kubernetes_validate")

    for manifest in render(*values(case)):
        if manifest["kind"] in MODELS:
            conforms(manifest)
        else:
            validate.validate(manifest, version, strict=True)


MODELS = {
    "ScaledObject": ("cloudcoil.models.keda.v1alpha1", "ScaledObject"),
    "PodMonitor": ("cloudcoil.models.prometheus_operator.v1", "PodMonitor"),
    "JobSet": ("kubeflow_trainer_api.models", "JobsetV1alpha2JobSet"),
}
"""Custom resources, and packages with models that were made from their published definitions: KEDA 2.16, Prometheus
operator 0.80, JobSet as Kubeflow Trainer 2.3 has it."""


def conforms(manifest: Manifest) -> None:
    """It has no key that the resource's model does not have, and no value that it does not take."""
    module, name = MODELS[manifest["kind"]]
    model = getattr(pytest.importorskip(module), name)

    read = model.model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")

    assert list(missing(manifest, read, manifest["kind"])) == []


def missing(wanted: Any, read: Any, at: str) -> Iterator[str]:
    """What a model that ignores keys that it does not know has left out."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            if not isinstance(read, dict) or key not in read:
                yield f"{at}.{key}: no such key"
            else:
                yield from missing(value, read[key], f"{at}.{key}")
    elif isinstance(wanted, list):
        for number, (value, other) in enumerate(zip(wanted, read, strict=True)):
            yield from missing(value, other, f"{at}[{number}]")


def test_a_misspelt_key_of_a_custom_resource_is_found(render: Render, one: One) -> None:
    scaled = one(render(*values(chart.CHART / "ci/keda-values.yaml")), "ScaledObject")
    scaled["spec"]["minReplicas"] = scaled["spec"].pop("minReplicaCount")

    with pytest.raises(AssertionError, match=r"ScaledObject\.spec\.minReplicas: no such key"):
        conforms(scaled)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("path", sorted((ROOT / "examples/kubernetes").iterdir()), ids=lambda path: path.name)
def test_examples_are_what_kubernetes_knows(path: Path, version: str) -> None:
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in yaml.safe_load_all(path.read_text()):
        if manifest["kind"] == "JobSet":
            for job in manifest["spec"]["replicatedJobs"]:
                # By its own schema: the model takes no quantities, which are text.
                inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
                validate.validate(inner, version, strict=True)
                job["template"] = {"spec": {"template": {"spec": {"containers": []}}}}
            conforms(manifest)
        else:
            validate.validate(manifest, version, strict=True)


# ---- without Helm ----


def test_the_base_is_what_helm_makes_of_the_demo(built: Callable[[Path], list[Manifest]], render: Render) -> None:
    made = built(chart.BASE)

    assert same(made) == same(render(*values(chart.CHART / "ci/demo-values.yaml"), name="feedline"))


def test_the_overlay_is_what_helm_makes_of_its_values(built: Callable[[Path], list[Manifest]], render: Render) -> None:
    made = built(ROOT / "deploy/kubernetes/overlays/tls-volume")

    assert same(made) == same(render(*values(chart.CHART / "ci/tls-volume-values.yaml"), name="feedline"))


def same(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Manifests by kind and name, without what differs by the tool, lists with names in the order of these."""
    found = {}
    for manifest in manifests:
        text = json.dumps(manifest).replace('"kustomize"', '"Helm"')
        plain = ordered(json.loads(text))
        plain["metadata"].pop("namespace", None)
        found[f"{plain['kind']} {plain['metadata']['name']}"] = plain
    return found


def ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: ordered(one) for key, one in value.items()}
    if isinstance(value, list):
        named = all(isinstance(one, dict) and "name" in one for one in value)
        return [ordered(one) for one in (sorted(value, key=lambda one: one["name"]) if named else value)]
    return value


# ---- what makes no sense ----


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["replcas=3"], "additional properties 'replcas' not allowed"),
        (["image.tga=x"], "at '/image': additional properties 'tga' not allowed"),
        (["replicas=-1"], "at '/replicas': minimum"),
        (["replicas=two"], "at '/replicas': got string, want integer"),
        (["workers=0"], "at '/workers': minimum"),
        (["memory=big"], "at '/memory': 'big' does not match pattern"),
        (["resources.limits.memory=lots"], "at '/resources/limits/memory': 'lots' does not match pattern"),
        (["resources.requests.cpu=null"], "at '/resources/requests': missing property 'cpu'"),
        (["resources.limits.memory=null"], "at '/resources/limits': missing property 'memory'"),
        (["data.kind=s3"], "at '/data/kind': value must be one of"),
        (["data.kind=pvc"], "at '/data': missing property 'claim'"),
        (["data.kind=hostPath"], "at '/data': missing property 'hostPath'"),
        (["data.kind=hostPath", "data.hostPath=data"], "at '/data/hostPath': 'data' does not match pattern"),
        (["data.kind=csi"], "at '/data': missing property 'driver'"),
        (["data.kind=image", "data.path=../etc"], "at '/data/path': 'not' failed"),
        (["ports.grpc=70000"], "at '/ports/grpc': maximum"),
        (["logLevel=loud"], "at '/logLevel': value must be one of"),
        (["autoscaling.kind=magic"], "at '/autoscaling/kind': value must be one of"),
        (["autoscaling.target=70"], "at '/autoscaling/target': maximum"),
        (["networkPolicy.trainers={all}"], "at '/networkPolicy/trainers/0': got string"),
        (["fullnameOverride=Digits"], "at '/fullnameOverride': 'Digits' does not match pattern"),
        # What no schema can say.
        (["insecure=false"], "insecure: is false, and tls.secret names no Secret"),
        (["tls.secret=mine"], "insecure: is true, and tls.secret is set"),
        (["tls.clientCa=true"], "tls.clientCa: is true without tls.secret"),
        (["data.path=x"], "data.path: the demo's digits are in the image"),
        (["data.kind=image", "data.path=x", "config=y"], "data.path: is not used where config is set"),
        (["ports.health=50051"], "ports: found [50051 50061 50051 9100]; wanted four that differ"),
        (["autoscaling.kind=hpa", "autoscaling.min=9"], "autoscaling.min: is 9, more than autoscaling.max, which is 8"),
        (["autoscaling.kind=keda", "autoscaling.keda.trigger=prometheus"], "autoscaling.keda.prometheus: wanted the address"),  # noqa: E501
        (["autoscaling.kind=keda", "tokens.secret=t"], "autoscaling.autoscaler.tokenSecret: with tokens.secret the autoscaler needs"),  # noqa: E501
        (["autoscaling.kind=keda", "insecure=false", "tls.secret=t"], "autoscaling.keda.authentication: with tls.secret the autoscaler"),  # noqa: E501
        (["autoscaling.kind=hpa", "autoscaling.min=0"], "autoscaling.min: is 0, and only the autoscaler notices trainers"),  # noqa: E501
        ([*METRICS_API, "tokens.secret=t"], "autoscaling.keda.authentication: with tokens.secret KEDA needs a token"),
        ([*METRICS_API, "insecure=false", "tls.secret=t"], "autoscaling.keda.trigger: metrics-api asks pods by their addresses"),  # noqa: E501
        (["podMonitor.enabled=true", "tokens.secret=t"], "podMonitor.tokenSecret: with tokens.secret Prometheus needs a token"),  # noqa: E501
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_with_its_key(sets: list[str], words: str, helm: Helm) -> None:
    arguments = [word for one in sets for word in ("--set", one)]

    done = helm("template", "digits", *PLAIN, *arguments)

    assert done.returncode != 0
    assert words in done.stderr


# ---- what the manifests promise ----


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_drain_is_never_cut_short_by_the_pods_end(case: Path, render: Render, one: One) -> None:
    pod = one(render(*values(case)), "Deployment")["spec"]["template"]["spec"]
    (loader,) = pod["containers"]
    drain_s = next(int(item["value"]) for item in loader["env"] if item["name"] == "FEEDLINE_DRAIN_TIMEOUT_S")

    assert pod["terminationGracePeriodSeconds"] == loader["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_s + 10


def test_liveness_asks_for_the_name_that_a_drain_does_not_take_down(render: Render, one: One) -> None:
    loader = container(render(*PLAIN), one)

    assert loader["livenessProbe"]["grpc"] == {"port": 50052, "service": "live"}
    assert loader["startupProbe"]["grpc"] == {"port": 50052, "service": "live"}
    assert loader["readinessProbe"]["grpc"] == {"port": 50052, "service": "feedline.v1.Loader"}
    assert environment(render(*PLAIN), one)["FEEDLINE_HEALTH_LISTEN"] == "0.0.0.0:50052"


def test_workers_follow_the_cpus_that_are_asked_for_and_memory_the_limit(render: Render, one: One) -> None:
    plain = environment(render(*PLAIN), one)
    said = environment(render(*PLAIN, "--set", "workers=7", "--set", "memory=3GiB"), one)

    assert plain["FEEDLINE_WORKERS"] == {
        "resourceFieldRef": {"containerName": "loader", "resource": "requests.cpu", "divisor": "1"}
    }
    assert "FEEDLINE_MEMORY" not in plain  # the loader reads the limit from its control group
    assert (said["FEEDLINE_WORKERS"], said["FEEDLINE_MEMORY"]) == ("7", "3GiB")


@pytest.mark.parametrize(
    ("cpu", "wanted"), [("2", "1400m"), ("500m", "700m"), ("2500m", "2100m"), ("3.5", "2800m")], ids=str
)
def test_a_loader_is_to_be_asked_for_seven_tenths_of_its_workers(
    cpu: str, wanted: str, render: Render, one: One
) -> None:
    sets = ("--set-string", f"resources.requests.cpu={cpu}", "--set", "autoscaling.kind=hpa")

    (metric,) = one(render(*PLAIN, *sets), "HorizontalPodAutoscaler")["spec"]["metrics"]

    assert metric["pods"] == {
        "metric": {"name": "feedline_demand_workers"},
        "target": {"type": "AverageValue", "averageValue": wanted},
    }


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_what_scales_the_fleet_is_the_only_one_that_says_how_large_it_is(kind: str, render: Render, one: One) -> None:
    """Else every `helm upgrade` would set it back."""
    manifests = render(*PLAIN, "--set", f"autoscaling.kind={kind}")

    assert "replicas" not in one(manifests, "Deployment")["spec"]
    assert one(render(*PLAIN), "Deployment")["spec"]["replicas"] == 2
    assert not any(one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"} for one in render(*PLAIN))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_loaders_have_no_rights_no_root_and_nothing_to_write_to(case: Path, render: Render, one: One) -> None:
    manifests = render(*values(case))
    pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    (loader,) = pod["containers"]

    assert pod["automountServiceAccountToken"] is False
    assert one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert not any(
        manifest["kind"] in {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} for manifest in manifests
    )
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert loader["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["enableServiceLinks"] is False
    assert all(mount.get("readOnly") for mount in loader["volumeMounts"] if mount["name"] != "tmp")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_no_secret_is_in_a_manifest_an_argument_or_a_variable(case: Path, render: Render, one: One) -> None:
    manifests = render(*values(case))
    loader = container(manifests, one)

    assert not any(manifest["kind"] == "Secret" for manifest in manifests)
    assert "command" not in loader
    assert "args" not in loader
    secret = {name: value for name, value in environment(manifests, one).items() if re.search("TLS|TOKEN|KEY", name)}
    assert all(str(value).startswith("/run/feedline/") for value in secret.values())  # files


def test_only_trainers_and_who_reads_metrics_reach_loaders(render: Render, one: One) -> None:
    policy = one(render(*PLAIN), "NetworkPolicy")["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["grpc", "lane"], ["metrics"]]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"feedline/trainer": "true"}}}]
    assert policy["egress"] == []


def test_an_autoscaler_is_no_loader_to_the_service_and_may_ask_loaders(render: Render, one: One) -> None:
    manifests = render(*PLAIN, "--set", "autoscaling.kind=keda")
    (other,) = [m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == "digits-autoscale"]
    labels = other["spec"]["template"]["metadata"]["labels"]

    assert not one(manifests, "Service")["spec"]["selector"].items() <= labels.items()
    peers = one(manifests, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert {"podSelector": {"matchLabels": labels}} in peers


def test_two_fleets_share_no_pod(render: Render, one: One) -> None:
    """Their names differ, since Helm refuses a second release of one name; so must what selects their pods."""
    first, second = (render(*PLAIN, name=name) for name in ("digits", "scans"))

    chosen = [one(manifests, "Service")["spec"]["selector"] for manifests in (first, second)]
    labels = one(second, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert chosen[0] != chosen[1]
    assert not chosen[0].items() <= labels.items()
    assert chosen[1].items() <= labels.items()


def test_build_files_name_no_architecture() -> None:
    files = [ROOT / "server/Dockerfile", ROOT / "examples/trainer/Dockerfile", ROOT / "docker-compose.yml"]

    named = [file.name for file in files if re.search(r"amd64|x86|arm64|aarch64|platform", file.read_text())]

    assert named == []


def test_images_say_the_version_of_this_tree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    for file in ("server/Dockerfile", "examples/trainer/Dockerfile"):
        assert f"\nARG VERSION={version}\n" in (ROOT / file).read_text()
    for file in (ROOT / "examples/kubernetes").iterdir():
        assert set(re.findall(r"image: feedline-\w+:(\S+)", file.read_text())) == {version}


# ---- the autoscaler ----


def autoscaler(manifests: list[Manifest]) -> Manifest:
    (found,) = [
        one for one in manifests if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("-autoscale")
    ]
    (made,) = found["spec"]["template"]["spec"]["containers"]
    container: Manifest = made
    return container


@pytest.mark.parametrize("case", ["autoscaler", "plain"])
def test_the_autoscaler_understands_what_the_chart_says_to_it(case: str, render: Render) -> None:
    more = (
        values(chart.CHART / "ci/autoscaler-values.yaml")
        if case != "plain"
        else (*PLAIN, "--set", "autoscaling.kind=keda")
    )
    made = autoscaler(render(*more))
    assert made["command"] == ["feedline", "autoscale"]

    done = subprocess.run(
        [sys.executable, "-m", "feedline", "autoscale", *made["args"], "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    options = {word.partition("=")[0] for word in made["args"] if word.startswith("--")}
    assert options <= set(re.findall(r"--[a-z][a-z-]*", done.stdout))
    assert made["args"][0] == "digits:50051"


def test_the_autoscaler_of_the_chart_is_ready_before_there_is_a_loader_and_ends_by_sigterm(render: Render) -> None:
    made = autoscaler(render(*PLAIN, "--set", "autoscaling.kind=keda"))
    at = f"127.{os.getpid() % 200 + 20}.8.1"
    words = [word.replace("0.0.0.0", at) for word in made["args"]]
    words[0] = f"{at}:1"  # nothing listens there

    with subprocess.Popen([sys.executable, "-m", "feedline", "autoscale", *words], stderr=subprocess.PIPE) as process:
        try:
            answers = [probed(made[name]["grpc"], at) for name in ("readinessProbe", "livenessProbe")]
            process.terminate()
            process.communicate(timeout=60)
        finally:
            process.kill()

    assert answers == [health_pb2.HealthCheckResponse.SERVING] * 2
    assert process.returncode == 0


def probed(probe: dict[str, Any], at: str) -> int:
    """What a kubelet is answered."""
    with grpc.insecure_channel(f"{at}:{probe['port']}") as channel:
        request = health_pb2.HealthCheckRequest(service=probe["service"])
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60, wait_for_ready=True)
    status: int = answer.status
    return status


def test_liveness_of_the_autoscaler_is_not_its_readiness(render: Render) -> None:
    """Its liveness probe asked for the name that goes down as soon as it is told to end."""
    made = autoscaler(render(*PLAIN, "--set", "autoscaling.kind=keda"))

    assert made["livenessProbe"]["grpc"] == {"port": 50052, "service": "live"}
    assert made["readinessProbe"]["grpc"] == {"port": 50052, "service": "externalscaler.ExternalScaler"}


# ---- the page's commands ----


def commands() -> list[str]:
    """Every command of docs/kubernetes.md, in its order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", chart.PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines() if line]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_does_what_it_can_do_without_a_cluster(
    command: str, programs: dict[str, str], tmp_path: Path
) -> None:
    """From a copy of the tree: Helm renders what it would install, kubectl writes what it would create."""
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "examples/kubernetes", tmp_path / "examples/kubernetes")
    subprocess.run(shlex.split(PAIR), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "tokens.toml").write_text('["alice"]\nsha256 = "00"\n')
    words = shlex.split(command, comments=True)
    match words:
        case ["helm", "install", name, folder, *more] | ["helm", "upgrade", "--install", name, folder, *more]:
            words = [programs["helm"], "template", name, folder, *more]
        case ["kubectl", "apply", "-k", folder]:
            words = [programs["kubectl"], "kustomize", folder]
        case ["kubectl", "apply", "-f", file]:
            words = ["cat", file]
        case ["kubectl", "run", *more]:
            # It asks a server even for a dry run; so only that it knows the options, and feedline the command.
            shown = subprocess.run([programs["kubectl"], "run", "--help"], capture_output=True, text=True, check=True)
            assert all(f"{word}=" in shown.stdout or word == "-it" for word in more if re.match("--?[a-z]", word))
            inner = more[more.index("--command") + 2 :]
            assert inner[:2] == ["feedline", "bench"]
            assert "feedline-loader:" in more[more.index("--image") + 1]
            return
        case ["kubectl", "create", *more]:
            words = [programs["kubectl"], "create", *more, "--dry-run=client", "-o", "yaml"]
        case ["feedline", *_]:
            return  # tests/test_docs.py
        case _:
            raise AssertionError(f"no test knows what {command!r} does")

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    made = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert made
    for manifest in made:
        if manifest["kind"] in MODELS:
            conforms(manifest)
        else:
            validate.validate(manifest, NEWEST, strict=True)


def test_the_pages_values_are_values(render: Render, one: One, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", chart.PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "scans.yaml").write_text(block)

    manifests = render("--values", str(tmp_path / "scans.yaml"))

    declared = tomllib.loads(one(manifests, "ConfigMap")["data"]["loader.toml"])
    assert declared == {"datasets": {"scans": {"path": "/data/scans", "validation_split": 0.1}}}


PAIR = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=digits "
    "-keyout loader.key -out loader.pem"
)
"""A certificate for the Secret of the page."""
