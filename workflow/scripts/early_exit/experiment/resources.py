"""What a job that runs a model asks of a cluster, from the model's size and how often it has been tried.

Rules and jobs are named as in `work`, which owns the sizes and the times. A job that was killed for its memory or its
time asks for more when it is tried again: twice the first request, then three times.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from early_exit.experiment import work

Config = Mapping[str, Any]
MB = 1e6
# Beside the weights: Python, torch and transformers (0.7 GB; CUDA's libraries take more), tables, a text's logits.
BASE_MB = {"gpu": 8000, "cpu": 4000}
# On a GPU the weights pass through main memory once, with a quarter for what is being converted. On a CPU they stay, in
# float32 with a copy for products with few rows (`products`), and decoding gets as much again for its batch.
ON_GPU, ON_CPU, DECODING_ON_CPU = 1.25, 2.0, 3.0
DECODING = ("generate", "measure_wallclock", "measure_speed")
TRAINING = ("train_heads", "train_heads_seed")
TRAINED, USED = 16, 4  # bytes for a head's weight: itself, gradient, two averages, in float32; itself
STEP_MB, STEP_MINUTES, LEAST_MINUTES = 500, 10, 30


def memory_mb(config: Config, rule: str, job: str, attempt: int = 1) -> int:
    """Main memory in MB; the first request is the config's, if it gives one."""
    return attempt * (config["resources"]["mem_mb"] or _memory(config, rule, job))


def runtime_minutes(config: Config, rule: str, job: str, attempt: int = 1) -> int:
    """Time limit in minutes; the first request is the config's, if it gives one."""
    return attempt * (config["resources"]["runtime"] or _minutes(config, work.seconds(config, rule, job)))


def download_minutes(config: Config, backbone: str, attempt: int = 1) -> int:
    return attempt * _minutes(config, work.download_seconds(config["backbones"][backbone]))


def disk_mb(config: Config, backbone: str) -> int:
    """What a download of the weights takes."""
    return ceil(work.weight_bytes(config["backbones"][backbone]) / MB)


def _memory(config: Config, rule: str, job: str) -> int:
    name, *rest = job.split("/")
    on_gpu = work.is_on_gpu(config)
    times = ON_GPU if on_gpu else DECODING_ON_CPU if rule in DECODING else ON_CPU
    need = times * work.weight_bytes(config["backbones"][name])
    if rule in TRAINING:
        need += TRAINED * work.head_weights(config, name, rest[0])
    if rule == "measure_heads":
        need += USED * config["head_quality"]["seeds"] * work.head_weights(config, name, rest[0])
    return STEP_MB * ceil((BASE_MB["gpu" if on_gpu else "cpu"] + need / MB) / STEP_MB)


def _minutes(config: Config, seconds: float) -> int:
    minutes = config["estimate"]["safety"] * seconds / 60
    return max(LEAST_MINUTES, STEP_MINUTES * ceil(minutes / STEP_MINUTES))
