"""What `clusters/` ships is what Ray, Kubernetes, Slurm and Docker take, and none of it is open to strangers."""

import copy
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from harness.grid import load

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
BIN = Path(sys.executable).parent
LAUNCHERS = ["aws", "gcp", "onpremise"]
RAYJOBS = ["rayjob-pvc", "rayjob-s3"]
PASSWORDS = {"POSTGRES_PASSWORD": "a", "MINIO_USER": "b", "MINIO_PASSWORD": "c"}


def model():
    """The typed model beside this file (tests are no package)."""
    spec = importlib.util.spec_from_file_location("kuberay", Path(__file__).with_name("kuberay.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["kuberay"] = module  # where pydantic looks up the annotations
    spec.loader.exec_module(module)
    return module


KUBERAY = model()


def read(name):
    return yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())


def documents(name):
    return list(yaml.safe_load_all((CLUSTERS / f"{name}.yaml").read_text()))


def rayjob(name):
    return KUBERAY.RayJob(**next(one for one in documents(name) if one["kind"] == "RayJob")).spec


def schema():
    return json.loads((resources.files("ray") / "autoscaler/ray-schema.json").read_text())


def run(*command, **more):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **more)


# the cluster launcher ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_fit_rays_schema(name):
    jsonschema.Draft7Validator(schema()).validate(read(name))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema()).validate({**read(name), "idle_timeout": 5})


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_start_ray_with_a_token_and_a_dashboard_nobody_else_reaches(name):
    config = read(name)
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "chmod 600 /home/ray/.ray/auth_token" in config["setup_commands"]
    opened = config["provider"].get("security_group", {}).get("IpPermissions", [])
    assert [(rule["FromPort"], rule["ToPort"]) for rule in opened] in ([], [(22, 22)])


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_are_left_when_idle_and_workers_are_spot(name):
    config = read(name)
    assert config["idle_timeout_minutes"] <= 15
    worker = config["available_node_types"]["gpu_spot"]
    assert worker["min_workers"] == 0
    assert "spot" in json.dumps(worker["node_config"]).lower()
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}


# KubeRay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAYJOBS)
def test_kubernetes_manifests_fit_the_typed_model(name):
    for one in documents(name):
        KUBERAY.KINDS[one["kind"]](**one)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutdownAfterJobFinish"), True),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "nodeSelectors"), {}),
    ],
)
def test_the_typed_model_refuses_what_kubernetes_would(path, value):
    broken = copy.deepcopy(next(one for one in documents("rayjob-pvc") if one["kind"] == "RayJob"))
    at = broken
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ValidationError):
        KUBERAY.RayJob(**broken)


@pytest.mark.parametrize("name", RAYJOBS)
def test_a_rayjob_has_a_token_retries_an_end_and_gpus(name):
    spec = rayjob(name)
    assert spec.rayClusterSpec.authOptions.mode == "token"
    assert spec.backoffLimit > 0
    assert spec.shutdownAfterJobFinishes
    assert spec.activeDeadlineSeconds
    assert spec.rayClusterSpec.headGroupSpec.serviceType in (None, "ClusterIP")
    assert spec.rayClusterSpec.headGroupSpec.rayStartParams["num-cpus"] == "0"
    groups = [spec.rayClusterSpec.headGroupSpec, *spec.rayClusterSpec.workerGroupSpecs]
    for container in [one for group in groups for one in group.template.spec.containers]:
        assert container.securityContext.allowPrivilegeEscalation is False
        assert container.resources.limits == container.resources.requests
    (worker,) = spec.rayClusterSpec.workerGroupSpecs
    assert worker.template.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
    assert worker.template.spec.nodeSelector


def test_all_nodes_of_the_volume_variant_write_to_the_claim():
    claim = KUBERAY.Claim(**documents("rayjob-pvc")[0])
    assert claim.spec.accessModes == ["ReadWriteMany"]
    cluster = rayjob("rayjob-pvc").rayClusterSpec
    for group in [cluster.headGroupSpec, *cluster.workerGroupSpecs]:
        (volume,) = group.template.spec.volumes
        assert volume.persistentVolumeClaim.claimName == claim.metadata.name
        assert [one.mountPath for one in group.template.spec.containers[0].volumeMounts] == ["/results"]


@pytest.mark.parametrize("name", RAYJOBS)
def test_the_entrypoints_are_commands_of_ours(name):
    from typer.testing import CliRunner

    from harness.cli import app

    program, command, grid, *options = shlex.split(rayjob(name).entrypoint)
    assert (program, command) == ("lengthwise", "run")
    assert load(grid, [options[at + 1] for at, option in enumerate(options) if option == "--set"]).cells
    told = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(option in told for option in options if option.startswith("--"))


