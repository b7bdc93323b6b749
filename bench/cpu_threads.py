#!/usr/bin/env python3
"""The CPU backend with several threads a rank, against DeepSpeed's shared-memory all-reduce with as many.

Runs `mixcomm bench --threads N --against deepspeed` for 2 and 4 ranks that share 16 processors out, or 64
where there are as many, on one NUMA node and, where there are two, on both; puts all rows into one JSON file,
and prints what they say. Needs DeepSpeed's sources (pip install deepspeed, or MIXCOMM_DEEPSPEED_SHM). Takes
some minutes on an idle machine.
"""

import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYSTEM = pathlib.Path("/sys/devices/system")
SUMS = "all_reduce,all_reduce_all_gather,reduce_scatter_all_reduce"
# Ranks: which operations on which grid.
GRIDS = {
    2: (("2x1", SUMS), ("1x2", "all_gather,reduce_scatter")),
    4: (("4x1", "all_reduce"), ("1x4", "all_gather,reduce_scatter"),
        ("2x2", "all_reduce_all_gather,reduce_scatter_all_reduce")),
}  # fmt: skip
# Kind of memory: geometric mean over T, largest ratio; and the part of the copy bandwidth at the largest T.
TARGETS = {"plain": 0.7, "symmetric": 0.5}
MOST = 0.9
COPY = 0.75


def numbers(text):
    """The numbers of "0-3,8"."""
    found = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    return found


def cores_first(processors):
    """One processor of each core, then their siblings."""
    firsts, others = [], []
    seen = set()
    for p in processors:
        path = SYSTEM / f"cpu/cpu{p}/topology/thread_siblings_list"
        core = numbers(path.read_text())[0] if path.exists() else p
        (others if core in seen else firsts).append(p)
        seen.add(core)
    return firsts, others


