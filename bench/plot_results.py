#!/usr/bin/env python3
"""Draws the pictures of docs/performance.md from bench/results, into docs/pictures.

Needs matplotlib (pip install matplotlib). The same results give the same files, so whoever measures again
runs this again and commits what has changed.
"""

import argparse
import io
import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PICTURES = ROOT / "docs" / "pictures"
GREY = "#7d8590"  # of all that is no line: seen on white and on black
BLUE, ORANGE, GREEN, PINK = "#3b82f6", "#e8710a", "#1a9e55", "#d6409f"
SHORT = {
    "all_reduce_all_gather": "all-reduce + all-gather",
    "reduce_scatter_all_reduce": "reduce-scatter + all-reduce",
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
}


def rows_of(name, **wanted):
    """The rows of one file whose values are those wanted."""
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def mean(values):
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def smaller(svg):
    """The same picture without comments and metadata, and with one element a line."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<!DOCTYPE.*?>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)  # a hundredth of a point
    return re.sub(r"\s*\n\s*", "\n", svg).strip() + "\n"


class Picture:
    """Panels beside each other, with T on the x axis, one y axis, and one legend below."""

    def __init__(self, plt, panels, y_label, height=2.6):
        """Makes that many panels, `height` inches high."""
        self.figure, axes = plt.subplots(
            1, panels, figsize=(8.6, height), sharey=True, squeeze=False, layout="constrained"
        )
        self.axes = list(axes[0])
        self.axes[0].set_ylabel(y_label)

    def panel(self, index, title, lines, log=True):
        """Draws lines: (label, colour, style, {T: value})."""
        axis = self.axes[index]
        axis.set_title(title, fontsize=8)
        for label, colour, style, points in lines:
            xs = sorted(points)
            axis.plot(
                xs, [points[x] for x in xs], style, color=colour, label=label, marker="o", ms=2.5, lw=1.4
            )
        axis.set_xscale("log", base=2)
        ticks = sorted({x for _, _, _, points in lines for x in points})
        axis.set_xticks(ticks, [str(x) for x in ticks])
        axis.minorticks_off()
        axis.set_xlabel("T, rows per DP rank")
        if log:
            axis.set_yscale("log")
            axis.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
            axis.minorticks_off()
        axis.grid(color=GREY, alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)

    def line_at(self, y):
        """A line through all panels at what a ratio is compared with."""
        for axis in self.axes:
            axis.axhline(y, color=GREY, lw=0.8, ls="--")

    def write(self, plt, name, folder):
        """Writes the picture, with a legend of every label once."""
        labels = {}
        for axis in self.axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                labels.setdefault(label, handle)
        self.figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4, frameon=False)
        text = io.StringIO()
        self.figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator")))
        plt.close(self.figure)
        (folder / f"{name}.svg").write_text(smaller(text.getvalue()))


def times(rows, key=None):
    """T: microseconds, of ours or of what it was measured against."""
    return {row["rows"][0]: row["against"][key] if key else row["p50_us"] for row in rows}


def nvlink(plt):
    """Four H100: ours, two NCCL calls, and the bound."""
    cells = ((2, 2, "all_reduce_all_gather"), (2, 2, "reduce_scatter_all_reduce"), (4, 1, "all_reduce"),
             (1, 4, "all_gather"), (1, 4, "reduce_scatter"))  # fmt: skip
    picture = Picture(plt, len(cells), "microseconds per call")
    for i, (tp, dp, op) in enumerate(cells):
        cell = {"tp": tp, "dp": dp, "op": op, "buffers": "plain"}
        rows = rows_of("cuda-h100-nvlink", **cell)
        title = f"{tp}x{dp} " + SHORT[op].replace(" + ", " +\n")
        picture.panel(i, title, (
            ("NCCL", ORANGE, "-", times(rows, "nccl")),
            ("mixcomm", BLUE, "-", times(rows_of("cuda-h100-nvlink-auto", **cell))),
            ("bound", GREY, ":", {row["rows"][0]: row["bound_us"] for row in rows}),
        ))  # fmt: skip
    return picture


def one_gpu(plt):
    """Eight ranks on one H200: fused and composed."""
    ops = ("all_reduce_all_gather", "reduce_scatter_all_reduce")
    cells = [(op, buffers) for op in ops for buffers in ("symmetric", "plain")]
    picture = Picture(plt, len(cells), "microseconds per call")
    for i, (op, buffers) in enumerate(cells):
        rows = rows_of("cuda-h200-grids", tp=4, dp=2, op=op, buffers=buffers)
        picture.panel(i, f"4x2 {SHORT[op]},\n{buffers}".replace(" + ", " +\n"), (
            ("composed: two collectives", ORANGE, "-", times(rows, "composed")),
            ("fused", BLUE, "-", times(rows)),
        ))  # fmt: skip
    return picture


def against_mpi(plt):
    """Two processors: the ratio to the better MPI, in the geometric mean over operations and dtypes."""
    grids = ((2, 1), (1, 2), (2, 2))
    picture = Picture(plt, len(grids), "time over the better MPI's")
    for i, (tp, dp) in enumerate(grids):
        lines = []
        for buffers, colour in (("symmetric", BLUE), ("plain", GREEN)):
            for distance, style in (("near", "-"), ("far", "--")):
                ratios = {}
                for row in rows_of("cpu-against-mpi", tp=tp, dp=dp, buffers=buffers):
                    for values in (row, row.get("other_distance", {})):
                        if values.get("distance") == distance:
                            mpi = min(values["against"][name] for name in ("openmpi", "mpich"))
                            ratios.setdefault(row["rows"][0], []).append(values["p50_us"] / mpi)
                lines.append(
                    (f"{buffers}, {distance}", colour, style, {t: mean(r) for t, r in ratios.items()})
                )
        picture.panel(i, f"{tp}x{dp}", lines, log=False)
    picture.axes[0].set_ylim(0, 1.1)
    picture.line_at(1)
    return picture


def threads(plt):
    """Threads of a rank: the ratio to DeepSpeed's operation; but for operations that were interrupted."""
    cells = [(ranks, buffers) for ranks in (2, 4) for buffers in ("symmetric", "plain")]
    colours = dict(zip(SHORT, (BLUE, ORANGE, GREEN, PINK, GREY), strict=True))
    picture = Picture(plt, len(cells), "time over DeepSpeed's", height=3)
    for i, (ranks, buffers) in enumerate(cells):
        lines = []
        for op, colour in colours.items():
            rows = rows_of("cpu-threads", ranks=ranks, threads=16 // ranks, op=op, buffers=buffers,
                           dtype="bf16", in_place=None)  # fmt: skip
            pairs = [(row["rows"][0], row["p50_us"] / row["against"]["deepspeed"]) for row in rows
                     if "deepspeed" in row["against"]]  # fmt: skip
            lines.append(
                (SHORT[op], colour, "-", {t: ratio for t, ratio in pairs if t >= 16 and ratio > 0.1})
            )
        picture.panel(i, f"{ranks} ranks x {16 // ranks} threads,\n{buffers}", lines, log=False)
    picture.axes[0].set_ylim(0, 1.4)
    picture.line_at(1)
    return picture


