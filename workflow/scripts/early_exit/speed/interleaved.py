"""How fast decoding is: calls that are compared are timed in turn, in one process, and become rows of one table.

A round calls every case once - a, b, c, a, b, c - so that whatever else the machine does affects all of them; a time is
the median of the rounds. Tokens per second are compared with a named baseline of the same rounds, twice: over the whole
call, and over decoding alone, which is the call's time less that of the same prompts with one new token. The latter is
compared with `implied`, the speed-up that the FLOPs of the same tokens imply (see `costs`).
"""

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pandas as pd
import torch

from early_exit.base import job

COLUMNS = (
    "backbone", "dataset", "system", "case", "exit_block", "draft_tokens", "state_fill", "head", "head_state",
    "threshold", "batch_size", "prompts", "prompt_tokens", "tokens", "seconds", "seconds_low", "seconds_high",
    "tokens_per_second", "decode_seconds", "decode_tokens_per_second", "baseline", "ratio", "decode_ratio",
    "implied", "efficiency", "acceptance_rate", "peak_memory_mib", "repeats", "threads", "dtype", "device",
    "load_start", "load_end",
)  # fmt: skip


class TimedAnswer(NamedTuple):
    """What a timed call returned for one row, as records.GENERATIONS has it: `exit_blocks` for each useful token,
    `drafted` and `accepted` for each round of self-speculation."""

    prompt_tokens: int
    exit_blocks: Sequence[int]
    drafted: Sequence[int] = ()
    accepted: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to time.

    Args:
        system: huggingface or ours.
        name: what the call does: prefill, full, natural, exit, random, speculative, heads, sweep-joint, sweep-separate.
        call: what is timed; returns its answers.
        flops: FLOPs of answers; of decode passes where there is a `prefill`, else of the whole call.
        prefill: the case whose time is that of the prompts alone; None if decoding is not compared by itself.
        baseline: the case that it is compared with.
        labels: further columns: exit_block, draft_tokens, state_fill, head, head_state, threshold.
    """

    system: str
    name: str
    batch_size: int
    call: Callable[[], Sequence[TimedAnswer]]
    flops: Callable[[Sequence[TimedAnswer]], float]
    prefill: "Case | None" = None
    baseline: "Case | None" = None
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Repeats:
    """The repeats of one case: `seconds` in the order of the rounds, the largest peak, the answers."""

    seconds: list[float] = field(default_factory=list)
    peak_memory_mib: float = 0.0
    answers: Sequence[TimedAnswer] = ()

    @property
    def tokens(self) -> int:
        return sum(len(answer.exit_blocks) for answer in self.answers)


def measure(cases: Sequence[Case], repeats: int, probe: "Probe", **shared: Any) -> pd.DataFrame:
    """Time the cases and log the results; returns their rows with COLUMNS. `shared` are columns equal in all rows."""
    before = load()
    measured = interleave(cases, repeats, probe)
    rows = table(measured, load_start=before, load_end=load(), **shared)
    job.log.info("load of the machine %.1f before, %.1f after", *rows.loc[0, ["load_start", "load_end"]])
    for row in rows.to_dict("records"):
        job.log.info("%s", _line({name: value for name, value in row.items() if pd.notna(value)}))
    return rows


def interleave(
    cases: Sequence[Case], repeats: int, probe: "Probe", clock: Callable[[], float] = time.perf_counter
) -> dict[Case, Repeats]:
    """Call all cases in turn, `repeats` times; returns the last answers, and logs those that differ between repeats."""
    measured = {case: Repeats() for case in cases}
    for _ in range(repeats):
        for case, record in measured.items():
            probe.begin()
            start = clock()
            answers = case.call()
            probe.wait()
            record.seconds.append(clock() - start)
            record.peak_memory_mib = max(record.peak_memory_mib, probe.peak_mib())
            if record.answers and answers != record.answers:
                job.log.warning("%s %s: other answers than in the repeat before", case.system, case.name)
            record.answers = answers
    return measured


def table(measured: Mapping[Case, Repeats], **shared: Any) -> pd.DataFrame:
    """One row per case, with COLUMNS; `shared` are columns that are the same in all rows."""
    rates = {case: _rates(case, measured) for case in measured}
    rows = [_row(case, measured, rates) | shared for case in measured]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _rates(case: Case, measured: Mapping[Case, Repeats]) -> dict[str, float]:
    """Tokens per second of the call and of decoding; the latter is NaN where it is not measured or was too short."""
    record = measured[case]
    rates = {"tokens_per_second": record.tokens / median(record.seconds)}
    if case.prefill:
        rounds = zip(record.seconds, measured[case.prefill].seconds, strict=True)
        rates["decode_seconds"] = median(whole - prompt for whole, prompt in rounds)
        tokens = record.tokens - len(record.answers)  # first tokens come from the prompts' pass
        rates["decode_tokens_per_second"] = _over(tokens, rates["decode_seconds"])
    return rates


def _row(case: Case, measured: Mapping[Case, Repeats], rates: Mapping[Case, Mapping[str, float]]) -> dict[str, Any]:
    record = measured[case]
    row = {
        "system": case.system, "case": case.name, **case.labels, "batch_size": case.batch_size,
        "prompts": len(record.answers), "prompt_tokens": sum(answer.prompt_tokens for answer in record.answers),
        "tokens": record.tokens, "seconds": median(record.seconds), "seconds_low": min(record.seconds),
        "seconds_high": max(record.seconds), **rates[case], "peak_memory_mib": record.peak_memory_mib,
        "repeats": len(record.seconds),
    }  # fmt: skip
    drafted = sum(sum(answer.drafted) for answer in record.answers)
    accepted = sum(sum(answer.accepted) for answer in record.answers)
    row |= {"acceptance_rate": accepted / drafted} if drafted else {}
    base = case.baseline
    if base is None:
        return row
    other = measured[base]
    ratios = {"ratio": rates[case]["tokens_per_second"] / rates[base]["tokens_per_second"]}
    if case.prefill:
        ratios["decode_ratio"] = _over(*(rates[one]["decode_tokens_per_second"] for one in (case, base)))
    implied = (base.flops(other.answers) / other.tokens) / (case.flops(record.answers) / record.tokens)
    reached = ratios["decode_ratio" if case.prefill else "ratio"]
    return row | ratios | {"baseline": f"{base.system} {base.name}", "implied": implied,
                           "efficiency": reached / implied}  # fmt: skip


def _line(row: Mapping[str, Any]) -> str:
    """A row, its empty columns left out, as one line of the log."""
    names = [row[name] for name in ("system", "case", "state_fill", "head") if name in row]
    names += [f"after {row['exit_block']:.0f}"] if "exit_block" in row else []
    low, high = row["seconds_low"], row["seconds_high"]
    line = (
        f"{' '.join(names)}: {row['seconds']:.3f} s ({low:.3f} to {high:.3f}), {row['tokens_per_second']:.1f} tokens/s"
    )
    if "baseline" not in row:
        return line
    decoding = f", decoding alone {row['decode_ratio']:.2f}x" if "decode_ratio" in row else ""
    return f"{line}; {row['ratio']:.2f}x {row['baseline']}{decoding}, implied {row['implied']:.2f}x"


def _over(value: float, divisor: float) -> float:
    return value / divisor if divisor > 0 else float("nan")


class Probe:
    """Measures the peak memory of a call (resident set on CPU, allocated memory on GPU), and waits for its kernels."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; elsewhere freed memory may stay resident
        self._trim = (lambda: trim(0)) if trim and not self.on_gpu else (lambda: None)

    def begin(self) -> None:
        """Remove what the call before left: garbage, running kernels, the peak."""
        gc.collect()
        self._trim()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif (clear := Path("/proc/self/clear_refs")).exists():
            clear.write_text("5")  # Linux: the peak of the resident set starts again from the present
        self.wait()

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak_mib(self) -> float:
        """The peak since `begin`; where the system cannot reset a peak, since the process began."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() / 2**20
        status = Path("/proc/self/status")
        if status.exists():
            return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def load() -> float:
    """Load average of the last minute; the measurement itself counts as its threads."""
    return os.getloadavg()[0]
