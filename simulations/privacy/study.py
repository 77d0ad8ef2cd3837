"""What protecting soft labels costs in accuracy, and what it spares: every arm is run, and attacked, on the same data.

    python simulations/privacy/study.py --output DIR

runs every arm with every seed three times: as it is, for its accuracy; with canaries planted; and with half of a pool
of training samples taken out, for membership inference. What is done already is kept: stopped, the same command goes
on.
"""

import argparse
import contextlib
import csv
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

SETTING = (
    "num_clients=5",
    "num_rounds=20",
    "model=mlp_small",
    "partition.alpha=0.5",
    "transfer.size=300",
    "local_baseline=false",
)
# Canaries and as many inputs that were never trained on are appended to the 300 transfer samples.
PROBES = range(300, 348)
# Each attacked client costs sixteen shadow clients.
MEMBERSHIP = "{name: membership, clients: 2}"
SWING = "{name: swing, maximum_temperature: %s%s}"

# By name: how each arm differs. Only fedavg shares weights, and local nothing.
ARMS: Mapping[str, tuple[str, ...]] = {
    "local": ("strategy=local",),
    "no protection": ("strategy=fedmd",),
    "swing": ("strategy=fedmd", f"privacy=[{SWING % (8, '')}]"),
    "swing, temperature to 3": ("strategy=fedmd", f"privacy=[{SWING % (3, '')}]"),
    "swing, constant temperature": ("strategy=fedmd", f"privacy=[{SWING % (8, ', adaptive_temperature: false')}]"),
    "swing, constant noise": ("strategy=fedmd", f"privacy=[{SWING % (8, ', adaptive_noise: false')}]"),
    "swing, by flags": ("strategy=fedmd", f"privacy=[{SWING % (8, ', likelihood: flags, flags: FLAGS')}]"),
    "noise 0.05": ("strategy=fedmd", "privacy=[{name: noise, scale: 0.05}]"),
    "noise 0.2": ("strategy=fedmd", "privacy=[{name: noise, scale: 0.2}]"),
    "noise 0.5": ("strategy=fedmd", "privacy=[{name: noise, scale: 0.5}]"),
    "DP-SGD, epsilon 8": ("strategy=fedmd", "privacy=[{name: dp_sgd, epsilon: 8}]"),
    "DP-SGD, epsilon 4": ("strategy=fedmd", "privacy=[{name: dp_sgd, epsilon: 4}]"),
    "DP-SGD, epsilon 1": ("strategy=fedmd", "privacy=[{name: dp_sgd, epsilon: 1}]"),
    "noisy votes": ("strategy=gnmax", "strategy.sigma=1"),
    "fedavg": ("strategy=fedavg",),
}

# What the table shows of the findings: its column, the audit, the subject and the measure.
SHOWN = (
    ("canary: owner", "canary", "owner's model", "exposure in bits"),
    ("canary: student", "canary", "another client's student", "exposure in bits"),
    ("canary: server", "canary", "server model", "exposure in bits"),
    ("canary: sent", "canary", "soft labels sent", "exposure in bits"),
    ("membership: sent", "membership", "soft labels sent", "AUC"),
    ("membership: model", "membership", "client's model", "AUC"),
    ("label mix: sent", "label_distribution", "soft labels sent", "share of the label mix revealed"),
)


