"""The files that start clusters, checked by what will read them as far as that needs no cloud."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
GPU = "nvidia.com/gpu"
OBJECT_STORE_SHARE = 0.3  # of a node's memory: Ray's default


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pinned_ray() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pin,) = [name for name in project["dependencies"] if name.startswith("ray[")]
    return str(pin.partition("==")[2])


@pytest.fixture
def aws() -> Any:
    return load(ROOT / "ray_cluster.yaml")


@pytest.fixture
def cluster_spec() -> Any:
    return load(KUBERAY / "ray-cluster.yaml")["spec"]


# ray up


def test_ray_accepts_the_cluster_file(aws: Any) -> None:
    prepared = prepare_config(aws)  # fills in defaults, as `ray up` does first
    validate_config(prepared)
    types = prepared["available_node_types"]
    workers = [name for name in types if name != prepared["head_node_type"]]
    assert sum(types[name]["max_workers"] for name in workers) == prepared["max_workers"]
    assert all(types[name]["min_workers"] == 0 for name in workers)


def test_ray_would_reject_a_field_of_an_older_release(aws: Any) -> None:
    aws["autoscaling_mode"] = "default"
    with pytest.raises(Exception, match="'autoscaling_mode' was unexpected"):
        validate_config(prepare_config(aws))


def test_ec2_accepts_every_node_config(aws: Any) -> None:
    ec2 = botocore.session.get_session().get_service_model("ec2")
    request = ec2.operation_model("RunInstances").input_shape
    assert request is not None
    for name, node_type in aws["available_node_types"].items():
        parameters = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        errors = ParamValidator().validate(parameters, request)
        assert not errors.has_errors(), f"{name}: {errors.generate_report()}"


def test_the_head_runs_no_tasks_and_listens_on_loopback(aws: Any) -> None:
    assert aws["available_node_types"][aws["head_node_type"]]["resources"] == {"CPU": 0}
    (start,) = [line for line in aws["head_start_ray_commands"] if "ray start" in line]
    assert "--head" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_every_node_starts_with_the_token(aws: Any) -> None:
    for commands in (aws["head_start_ray_commands"], aws["worker_start_ray_commands"]):
        (start,) = [line for line in commands if "ray start" in line]
        assert start.index("export RAY_AUTH_MODE=token") < start.index("ray start")
    assert "--env RAY_AUTH_MODE=token" in aws["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in aws["file_mounts"]


def test_what_setup_installs_is_mounted(aws: Any) -> None:
    (setup,) = aws["setup_commands"]
    (lock,) = re.findall(r"-r (\S+)", setup)
    assert aws["file_mounts"][lock] == "requirements.lock"


def test_gpus_are_handed_to_the_gpu_workers_only(aws: Any) -> None:
    assert aws["docker"]["disable_automatic_runtime_detection"]
    with_gpu = [
        name
        for name, node_type in aws["available_node_types"].items()
        if "--gpus=all" in node_type.get("docker", {}).get("worker_run_options", [])
    ]
    assert with_gpu == ["gpu_worker"]


def test_roles_fit_the_cluster_file(aws: Any) -> None:
    policy = json.loads((ROOT / "cluster/iam/head.json").read_text())
    allowed = {action: rule for rule in policy["Statement"] for action in rule["Action"]}
    # What Ray's AWS node provider calls on the head, recorded against a simulated EC2.
    for call in ("RunInstances", "CreateTags", "DescribeInstances", "TerminateInstances"):
        assert f"ec2:{call}" in allowed
    worker_role = aws["available_node_types"]["gpu_worker"]["node_config"]["IamInstanceProfile"]
    assert allowed["iam:PassRole"]["Resource"].endswith(f":role/{worker_role['Name']}")
    own = allowed["ec2:TerminateInstances"]["Condition"]["StringEquals"]
    assert own == {"ec2:ResourceTag/ray-cluster-name": aws["cluster_name"]}


# One version of Ray


def test_every_image_has_the_pinned_ray(aws: Any, cluster_spec: Any) -> None:
    ray = pinned_ray()
    base = f"rayproject/ray:{ray}-py311-gpu"
    assert aws["docker"]["image"] == base
    assert f"FROM {base}\n" in (ROOT / "cluster/Dockerfile").read_text()
    assert cluster_spec["rayVersion"] == ray
    for group in groups(cluster_spec):
        assert container(group)["image"].endswith(f"-ray{ray}")


# KubeRay


def groups(spec: Any) -> list[Any]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def container(group: Any) -> Any:
    (only,) = group["template"]["spec"]["containers"]
    return only


def gibibytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    assert unit == "Gi"
    return int(number)


def test_manifests_are_of_the_current_api() -> None:
    kinds = {}
    for path in KUBERAY.glob("*.yaml"):
        manifest = load(path)
        kinds[manifest["kind"]] = manifest["apiVersion"]
    assert kinds == {"RayCluster": "ray.io/v1", "RayJob": "ray.io/v1", "ServiceAccount": "v1"}


def test_the_job_runs_on_the_same_pods_as_the_cluster(cluster_spec: Any) -> None:
    job_spec = load(KUBERAY / "caption-job.yaml")["spec"]["rayClusterSpec"]
    for name in ("rayVersion", "authOptions", "headGroupSpec"):
        assert job_spec[name] == cluster_spec[name]
    for own, shared in zip(
        job_spec["workerGroupSpecs"], cluster_spec["workerGroupSpecs"], strict=True
    ):
        assert own["template"] == shared["template"]
        # jobs count the GPUs when they start, so a cluster made for one has its nodes by then
        assert own["minReplicas"] == own["replicas"] == own["maxReplicas"] > 0


def test_the_job_is_one_of_ours() -> None:
    entrypoint = load(KUBERAY / "caption-job.yaml")["spec"]["entrypoint"]
    module = re.fullmatch(r"python -m jobs\.(\w+) .*", entrypoint)
    assert module
    source = ast.parse((ROOT / "jobs" / f"{module[1]}.py").read_text(encoding="utf-8"))
    settings = {
        line.target.id
        for node in ast.walk(source)
        if isinstance(node, ast.ClassDef) and node.name == "JobConfig"
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([\w-]+)", entrypoint)}
    assert flags <= settings


def test_kubernetes_cluster_is_private_and_scales_from_zero(cluster_spec: Any) -> None:
    assert cluster_spec["authOptions"] == {"mode": "token"}
    assert cluster_spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster_spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster_spec["enableInTreeAutoscaling"]
    for group in cluster_spec["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]


def test_pods_run_as_the_service_account_and_not_as_root(cluster_spec: Any) -> None:
    account = load(KUBERAY / "service-account.yaml")["metadata"]["name"]
    for group in groups(cluster_spec):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == account
        assert pod["securityContext"]["runAsNonRoot"]
        assert not container(group)["securityContext"]["allowPrivilegeEscalation"]


def test_ray_and_kubernetes_count_the_same_resources(cluster_spec: Any) -> None:
    for group in groups(cluster_spec):
        assert container(group)["resources"].keys() == {"limits"}  # requests default to them
        assert "num-gpus" not in group["rayStartParams"]  # the operator reads it from the limits
    gpus = {
        group["groupName"]: container(group)["resources"]["limits"].get(GPU)
        for group in cluster_spec["workerGroupSpecs"]
    }
    assert gpus == {"gpu": "1", "cpu": None}


def test_shared_memory_holds_the_object_store(cluster_spec: Any) -> None:
    for group in groups(cluster_spec):
        memory = gibibytes(container(group)["resources"]["limits"]["memory"]) * 2**30
        params = group["rayStartParams"]
        store = int(params.get("object-store-memory", memory * OBJECT_STORE_SHARE))
        (volume,) = group["template"]["spec"]["volumes"]
        assert container(group)["volumeMounts"] == [
            {"name": volume["name"], "mountPath": "/dev/shm"}
        ]
        shared = volume["emptyDir"]
        assert shared["medium"] == "Memory"
        assert store <= gibibytes(shared["sizeLimit"]) * 2**30 < memory


# Dockerfile


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "cluster/Dockerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_image_is_built_from_pinned_parts(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    assert names[0] == "FROM"
    assert "ADD" not in names  # it would fetch what a URL serves that day
    installs = [rest for name, rest in instructions if name == "RUN" and "pip install" in rest]
    assert installs
    assert all("-c requirements.lock" in rest or "--no-deps" in rest for rest in installs)


def test_image_does_not_run_as_root(instructions: list[tuple[str, str]]) -> None:
    assert [rest for name, rest in instructions if name == "USER"][-1] == "ray"


def test_image_copies_what_the_project_has(instructions: list[tuple[str, str]]) -> None:
    for name, rest in instructions:
        if name == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            assert [source for source in sources if not (ROOT / source).exists()] == []