# Slurm, Docker -----------------------------------------------------------------------------------------------------


def test_the_slurm_script_passes_shellcheck():
    answer = run(BIN / "shellcheck", "--severity=style", CLUSTERS / "slurm.sh")
    assert answer.returncode == 0, answer.stdout


SBATCH = {
    *("job-name", "nodes", "ntasks-per-node", "exclusive", "gpus-per-node", "cpus-per-task", "time", "requeue"),
    *("open-mode", "output", "partition", "account", "mem"),
}


def test_the_slurm_script_asks_for_whole_nodes_with_one_task_each():
    text = (CLUSTERS / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.+))?$", text, re.MULTILINE))
    assert options.keys() <= SBATCH
    assert {"exclusive", "requeue"} <= options.keys()
    assert options["ntasks-per-node"] == "1"
    assert text.index("#SBATCH --output") < text.index("set -euo"), "Slurm reads options up to the first command only"


STAND_INS = {
    "scontrol": "echo node1; echo node2",
    "srun": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "lengthwise": 'echo "$@" > "$HOME/told"; env > "$HOME/environment"; exit "${STATUS:-0}"',
}


@pytest.mark.parametrize(("status", "starts"), [(0, True), (1, True), (130, True), (0, False)])
def test_the_slurm_job_ends_as_the_grid_does(tmp_path, status, starts):
    """With stand-ins for Slurm's and Ray's commands; `symmetric-run` exits 0 when Ray does not start."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STAND_INS.items():
        text = "exit 0" if name == "srun" and not starts else text
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "activate").touch()
    (folder / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LENGTHWISE_VENV": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "STATUS": str(status),
    }
    options = ["demo", "/shared/results", "--set", "run.workers=2"]
    answer = run("bash", CLUSTERS / "slurm.sh", *options, env=environment)
    assert answer.returncode == (status if starts else 1), answer.stderr
    assert not (tmp_path / ".lengthwise" / "7").exists(), "the token stays behind"
    if starts:
        told = (tmp_path / "told").read_text()
        assert told == "run demo --store /shared/results --set run.workers=2 --address auto --preflight\n"
        assert "RAY_AUTH_MODE=token" in (tmp_path / "environment").read_text()
    else:
        assert "Ray did not start" in answer.stderr


@pytest.mark.parametrize("name", ["Dockerfile", "mlflow.Dockerfile"])
def test_dockerfiles_pass_hadolint(name):
    answer = run(BIN / "hadolint", "--failure-threshold", "info", CLUSTERS / name)
    assert answer.returncode == 0, answer.stdout


def test_the_image_has_the_ray_of_the_manifests_and_the_compiled_kernels():
    text = (CLUSTERS / "Dockerfile").read_text()
    image = re.search(r"ARG BASE=rayproject/ray:([\d.]+)-", text)[1]
    assert {rayjob(name).rayClusterSpec.rayVersion for name in RAYJOBS} == {image}
    assert all(package in text for package in ("mamba-ssm", "flash-attn", "causal-conv1d"))
    assert "RAY_AUTH_MODE=token" in text
    assert not re.search(r"RAY_AUTH_TOKEN\b", text), "the token itself has no place in an image"


def compose(*command, **variables):
    binary = resources.files("compose") / "docker-compose"
    clean = {name: value for name, value in os.environ.items() if name not in PASSWORDS}
    return run(binary, "-f", CLUSTERS / "compose.yaml", *command, env={**clean, **variables})


def test_the_compose_file_is_one():
    answer = compose("config", "--format", "json", **PASSWORDS)
    assert answer.returncode == 0, answer.stderr
    services = json.loads(answer.stdout)["services"]
    assert services.keys() == {"postgres", "minio", "buckets", "mlflow"}
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port["host_ip"] == "127.0.0.1" for port in published)


@pytest.mark.parametrize("missing", PASSWORDS)
def test_the_compose_file_has_no_default_passwords(missing):
    answer = compose("config", "-q", **{name: value for name, value in PASSWORDS.items() if name != missing})
    assert answer.returncode != 0
    assert missing in answer.stderr


def test_the_compose_file_passes_its_linter():
    answer = run(BIN / "compose-lint", "check", CLUSTERS / "compose.yaml")
    assert answer.returncode == 0, answer.stdout


def test_nothing_in_the_templates_is_open_or_secret():
    for path in CLUSTERS.iterdir():
        text = path.read_text()
        assert "dashboard-host=0.0.0.0" not in text.replace(" ", "=")
        assert not re.search(r"(?i)(password|token|secret)\w*[=:] *[0-9a-f]{16,}", text), path.name
