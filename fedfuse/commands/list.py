"""``fedfuse list``: the parts that a federation can be made of."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from fedfuse import catalogue
from fedfuse.commands.parser import Commands, add_config_dir
from fedfuse.errors import unknown_name

CARRIER = "carrier"  # the one group whose parts are modules, not files of configuration

# What `fedfuse list` shows: tables of one or more groups of parts, each with how a part of it is chosen.
TABLES = {
    "strategies": {"strategy": "strategy=NAME"},
    "objectives": {"objective": "objective=NAME"},
    "data": {"data": "data=NAME"},
    "partitions": {"partition": "partition=NAME"},
    "corruptions": {"corruption": "corruption=[NAME,...]"},
    "models": {"model": "model=[NAME,...]"},
    "carriers": {CARRIER: "a strategy names them in `sends` and `returns`"},
    "protectors": {"privacy": "privacy=[NAME,...]"},
    "audits": {"audit": "audit=[NAME,...]"},
    "encodings": {"encoding": "encoding=NAME"},
    "predictors": {
        "predictor": "predictor=NAME",
        "predictor/answer": "predictor.share=NAME, also predictor.personal and predictor.general",
    },
    "engines": {"engine": "engine=NAME"},
    "tracking": {"tracking": "tracking=[NAME,...]"},
    "transfer": {
        "transfer": "transfer=NAME",
        "transfer/policy": "transfer/policy=NAME",
        "transfer/lesson": "transfer.lesson=[NAME,...]",
    },
}


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "list", help="list strategies, models and all other parts", description="List the parts of a run."
    )
    parser.add_argument("table", nargs="?", help=f"one of {', '.join(TABLES)}; all if none is named")
    add_config_dir(parser)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Print the tables."""
    if rest:
        raise unknown_name("argument", rest[0], ("--config-dir",))
    if arguments.table is not None and arguments.table not in TABLES:
        raise unknown_name("table", arguments.table, TABLES)
    folders = catalogue.folders(arguments.config_dir)
    for table in TABLES if arguments.table is None else [arguments.table]:
        for group, usage in TABLES[table].items():
            if group == CARRIER:
                lines = catalogue.carriers()
            else:
                names = catalogue.names(group, folders)
                lines = {name: catalogue.describe(group, name, folders) for name in names}
            width = max(map(len, lines))
            sys.stdout.write(f"{table} ({usage})\n")
            sys.stdout.writelines(f"  {name:<{width}}  {line}".rstrip() + "\n" for name, line in lines.items())
            sys.stdout.write("\n")
    return 0