def fused(plt):
    """Ranks that share two processors: fused over composed."""
    cells = [(op, buffers) for op in list(SHORT)[:2] for buffers in ("symmetric", "plain")]
    picture = Picture(plt, len(cells), "fused over composed")
    for i, (op, buffers) in enumerate(cells):
        lines = []
        for (tp, dp), colour in zip(((2, 2), (4, 2), (2, 4)), (BLUE, ORANGE, GREEN), strict=True):
            rows = rows_of("cpu-2-processors", tp=tp, dp=dp, op=op, buffers=buffers)
            points = {row["rows"][0]: row["p50_us"] / row["against"]["composed"] for row in rows}
            lines.append((f"{tp}x{dp}", colour, "-", points))
        picture.panel(i, f"{SHORT[op]},\n{buffers}".replace(" + ", " +\n"), lines, log=False)
    picture.axes[0].set_ylim(0, 1.1)
    picture.line_at(1)
    return picture


def simulated_hosts(plt):
    """Up to 1,024 ranks of several hosts: simulated, and what the plan predicts."""
    cells = [(op, per_host) for op in list(SHORT)[:2] for per_host in (8, 16)]
    picture = Picture(plt, len(cells), "microseconds per call")
    for i, (op, per_host) in enumerate(cells):
        lines = []
        for rows, colour in ((256, PINK), (16, GREEN), (1, BLUE)):
            some = rows_of("simulated-hosts", op=op, ranks_per_host=per_host, rows=rows)
            for key, colour_of, style in (("simulated_us", colour, "-"), ("predicted_us", GREY, ":")):
                label = f"T={rows}, simulated" if key == "simulated_us" else "predicted"
                lines.append((label, colour_of, style, {row["ranks"]: row[key] for row in some}))
        picture.panel(i, f"{SHORT[op]},\n{per_host} ranks a host".replace(" + ", " +\n"), lines, log=False)
        picture.axes[i].set_yscale("log")
        picture.axes[i].set_xlabel("ranks")
        picture.axes[i].set_xticks([8, 32, 128, 1024], ["8", "32", "128", "1024"])
        picture.axes[i].minorticks_off()
    return picture


PLOTS = {"nvlink": nvlink, "one-gpu": one_gpu, "cpu-against-mpi": against_mpi, "cpu-threads": threads,
         "cpu-fused": fused, "simulated-hosts": simulated_hosts}  # fmt: skip


def main():
    """Draws all, or what is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLOTS)}; without any, all")
    parser.add_argument("--out", type=pathlib.Path, default=PICTURES, metavar="FOLDER", help="docs/pictures")
    args = parser.parse_args()
    for name in args.names:
        if name not in PLOTS:
            parser.error(f"there is no picture {name!r}; there are {', '.join(PLOTS)}")
    try:
        import matplotlib
    except ImportError:
        print("plot_results: needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "mixcomm", "font.size": 8}
    plt.rcParams["font.sans-serif"] = ["DejaVu Sans"]
    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    plt.rcParams |= dict.fromkeys(colours, GREY)
    for name in args.names or PLOTS:
        PLOTS[name](plt).write(plt, name, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
