"""A run through a real Slurm: one node on this machine, with a graphics card that is not there.

It has other batches and shards than the local run beside it, and the same tables.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "sinfo")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
WHY = f"no {', '.join(MISSING)} here" if MISSING else "Slurm's daemons want to be started by root"
REQUIRED = os.environ.get("EARLY_EXIT_SLURM") == "required"
pytestmark = pytest.mark.skipif((bool(MISSING) or os.geteuid() != 0) and not REQUIRED, reason=WHY)

PRESET = yaml.safe_load((ROOT / "workflow/presets/tiny.yaml").read_text())
CONFIG = {
    "preset": "tiny",
    "name": "cluster",
    "device": "auto",  # asks for a GPU, and does without one where torch sees none
    "backbones": {"tiny-transformer": None},
    "datasets": {"triviaqa": None, "truthfulqa": None,
                 "coqa": {"history": "own", "examples": {"calibration": 1, "test": 6}, "max_new_tokens": 8}},
    "corpus": {"documents": 12, "held_out": 2},
    "distillation": {"epochs": 1},
    "recipes": {"paper": ["calm"]},
    "head_quality": {"recipes": []},
    "calibration": {"promises": dict.fromkeys(["same-answer", "same-quality", "no-loops"])},
    "thresholds": [0.9],
    "bootstrap": {"resamples": 20},
    "policies": dict.fromkeys(set(PRESET["policies"]) - {"full", "calm-skip"}),
    "groups": dict.fromkeys(PRESET["groups"]),
    "resources": {"mem_mb": 2000},
}  # fmt: skip
TARGET = "results/cluster/tables/results.csv"
SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:1
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes={host} MaxTime=INFINITE
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment of a shell on the cluster; `SLURM_CONF` says where it is."""
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for name in ("state", "spool", "bin", "keys"):
        (folder / name).mkdir()
    (folder / "keys").chmod(0o700)
    key = folder / "keys/munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 - 512
    # Asking for less than there is makes no difference; more makes the node invalid.
    options = {"host": socket.gethostname().split(".")[0], "folder": folder, "ports": free_ports(2),
               "cores": os.cpu_count(), "memory": memory}  # fmt: skip
    (folder / "slurm.conf").write_text(SLURM.format(**options))
    (folder / "gres.conf").write_text(f"NodeName={options['host']} Name=gpu File=/dev/null\n")
    # Snakemake's job step clears Slurm's variables before it calls srun.
    wrapper = folder / "bin/srun"
    wrapper.write_text(f'#!/bin/sh\nexport SLURM_CONF={folder}/slurm.conf\nexec {shutil.which("srun")} "$@"\n')
    wrapper.chmod(0o755)
    programs = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": programs}
    daemons = []
    try:
        try:
            start(folder, environment, options["host"], daemons)
        except RuntimeError as error:
            if REQUIRED:
                raise
            pytest.skip(f"Slurm does not start here: {error}")
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)


def start(folder: Path, environment: dict[str, str], host: str, daemons: list[subprocess.Popen]) -> None:
    """Start the daemons and wait for an idle node; RuntimeError, with what they logged, if it does not come to that."""
    for command in (
        ["munged", "--foreground", "--force", f"--key-file={folder}/keys/munge.key", f"--socket={folder}/munge.sock",
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/keys/seed"],
        ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"],
        ["slurmd", "-D", "-f", f"{folder}/slurm.conf", "-N", host],
    ):  # fmt: skip
        daemons.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT))
        wait_for(daemons[-1], {"munged": folder / "munge.sock"}.get(command[0]))
    states = ["sinfo", "--noheader", "--format=%t"]
    for _ in range(150):
        found = subprocess.run(states, env=environment, capture_output=True, text=True, check=False).stdout.strip()
        if found == "idle":
            return
        wait_for(daemons[-1], None)
    raise RuntimeError("\n".join([found, *(path.read_text()[-2000:] for path in folder.glob("*.log"))]))