def placements(total):
    """Names of placements, and their processors: as many as `total`, on one node and spread over two."""
    usable = sorted(os.sched_getaffinity(0))
    nodes = []
    for folder in sorted((SYSTEM / "node").glob("node*"), key=lambda f: int(re.sub(r"\D", "", f.name) or 0)):
        mine = [p for p in numbers((folder / "cpulist").read_text()) if p in usable]
        if mine:
            nodes.append(mine)
    nodes = nodes or [usable]

    def pick(some, count):
        firsts, others = cores_first(some)
        return sorted((firsts + others)[:count])

    found = []
    if len(nodes[0]) >= total:
        found.append(("one node", pick(nodes[0], total)))
    if len(nodes) > 1 and min(len(nodes[0]), len(nodes[1])) >= total // 2:
        found.append(("two nodes", pick(nodes[0], total // 2) + pick(nodes[1], total // 2)))
    if not found and len(usable) >= total:
        found.append((f"{len(nodes)} nodes", pick(usable, total)))
    return found


def run(args, grid, ops, rows, threads, dtype, processors, against, in_place):
    """The rows of one `mixcomm bench`, and its command; None if it failed, with what it said on stderr."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = ["bench", "--processes", "--grids", grid, "--op", ops, "--rows", rows, "--hidden", "4096",
                 "--dtype", dtype, "--algorithm", "auto", "--threads", str(threads),
                 "--seconds", str(args.seconds)]  # fmt: skip
        words += ["--buffers", "plain", "--in-place"] if in_place else ["--buffers", "all"]
        words += ["--against", against] if against else []
        done = subprocess.run(
            [args.command, *words, "--json", file.name],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )
        command = " ".join(["mixcomm", *words])
        if done.returncode != 0:
            return command, None
        return command, json.loads(pathlib.Path(file.name).read_text())


def measure(args):
    """All rows, and what was run; None if there are too few processors."""
    result = {"machine": {}, "command": [], "rows": []}
    usable = len(os.sched_getaffinity(0))
    totals = [int(n) for n in args.processors.split(",")] if args.processors else [
        n for n in (16, 64) if n <= usable]  # fmt: skip
    if not totals:
        print(
            f"cpu_threads: {usable} processors are too few; --processors says how many to use",
            file=sys.stderr,
        )
        return None
    work = []
    for total in totals:
        for name, processors in placements(total):
            for ranks in (2, 4):
                threads = max(total // ranks, 1)
                for dtype in ("bf16", "fp32"):
                    cells = [(grid, ops, args.rows, False) for grid, ops in GRIDS[ranks]]
                    cells.append((f"{ranks}x1", "all_reduce", args.rows, True))
                    work += [(name, processors, ranks, threads, dtype, *cell) for cell in cells]
                if ranks == 2:  # what it is without, and that small messages stay what they are
                    work.append((name, processors, ranks, threads, "bf16", "2x1", "all_reduce", "1,4", False))
                    work.append(
                        (name, processors, ranks, 1, "bf16", "2x1", "all_reduce", f"1,4,{args.rows}", False)
                    )
    begin = time.monotonic()
    failed = []
    for i, (name, processors, ranks, threads, dtype, grid, ops, rows, in_place) in enumerate(work):
        if time.monotonic() - begin > args.limit:
            failed += [" ".join(map(str, each[2:])) for each in work[i:]]
            print(f"cpu_threads: {len(work) - i} runs left out after {args.limit} s", file=sys.stderr)
            break
        at = f"{time.monotonic() - begin:4.0f} s, {i + 1}/{len(work)}"
        how = ", in place" if in_place else ""
        print(f"[{at}] {name}, {ranks} x {threads}, {grid}, {dtype}: {ops}{how}", flush=True)
        command, part = run(args, grid, ops, rows, threads, dtype, processors, args.against, in_place)
        if part is None:
            failed.append(command)
            continue
        result["machine"] = part["machine"]
        result["command"].append(command)
        for row in part["rows"]:
            row.update({"ranks": ranks, "placement": name, "processors_used": len(processors)})
            result["rows"].append(row)
    if failed:
        result["left_out"] = failed
    return result


def mean(ratios):
    """The geometric one."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def show(result):
    """One line for each configuration, operation, memory and dtype."""
    groups = {}
    for row in result["rows"]:
        key = (
            row["placement"],
            f"{row['ranks']} x {row['threads']}",
            row["op"] + (" in place" if row.get("in_place") else ""),
            row["buffers"],
            row["dtype"],
        )
        groups.setdefault(key, []).append(row)
    print("| placement, ranks x threads | operation, memory, dtype | us, ours / DeepSpeed's (ratio) by T "
          "| mean | largest | of the bound, largest T | busbw / copy |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for (placement, shape, op, buffers, dtype), rows in groups.items():
        rows.sort(key=lambda row: row["rows"][0])
        cells, ratios = [], []
        for row in rows:
            theirs = row["against"].get("deepspeed")
            text = f"T={row['rows'][0]}: {row['p50_us']:.4g}"
            if theirs:
                text += f" / {theirs:.4g} ({row['p50_us'] / theirs:.2f})"
                if row["rows"][0] >= 16:
                    ratios.append(row["p50_us"] / theirs)
            cells.append(text)
        last = rows[-1]
        average = mean(ratios)
        over = "**" if average > TARGETS[buffers] or (ratios and max(ratios) > MOST) else ""
        copied = f"{last['busbw_gbps'] / last['copy_gbps']:.2f}" if last.get("copy_gbps") else ""
        print(f"| {placement}, {shape} | {op} {buffers} {dtype} | {', '.join(cells)} "
              f"| {over}{average:.2f}{over} ({TARGETS[buffers]}) "
              f"| {max(ratios, default=math.nan):.2f} ({MOST}) "
              f"| {last['bound_us'] / last['p50_us']:.2f} ({COPY}) | {copied} |")  # fmt: skip


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.25, help="for each cell (0.25)")
    parser.add_argument("--limit", type=float, default=500, help="seconds after which no run is begun (500)")
    parser.add_argument("--rows", default="16,64,256,1024")
    parser.add_argument(
        "--processors", help="how many are shared out, e.g. 16,64 (those of both that are there)"
    )
    parser.add_argument("--against", default="deepspeed", help="other libraries (deepspeed)")
    parser.add_argument("--command", default=str(ROOT / "build/tools/mixcomm"), help="which mixcomm")
    parser.add_argument("--out", default=str(ROOT / "bench/results/cpu-threads.json"))
    parser.add_argument("--show", metavar="FILE", help="print what an earlier run found")
    args = parser.parse_args()
    result = json.loads(pathlib.Path(args.show).read_text()) if args.show else measure(args)
    if result is None:
        return 2
    if not args.show:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    return 1 if result.get("left_out") else 0


if __name__ == "__main__":
    sys.exit(main())
