"""What a profile of SGLang's says of communication."""

from __future__ import annotations

import collections
import gzip
import json
import pathlib

COMMUNICATION = (
    "nccl",
    "cross_device_reduce",
    "mixcomm",
    "allreduce",
    "all_reduce",
    "allgather",
    "all_gather",
)


# SGLang's own norms; those in an operation are part of its kernel.
NORM = ("rmsnorm", "rms_norm")


def events(path: pathlib.Path) -> list[dict]:
    """The kernels of a trace."""
    with gzip.open(path, "rt") as file:
        data = json.load(file)
    return [
        e
        for e in data["traceEvents"]
        if e.get("ph") == "X" and e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]


def is_communication(name: str) -> bool:
    """Whether a kernel of that name communicates."""
    return any(part in name.lower() for part in COMMUNICATION)


def sum_up(path: pathlib.Path, steps: int) -> dict:
    """Time of all kernels and of those that communicate, per decode step, in microseconds."""
    total, communication, norm, norms, kernels = 0.0, 0.0, 0.0, 0, collections.Counter()
    number = collections.Counter()
    found = events(path)
    for event in found:
        total += event["dur"]
        if is_communication(event["name"]):
            communication += event["dur"]
            kernels[event["name"][:90]] += event["dur"]
            number[event["name"][:90]] += 1
        elif any(part in event["name"].lower() for part in NORM):
            norm += event["dur"]
            norms += 1
    span = max((e["ts"] + e["dur"] for e in found), default=0) - min((e["ts"] for e in found), default=0)
    return {
        "steps": steps,
        "span_us_per_step": round(span / steps, 1),
        "kernels_us_per_step": round(total / steps, 1),
        "communication_us_per_step": round(communication / steps, 1),
        "norm_us_per_step": round(norm / steps, 1),
        "norms_per_step": round(norms / steps, 1),
        "communication": {name: [number[name], round(us / steps, 1)] for name, us in kernels.most_common(12)},
    }


def cut(path: pathlib.Path, target: pathlib.Path, steps: int) -> None:
    """One decode step of a trace, from its middle, as a small file for Perfetto."""
    found = sorted(events(path), key=lambda e: e["ts"])
    if not found:
        return
    first, last = found[0]["ts"], found[-1]["ts"] + found[-1]["dur"]
    step = (last - first) / steps
    kept = [e for e in found if first + 2 * step <= e["ts"] < first + 3.1 * step]
    slim = [{k: e[k] for k in ("ph", "cat", "name", "pid", "tid", "ts", "dur")} for e in kept]
    with gzip.open(target, "wt") as file:
        json.dump({"traceEvents": slim}, file)
