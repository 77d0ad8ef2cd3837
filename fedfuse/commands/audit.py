"""``fedfuse audit``: run a federation with data that attacks planted, and say how much of them leaked."""

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from fedfuse import catalogue
from fedfuse.commands.parser import Commands, add_config_dir
from fedfuse.compare.plan import key_of
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.configuration import Component
from fedfuse.errors import FedfuseError, unknown_name

EXAMPLES = """\
examples:
  fedfuse audit strategy=fedmd                          all attacks on plain distillation
  fedfuse audit strategy=fedmd 'privacy=[swing]'        the same with a protector
  fedfuse audit 'audit=[{name: canary, probed: false}]' seed=3

The federation is trained first, with what the attacks planted; no baseline is. See also: fedfuse list audits
"""


def add(commands: Commands) -> None:
    """Describe the words of the command."""
    parser = commands.add_parser(
        "audit",
        help="attack a federation and measure how much leaks",
        description="Simulate a federation on this machine, attack it, and write what was found to audits.json.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="as for fedfuse run; audit=[NAME,...] by default all that fit")
    add_config_dir(parser)


def execute(arguments: Namespace, rest: Sequence[str]) -> int:
    """Run and attack what the words say."""
    options = [word for word in rest if word.startswith("-")]
    if options:
        raise unknown_name("option", options[0], ("--config-dir", "--help"))
    words = [*arguments.overrides, *rest]  # argparse leaves those that follow an option in the rest
    if not any(key_of(word) == "audit" for word in words):
        words.append(f"audit=[{','.join(_fitting(words, arguments.config_dir))}]")
    configuration = compose([*words, "local_baseline=false"], arguments.config_dir)
    from fedfuse.simulate import simulate  # slow, because of torch: not before all errors above are found

    simulate(configuration)
    return 0


def _fitting(words: Sequence[str], config_dir: Path | None) -> list[str]:
    """Name the audits that can attack what the strategy sends; all where none can, so that the reason is said."""
    configuration = compose(words, config_dir)
    names = catalogue.names("audit", catalogue.folders(config_dir))
    from fedfuse.assembly import make_strategy

    sends = make_strategy(configuration.strategy).sends
    every = compose([*words, f"audit=[{','.join(names)}]"], config_dir).audit
    return [one.name for one in every if _needs(one) <= sends] or names


def _needs(audit: Component) -> AbstractSet[str]:
    try:
        needs: AbstractSet[str] = build(audit, "audit").needs
    except FedfuseError:
        return frozenset()  # the run will say what is wrong with it
    return needs