def wait_for(daemon: subprocess.Popen, file: Path | None) -> None:
    """Until the daemon has made its file, or a fifth of a second; it must not end."""
    for _ in range(50):
        try:
            code = daemon.wait(0.2)
        except subprocess.TimeoutExpired:
            if file is None or file.exists():
                return
        else:
            raise RuntimeError(f"{daemon.args[0]} ended with {code}")


def snakemake(folder: Path, environment: dict[str, str], *options: str | Path, **changes: Any) -> Path:
    """Run the experiment, its config changed, in `folder`; its results."""
    folder.mkdir(exist_ok=True)
    (folder / "user.yaml").write_text(yaml.safe_dump(CONFIG | changes))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder,
               "--replace-workflow-config", "--configfile", folder / "user.yaml", *options]  # fmt: skip
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=environment,
                          timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder / "results/cluster"


def through_slurm(folder: Path, environment: dict[str, str], profile: Path, *options: str | Path) -> Path:
    """As `snakemake`, with what this cluster lacks: accounting, and a file system that needs time."""
    return snakemake(
        folder, environment, "--profile", profile, "--slurm-no-account", "--slurm-status-command", "squeue",
        "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5", "--slurm-logdir", folder / "logs",
        "--cores", str(os.cpu_count()), *options, batch_size=5, generation={"shards": 2, "checkpoint_rows": 3},
    )  # fmt: skip


def listed(environment: dict[str, str]) -> list[dict[str, str]]:
    """What Slurm knows of all its jobs."""
    command = ["scontrol", "--oneliner", "show", "jobs"]
    lines = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.splitlines()
    return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines]


def rule_of(job: dict[str, str]) -> str:
    return re.match(r"(?:rule_|group_)?(.+?)(?:_wildcards.*)?$", job["Comment"])[1]


def asks_for_a_gpu(job: dict[str, str]) -> bool:
    return any("gres/gpu" in value or "gres:gpu" in value for key, value in job.items() if key.startswith("TresPer"))


def test_a_run_through_slurm_asks_for_gpus_and_gives_the_bytes_of_a_local_one(cluster, tmp_path):
    """Also on a cluster that knows only gres, for one job, with the profile's two lines for that."""
    local = snakemake(tmp_path / "local", dict(os.environ), "--cores", "2", TARGET)
    through = through_slurm(tmp_path / "slurm", cluster, ROOT / "profiles/slurm", TARGET)
    for pattern in ("tables/*.csv", "evaluated/*/*.parquet", "heads/*/*/heads.safetensors"):
        files = sorted(local.glob(pattern))
        assert files
        for file in files:
            assert (through / file.relative_to(local)).read_bytes() == file.read_bytes(), file
    jobs = listed(cluster)
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    with_gpu, without = ({rule_of(job) for job in jobs if asks_for_a_gpu(job) is asks} for asks in (True, False))
    assert {"train_heads", "settle", "answer", "answer_full"} <= with_gpu
    assert {"tables", "fetch_dataset"} <= without and not with_gpu & without
    assert {job["Partition"] for job in jobs if asks_for_a_gpu(job)} == {"gpu"}
    assert {job["Partition"] for job in jobs if not asks_for_a_gpu(job)} == {"cpu"}
    assert sum(rule_of(job) == "answer" for job in jobs) == 2  # the shards

    profile = tmp_path / "gres"
    profile.mkdir()
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    for line in ("gpu: 0", 'gres: "gpu:1"'):
        assert f"    # {line}\n" in text
        text = text.replace(f"    # {line}\n", f"    {line}\n")
    (profile / "config.yaml").write_text(text)
    settled = through / "settle/tiny-mamba.csv"
    before = settled.read_bytes()
    settled.unlink()
    through_slurm(tmp_path / "slurm", cluster, profile, settled.relative_to(tmp_path / "slurm"))
    assert settled.read_bytes() == before
    (again,) = [job for job in listed(cluster) if job["JobId"] not in {job["JobId"] for job in jobs}]
    assert asks_for_a_gpu(again) and again["JobState"] == "COMPLETED" and rule_of(again) == "settle"
