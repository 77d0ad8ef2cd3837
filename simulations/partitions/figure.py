"""Draw four partitions of the digits side by side: ``docs/partitions.png``."""

from pathlib import Path

from fedfuse.assembly import deal_data, load_data
from fedfuse.composition import compose
from fedfuse.data.description import describe_data
from fedfuse.report.partition_picture import partition_panels, write_picture

FIGURE = Path(__file__).resolve().parents[2] / "docs" / "partitions.png"
PARTITIONS = {
    "dirichlet, alpha 0.1": ["partition=dirichlet", "partition.alpha=0.1"],
    "dirichlet, alpha 1": ["partition=dirichlet", "partition.alpha=1"],
    "pathological, 2 classes a client": ["partition=pathological", "partition.classes_per_client=2"],
    "shards, 2 a client": ["partition=shards", "partition.shards_per_client=2"],
}


def main() -> None:
    """Draw the figure."""
    counts = {}
    for title, words in PARTITIONS.items():
        configuration = compose(["data=digits", *words])
        data = load_data(configuration.data)
        counts[title] = describe_data(data, deal_data(configuration), configuration.seed).label_counts
    write_picture(FIGURE, partition_panels(counts, data.class_names))
    print(FIGURE)


if __name__ == "__main__":
    main()
