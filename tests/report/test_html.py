import html
import json
import re
import shlex

import pytest

from fedfuse.composition import compose
from fedfuse.configuration import from_yaml
from fedfuse.errors import ConfigurationError
from fedfuse.metrics import LeftOut
from fedfuse.report.html import write_report
from fedfuse.results import write_text

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def report(directory):
    return write_report(directory).read_text(encoding="utf-8")


def headings(text):
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", text)


def numbers(text):
    pattern = r'<dt>([^<]*)</dt><dd class="number">([^<]*)</dd>(?:<dd>([^<]*)</dd>)?'
    return {label: (value, detail) for label, value, detail in re.findall(pattern, text)}


def commands(text):
    return [shlex.split(line) for line in re.findall(r"<code>(fedfuse [^<]*)</code>", text.replace("&#x27;", "'"))]


def test_the_report_of_a_finished_run_tells_all_in_the_order_of_reading(make_run):
    directory = make_run(left_out=(LeftOut(1, "share", "no reply"),))
    path = write_report(directory)
    assert path == directory / "report.html"
    assert not [*directory.glob(".report*")]
    text = path.read_text(encoding="utf-8")
    assert "<h1>knfu on digits</h1>" in text
    assert "3 clients, 2 rounds, seed 0. The last round was recorded on 20" in text
    assert "not ended" not in text
    assert headings(text) == [
        "Result",
        "Accuracy by round",
        "Clients",
        "Label counts",
        "Who listened to whom",
        "What was exchanged",
        "Clients left out",
        "Privacy",
        "Configuration",
        "How to repeat this run",
    ]


def test_the_numbers_to_see_first(make_run):
    text = report(make_run(num_clients=3, num_rounds=2))
    arrow, points = "\N{RIGHTWARDS ARROW}", "+20.0 points; mean of the last 2 rounds"
    assert numbers(text) == {
        "Own test data, mean of clients": (f"10.0 {arrow} 30.0 %", f"{points} 25.0"),
        "Global test data, mean of clients": (
            f"25.0 {arrow} 10.0 %",
            "\N{MINUS SIGN}15.0 points; mean of the last 2 rounds 10.0",
        ),
        "Own test data, worst 10 % of clients": (f"0.0 {arrow} 20.0 %", f"{points} 15.0"),
        "Sent": ("800 B", "200 B up, 600 B down"),
        "Time": ("2.0 s", "all rounds, without the baseline"),
        "Up, clients to server": ("200 B", "67 B a client, 100 B a round"),
        "Down, server to clients": ("600 B", "200 B a client, 300 B a round"),
    }
    assert f"These are the latest accuracies of all clients: trained alone {arrow} in this run." in text


def test_the_mean_of_the_last_rounds_is_over_five(make_run):
    text = report(make_run(num_clients=1, num_rounds=7, baseline_rounds=0))
    assert numbers(text)["Own test data, mean of clients"] == ("70.0 %", "mean of the last 5 rounds 50.0")
    assert "There is no local-only baseline to compare them with." in text


def test_what_was_run_is_said(make_run):
    text = report(make_run(overrides=["privacy=[swing,noise]", "fraction=0.5", "strategy=fedmd"]))
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert facts["Strategy"] == "fedmd (space logit)"
    assert facts["Data"] == "digits"
    assert facts["Partition"] == "dirichlet (alpha 0.5, min_samples 20, self_balancing true)"
    assert facts["Models"] == "mlp_small, mlp_large, cnn_small"
    assert facts["Clients"] == "3, of which 50 % take part in a round"
    assert facts["Transfer set"] == "300 samples held out, policy all"
    assert facts["Protectors"] == "swing, noise"
    assert facts["Seed"] == "0"


def test_parts_of_the_users_own_are_named_by_their_class(make_run):
    overrides = ["strategy=custom", "strategy._target_=mine.Mine", "transfer.path=/rows.npz", "num_rounds=1"]
    text = report(make_run(overrides=overrides))
    assert "<dd>custom (mine.Mine)</dd>" in text
    assert "<dd>from /rows.npz, policy all</dd>" in text


def test_a_run_that_has_not_ended_says_so(make_run):
    text = report(make_run(num_rounds=2, overrides=["num_rounds=5"], finished=False, baseline_rounds=0))
    assert "This run has not ended: 2 of 5 rounds are recorded. All numbers are those so far." in text
    assert "These are the accuracies of the last round&#x27;s participants." in text
    assert "Label counts" not in headings(text)
    assert numbers(text)["Own test data, mean of clients"] == ("30.0 %", "mean of the last 2 rounds 25.0")


def test_a_run_whose_baseline_has_not_ended_says_so(make_run):
    text = report(make_run(num_rounds=2, finished=False, baseline_rounds=1))
    assert "This run has not ended: 2 of 2 rounds are recorded, and 1 of its local-only baseline." in text


def test_a_run_before_its_first_round_has_a_report(make_run):
    directory = make_run(finished=False)
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
    text = report(directory)
    assert "The run has begun, and no round has been recorded yet." in text
    assert headings(text) == ["Result", "Privacy", "Configuration", "How to repeat this run"]
    assert "Nothing is known of guarantees" in text


def test_unknown_values_are_dashes(make_run):
    text = report(make_run(known=False, baseline_rounds=0, relevance=False))
    assert numbers(text)["Own test data, mean of clients"] == ("-", "no client told it")
    assert not re.search(r">[^<]*\b(None|nan|NaN)\b[^<]*<", text.partition("<script>")[0])