def run(arm: str, seed: int, audits: Sequence[str]) -> dict[str, Any]:
    """Run one arm once, and return its accuracies, what it guarantees and what attacks found."""
    import tempfile

    from fedfuse import results
    from fedfuse.audit.record import AUDITS_FILE
    from fedfuse.composition import compose
    from fedfuse.simulate import simulate

    flags = str(list(PROBES)) if "canary" in audits else "[]"
    overrides = [*SETTING, *(word.replace("FLAGS", flags) for word in ARMS[arm]), f"seed={seed}"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(StringIO()):
        directory = simulate(compose([*overrides, f"audit=[{','.join(audits)}]"]), Path(folder) / "run")
        metrics = results.read_metrics(directory)[-5:]
        guarantees = json.loads((directory / results.GUARANTEES_FILE).read_text())["protectors"]
        found = json.loads((directory / AUDITS_FILE).read_text())["findings"] if audits else []
    means = {name: sum(line[f"{name}_mean"] for line in metrics) / len(metrics) for name in ("personal", "general")}
    return {**means, "guarantees": guarantees, "findings": found}


def audits_of(arm: str) -> list[list[str]]:
    """Say which attacks are made on an arm, those side by side that leave each other alone."""
    if arm == "local":
        return []
    if arm == "fedavg":
        return [["canary"]]  # the others are made on what is said of transfer samples
    return [["canary", "label_distribution"], [MEMBERSHIP]]


def measure(arm: str, seed: int, output: Path) -> str:
    """Measure one arm with one seed, unless that is done, and say so."""
    path = output / "runs" / f"{arm.replace(' ', '_').replace(',', '')}-{seed}.json"
    if not path.exists():
        attacked = [run(arm, seed, audits) for audits in audits_of(arm)]
        plain = run(arm, seed, [])
        measured = {
            "arm": arm,
            "seed": seed,
            **{name: plain[name] for name in ("personal", "general", "guarantees")},
            "planted_general": attacked[0]["general"] if attacked else None,
            "findings": [finding for one in attacked for finding in one["findings"]],
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(measured, indent=1))
        partial.replace(path)
    return f"{arm}, seed {seed}"


def find(findings: Sequence[Mapping[str, Any]], audit: str, subject: str, measure: str) -> Mapping[str, Any] | None:
    """Find what an audit found from a subject over all, not by count of insertions; the measure may go on in words."""
    for finding in findings:
        same = (finding["audit"], finding["subject"]) == (audit, subject)
        if same and finding["measure"].startswith(measure) and "inserted" not in finding["measure"]:
            return finding
    return None


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make a row for every arm and seed: its accuracies in per cent, epsilon, and the findings that are shown."""
    rows = []
    for one in runs:
        epsilons = [guarantee["epsilon"] for guarantee in one["guarantees"] if guarantee["epsilon"] is not None]
        row = {
            "arm": one["arm"],
            "seed": one["seed"],
            "epsilon": max(epsilons, default=None),
            "own": 100 * one["personal"],
            "global": 100 * one["general"],
            "global, planted": None if one["planted_general"] is None else 100 * one["planted_general"],
        }
        for column, *key in SHOWN:
            item = find(one["findings"], *key)
            row[column] = None if item is None else item["value"]
            row[f"{column}, power"] = None if item is None else item["has_power"]
        rows.append(row)
    return rows


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation; zero for one value."""
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the table in Markdown: mean and standard deviation over seeds."""
    columns = ["own", "global", "global, planted", *(column for column, *_ in SHOWN)]
    lines = [f"| arm | epsilon | {' | '.join(columns)} |", "|---|---:|" + "---:|" * len(columns)]
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        if not own:
            continue
        epsilon = own[0]["epsilon"]
        cells = [arm, "none" if epsilon is None else f"{epsilon:.3g}"]
        for column in columns:
            values = [row[column] for row in own if row[column] is not None]
            digits = 1 if column.startswith(("own", "global")) else 2
            mean, deviation = mean_and_deviation(values) if values else (0.0, 0.0)
            powerless = [row[f"{column}, power"] for row in own if row.get(f"{column}, power") is False]
            cell = f"{mean:.{digits}f} ± {deviation:.{digits}f}" if values else "-"
            cells.append(f"{cell} (no power in {len(powerless)})" if powerless else cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw accuracy on global data against the success of two attacks, an arm a point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("canary: student", "exposure on another client's student (bits)", 1.43),
        ("membership: sent", "membership AUC, soft labels sent", 0.5),
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharey=True)
    for panel, (column, label, floor) in zip(axes, panels, strict=True):
        for number, arm in enumerate(ARMS):
            own = [row for row in rows if row["arm"] == arm and row[column] is not None]
            if not own:
                continue
            across, up = ([row[name] for row in own] for name in (column, "global"))
            (x, dx), (y, dy) = mean_and_deviation(across), mean_and_deviation(up)
            colour, marker = plt.get_cmap("tab20")(number / len(ARMS)), "os^vD"[number % 5]
            panel.errorbar(x, y, xerr=dx, yerr=dy, fmt=marker, color=colour, label=arm, capsize=2, markersize=6)
        panel.axvline(floor, color="grey", linestyle="--", linewidth=1)  # what an attacker gets who learnt nothing
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on global data (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run what is left of the study, and write its table, its numbers and its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="where runs, table and figure go")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--arms", default=",".join(ARMS).replace(", ", "; "), help="a,b; commas in names as '; '")
    arguments = parser.parse_args()
    arms = [name.replace("; ", ", ") for name in arguments.arms.split(",")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    (arguments.output / "runs").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(measure, arm, seed, arguments.output) for seed in range(arguments.seeds) for arm in arms]
        for number, job in enumerate(jobs, 1):
            print(f"{number}/{len(jobs)} {job.result()}", flush=True)
    rows = rows_of([json.loads(path.read_text()) for path in sorted((arguments.output / "runs").glob("*.json"))])
    rows.sort(key=lambda row: (list(ARMS).index(row["arm"]), row["seed"]))
    with (arguments.output / "study.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (arguments.output / "study.md").write_text(table_of(rows))
    draw(rows, arguments.output / "study.png")
    print(table_of(rows))


if __name__ == "__main__":
    main()
