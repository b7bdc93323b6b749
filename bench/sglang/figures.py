"""Measurements of several servers, compared."""

from __future__ import annotations

import json
import pathlib
import statistics

from variants import ALL, FUSED, STOCK


def compare_tokens(stock: list, other: list) -> dict:
    """How many outputs are the same, and of the first differences how close the two candidates were."""
    same = sum([t[0] for t in a] == [t[0] for t in b] for a, b in zip(stock, other, strict=True))
    differences, apart = [], [0.0]
    for number, (a, b) in enumerate(zip(stock, other, strict=True)):
        for at, (x, y) in enumerate(zip(a, b, strict=True)):
            if x[0] != y[0]:
                top = x[2]
                gap = abs(top[0][1] - top[1][1]) if len(top) > 1 else None
                differences.append({"prompt": number, "token": at, "gap_of_stocks_two_best_logprobs": gap})
                break
            apart.append(abs(x[1] - y[1]))
    return {
        "identical": same,
        "of": len(stock),
        "first_differences": differences[:8],
        "largest_logprob_difference_before": max(apart),
    }


def figures(files: list[pathlib.Path]) -> dict:
    """Medians over the runs of each variant, and how they compare."""
    runs, cards, commands = [], [], []
    for file in files:
        data = json.loads(pathlib.Path(file).read_text())
        runs += data["runs"]
        cards.append(data["card"])
        commands.append(data["command"])
    rows = []
    for concurrency in sorted({run["concurrency"] for run in runs}):
        row: dict[str, object] = {"concurrency": concurrency}
        for variant in ALL:
            of = [run for run in runs if run["variant"] == variant and run["concurrency"] == concurrency]
            if of:
                itl = [run["median_itl_ms"] for run in of]
                row[f"{variant}_median_itl_ms"] = round(statistics.median(itl), 3)
                row[f"{variant}_runs_ms"] = [round(value, 3) for value in itl]
                row[f"{variant}_median_ttft_ms"] = round(
                    statistics.median(run["median_ttft_ms"] for run in of), 1
                )
        median = {variant: row.get(f"{variant}_median_itl_ms") for variant in ALL}
        for base in (*STOCK, "mixcomm"):
            for variant in FUSED:
                if variant != base and median[base] and median[variant]:
                    row[f"{variant}_to_{base}"] = round(median[variant] / median[base], 3)
        rows.append(row)
    return {
        "card": "; ".join(sorted(set(cards))),
        "command": " && ".join(dict.fromkeys(commands)),
        "rows": rows,
    }