def test_names_and_reasons_are_shown_as_they_are(make_run):
    overrides = ["strategy=custom", f"strategy._target_='mine.{NASTY}'", f"++strategy.a='{NASTY}'"]
    guarantees = json.dumps(
        {
            "protectors": [{"protector": NASTY, "mechanism": NASTY, "epsilon": None, "delta": None}],
            "differential_privacy": False,
        }
    )
    directory = make_run(
        num_clients=2,
        overrides=overrides,
        left_out=(LeftOut(1, NASTY, NASTY), LeftOut(0, "share", "\ud800")),
        model=NASTY,
        class_names=(NASTY, "dog"),
        guarantees=guarantees,
    )
    text = report(directory)
    assert text.count("<script") == text.count("</script>") == 1
    assert "<img" not in text
    assert "onerror=alert(2)&gt;" in text


def test_without_accounting_it_says_that_no_privacy_is_guaranteed(make_run):
    text = report(make_run())
    assert "<p>No differential privacy is guaranteed.</p>" in text
    assert "<p>No protector: what was sent was neither softened nor noised.</p>" in text
    assert "a client may tell the server: num_examples, test_metrics." in text


def test_guarantees_are_in_words(make_run):
    none = {"protector": "swing", "mechanism": "softens", "unit": "none", "adversary": "none"}
    some = {"protector": "noise", "mechanism": "adds noise", "unit": "record", "adversary": "the server"}
    protectors = [none | {"epsilon": None, "delta": None}, some | {"epsilon": 1.5, "delta": 1e-5}]
    text = report(make_run(guarantees=json.dumps({"protectors": protectors, "differential_privacy": True})))
    assert "<p>swing: softens. It guarantees nothing.</p>" in text
    assert "<p>noise: adds noise. It guarantees epsilon 1.5, delta 1e-05 for one record against the server.</p>" in text
    assert "No differential privacy" not in text


def test_the_command_that_repeats_a_run_composes_its_configuration(make_run):
    directory = make_run(overrides=["strategy=fedmd", "privacy=[swing,{name: noise, scale: 0.5}]", "output='a b'"])
    (words,) = commands(report(directory))
    assert words[:2] == ["fedfuse", "run"]
    recorded = from_yaml((directory / "config.yaml").read_text())
    assert compose([*words[2:], "output='a b'"]) == recorded


def test_what_the_run_ran_with_is_told_and_not_what_is_installed_now(make_run):
    directory = make_run()
    software = {"fedfuse": "0.0.7", "torch": "1.2.3+mine", "machine": NASTY}
    write_text(directory, "software.json", json.dumps(software))
    told = report(directory).partition("<p>It ran with:</p>")[2]
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", told)
    assert facts == [("fedfuse", "0.0.7"), ("torch", "1.2.3+mine"), ("machine", html.escape(NASTY))]


def test_of_a_run_without_its_versions_none_are_told(make_run):
    directory = make_run()
    assert "It ran with:" not in report(directory)
    write_text(directory, "software.json", "{}\n")
    assert "It ran with:" not in report(directory)


@pytest.mark.parametrize("name", ["clients.sqlite", "clients.pt"])
def test_a_run_with_a_checkpoint_can_go_on(make_run, name):
    directory = make_run(num_rounds=2)
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / name).touch()
    assert commands(report(directory))[0] == ["fedfuse", "run", f"resume={directory}", "num_rounds=4"]
    (directory / "summary.json").unlink()
    assert commands(report(directory))[0] == ["fedfuse", "run", f"resume={directory}"]


def test_a_run_whose_clients_keep_their_own_states_goes_on_with_them(make_run):
    directory = make_run(num_rounds=2)
    (directory / "checkpoint").mkdir()
    assert [words[:2] for words in commands(report(directory))] == [["fedfuse", "server"]] * 2
    (directory / "checkpoint" / "clients").mkdir()  # those of virtual clients, on Ray
    assert [words[:2] for words in commands(report(directory))] == [["fedfuse", "run"]] * 2


def test_a_run_that_no_command_line_makes_points_at_its_configuration(make_run):
    directory = make_run()
    path = directory / "config.yaml"
    path.write_text(path.read_text().replace("name: knfu", "name: mine"))
    text = report(directory)
    assert commands(text) == []
    assert "config.yaml, which is shown above, holds every value." in text
    assert "name: mine" in text


@pytest.mark.parametrize(("learn", "shown"), [(0.5, "1.0 s"), (100, "3 min"), (5000, "2 h 47 min")])
def test_time_is_shown_in_the_unit_that_fits(make_run, learn, shown):
    directory = make_run(num_rounds=1)
    line = json.loads((directory / "metrics.jsonl").read_text())
    (directory / "metrics.jsonl").write_text(json.dumps(line | {"seconds": {"round": 2 * learn}}) + "\n")
    assert numbers(report(directory))["Time"][0] == shown


def test_the_same_files_give_the_same_report(make_run):
    directory = make_run()
    assert report(directory) == report(directory)


def test_a_directory_that_is_no_run_gets_no_report(tmp_path):
    with pytest.raises(ConfigurationError, match="not the directory of a run"):
        write_report(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_report_of_many_clients_and_rounds_stays_small(make_run):
    directory = make_run(num_clients=120, num_rounds=40)
    assert (directory / "relevance.npz").stat().st_size > 1_000_000
    assert write_report(directory).stat().st_size < 200_000
