"""The strategies on the embedded digits, at three strengths of label skew: accuracy on own and on everybody's data.

From the root of the project, about 6 minutes on two cores (a second call continues where the first was stopped):

    python simulations/first_results/study.py

Every arm has the same partitions, initial weights, private epochs and transfer samples; nothing was chosen on test
data. Each figure is the mean of the last five rounds, then mean and standard deviation over the seeds.
"""

import argparse
import contextlib
import io
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure

from fedfuse.composition import compose
from fedfuse.simulate import resume, simulate
from fedfuse.summary import read_summary

HERE = Path(__file__).parent
ALPHAS = (0.1, 0.5, 10)
MIXED, ALIKE = "three architectures", "one architecture (mlp_small)"
ARMS = {
    MIXED: {
        "local": ["strategy=local"],
        "FedMD": ["strategy=fedmd"],
        "FedProto": ["strategy=fedproto"],
        "KnFu-style, KL": ["strategy=knfu", "strategy.divergence=kl"],
        "KnFu-style, JS": ["strategy=knfu", "strategy.divergence=js"],
    },
    ALIKE: {
        "local": ["strategy=local", "model=mlp_small"],
        "FedAvg": ["strategy=fedavg", "model=mlp_small"],
        "FedMD": ["strategy=fedmd", "model=mlp_small"],
        "KnFu-style, JS": ["strategy=knfu", "strategy.divergence=js", "model=mlp_small"],
    },
}
MEASURES = ("personal_mean", "personal_worst_10_percent", "general_mean")
Results = dict[tuple[str, str, float], list[dict[str, float]]]


def main() -> None:
    """Run what is missing, then write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("outputs/first_results"))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    cells = [(group, arm, alpha) for group, arms in ARMS.items() for arm in arms for alpha in ALPHAS]
    work = [(group, arm, alpha, seed, arguments.runs) for group, arm, alpha in cells for seed in seeds]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        measured = list(pool.map(run, *zip(*work, strict=True)))
    results: Results = {}
    for (group, arm, alpha, _, _), measures in zip(work, measured, strict=True):
        results.setdefault((group, arm, alpha), []).append(measures)
    table = make_table(results, len(seeds))
    (HERE / "results.md").write_text(table)
    draw(results).savefig(HERE / "results.png", dpi=200)
    print(table)


def run(group: str, arm: str, alpha: float, seed: int, runs: Path) -> dict[str, float]:
    """Run one arm with one seed, unless it was run before."""
    name = f"{group}-{arm}-{alpha}-{seed}".replace(" ", "_").replace(",", "")
    directory = runs / name
    if not (directory / "summary.json").exists():
        overrides = [*ARMS[group][arm], f"partition.alpha={alpha}", f"seed={seed}", "local_baseline=false"]
        with contextlib.redirect_stdout(io.StringIO()):
            if (directory / "config.yaml").exists():
                resume(directory)
            else:
                simulate(compose(overrides), directory)
    summary = read_summary(directory)
    measures = {name: summary["metrics"][name]["mean_of_last_five"] for name in MEASURES}
    return measures | {"bytes": (summary["bytes_up"] + summary["bytes_down"]) / 10 / summary["num_rounds"]}


def make_table(results: Results, num_seeds: int) -> str:
    """Format all cells as markdown."""
    lines = [
        f"Accuracy in per cent, mean ± standard deviation over {num_seeds} seeds; kB a client and round, both ways.",
    ]
    for group, arms in ARMS.items():
        for alpha in ALPHAS:
            lines += ["", f"**alpha {alpha:g}, {group}**", ""]
            lines += [
                "| strategy | own test data | gain over local | worst 10 % | global test | kB |",
                "|---|---|---|---|---|---|",
            ]
            local = results[group, "local", alpha]
            for arm in arms:
                cell = results[group, arm, alpha]
                gains = [own["personal_mean"] - base["personal_mean"] for own, base in zip(cell, local, strict=True)]
                kilobytes = statistics.mean(own["bytes"] for own in cell) / 1000
                columns = [percent([own[name] for own in cell]) for name in MEASURES]
                gain = "" if arm == "local" else percent(gains, sign="+")
                lines.append(f"| {arm} | {columns[0]} | {gain} | {columns[1]} | {columns[2]} | {kilobytes:.1f} |")
    return "\n".join(lines) + "\n"


def percent(values: list[float], sign: str = "") -> str:
    """Format mean and standard deviation in per cent."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):{sign}.1f} ± {100 * spread:.1f}"


def draw(results: Results) -> Figure:
    """Own against global accuracy, a panel for each alpha, a mark for each strategy with mixed architectures."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    panels = figure.subplots(1, len(ALPHAS), sharey=True)
    marks = dict(zip(ARMS[MIXED], "osD^v", strict=True))
    colours = ("#555555", "#004488", "#DDAA33", "#BB5566", "#117733")
    for panel, alpha in zip(panels, ALPHAS, strict=True):
        for (arm, mark), colour in zip(marks.items(), colours, strict=True):
            cell = results[MIXED, arm, alpha]
            x, y = ([100 * own[name] for own in cell] for name in ("general_mean", "personal_mean"))
            panel.errorbar(
                statistics.mean(x),
                statistics.mean(y),
                xerr=statistics.stdev(x),
                yerr=statistics.stdev(y),
                fmt=mark,
                color=colour,
                label=arm,
                capsize=2,
            )
        panel.set_title(f"alpha {alpha:g}")
        panel.set_xlabel("global test accuracy (%)")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("own test accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


if __name__ == "__main__":
    main()
