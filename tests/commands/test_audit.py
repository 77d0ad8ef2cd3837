import pytest

from fedfuse import catalogue
from fedfuse.cli import main

pytestmark = pytest.mark.usefixtures("own_search_path")


def audited(simulation):
    ((kind, configuration),) = simulation
    assert kind == "simulate"
    return configuration


def test_all_attacks_are_made_where_none_is_named_and_no_baseline_is_trained(simulation):
    assert main(["audit", "strategy=fedmd", "seed=3"]) == 0
    configuration = audited(simulation)
    assert [one.name for one in configuration.audit] == catalogue.names("audit", catalogue.folders())
    assert (configuration.strategy.name, configuration.seed, configuration.local_baseline) == ("fedmd", 3, False)


def test_only_attacks_on_what_is_sent_are_made_where_none_is_named(simulation):
    assert main(["audit", "strategy=fedavg", "model=mlp_small"]) == 0
    assert [one.name for one in audited(simulation).audit] == ["canary"]


def test_the_attacks_that_are_named_are_made_and_a_baseline_cannot_be_asked_for(simulation):
    words = ["audit=[{name: canary, probed: false, counts: [2]}]", "local_baseline=true"]
    assert main(["audit", *words]) == 0
    configuration = audited(simulation)
    (canary,) = configuration.audit
    assert (canary.name, canary.target) == ("canary", "fedfuse.audit.canary.Canary")
    assert (canary.arguments["probed"], canary.arguments["counts"]) == (False, [2])
    assert configuration.local_baseline is False


def test_attacks_of_ones_own_are_made_too(simulation, tmp_path):
    (tmp_path / "own" / "audit").mkdir(parents=True)
    (tmp_path / "own" / "audit" / "mine.yaml").write_text("_target_: own.Mine\n")
    assert main(["audit", "--config-dir", "own", "strategy=fedmd"]) == 0
    assert "own.Mine" in [one.target for one in audited(simulation).audit]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit=[canari]"], "Unknown audit 'canari'. Did you mean 'canary'?"),
        (["audit=[{name: canary, count: 3}]"], "Unknown key of audit canary 'count'. Did you mean 'counts'?"),
        (["-m"], "Unknown option '-m'."),
        (["resume=run"], "Unknown key 'resume'."),
    ],
)
def test_mistakes_are_answered_in_one_line(simulation, capsys, words, message):
    assert main(["audit", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fedfuse: error: {message}")
    assert error.count("\n") == 1
    assert simulation == []
