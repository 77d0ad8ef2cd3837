import io

import pytest
from rich.console import Console

from fedfuse.report.display import LiveDisplay, PlainDisplay, left_out_lines, make_display, round_line


def metrics(number, personal=0.912, general=0.851, left_out=()):
    return {
        "round": number,
        "personal_mean": personal,
        "personal_worst": None if personal is None else 0.84,
        "general_mean": general,
        "bytes_up": 12_345,
        "left_out": list(left_out),
        "seconds": {"learn": 0.1, "round": 0.21},
    }


def left_out(client_id, reason="no reply", phase="share"):
    return {"client_id": client_id, "phase": phase, "reason": reason}


def plain_console():
    return Console(file=io.StringIO(), width=80)


def terminal(width=120):
    environment = {"TERM": "xterm", "COLUMNS": str(width)}
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, _environ=environment)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class LineReader:
    """A live display whose moving line is drawn when the test asks for it, not by a thread."""

    def __init__(self, width=120):
        self.clock = Clock()
        self.console = terminal(width)
        self.display = LiveDisplay(self.console, self.clock)

    def line(self):
        with self.console.capture() as capture:
            self.console.print(self.display._line())
        return capture.get().rstrip()

    def printed(self):
        return self.console.file.getvalue()


def test_round_line():
    assert round_line(metrics(3), 20) == "round  3/20  personal 91.2 % (worst 84.0)  general 85.1 %  12.3 kB up  0.21 s"


def test_round_line_of_a_run_with_a_guarantee_has_no_worst_client_and_what_was_spent():
    line = round_line(metrics(3) | {"personal_worst": None, "epsilon": {"record": 1.2345}}, 20)
    assert line == "round  3/20  personal 91.2 %  general 85.1 %  epsilon 1.23 for a record  12.3 kB up  0.21 s"


def test_round_line_leaves_out_what_is_unknown():
    unknown = metrics(3, personal=None, general=None)
    unknown["seconds"] = {}
    assert round_line(unknown, 5) == "round 3/5  12.3 kB up"


def test_left_out_clients_are_named_by_phase_and_reason():
    assert left_out_lines(
        [left_out(3), left_out(5, phase="absorb"), left_out(8), *(left_out(i, "late") for i in range(12))]
    ) == [
        "clients 3, 8 left out of share: no reply",
        "client 5 left out of absorb: no reply",
        "clients 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more left out of share: late",
    ]


def test_a_reason_from_a_client_cannot_control_the_terminal():
    (line,) = left_out_lines([left_out(1, "bad\x1b[2J\nround 9/9")])
    assert line == "client 1 left out of share: bad [2J round 9/9"


def test_plain_display_prints_stages_rounds_and_notes_but_no_verbs():
    console = plain_console()
    with PlainDisplay(console) as display:
        display.stage("local only", 2)
        display.verb("learn", 1, 2)
        display.round_finished(metrics(1))
        display.stage("federated", 10, first_round=4)
        display.round_finished(metrics(4, left_out=[left_out(7)]))
        display.note("see [bold] outputs/" + "x" * 80)
    assert console.file.getvalue().splitlines() == [
        "local only: rounds 1 to 2",
        "round 1/2  personal 91.2 % (worst 84.0)  general 85.1 %  12.3 kB up  0.21 s",
        "federated: rounds 4 to 10",
        "client 7 left out of share: no reply",
        "round  4/10  personal 91.2 % (worst 84.0)  general 85.1 %  12.3 kB up  0.21 s",
        "see [bold] outputs/" + "x" * 80,
    ]


def test_the_display_suits_the_console():
    assert isinstance(make_display(terminal()), LiveDisplay)
    assert isinstance(make_display(plain_console()), PlainDisplay)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(make_display(dumb), PlainDisplay)


def test_live_line_shows_stage_round_verb_accuracies_and_time_left():
    reader = LineReader()
    assert reader.line() == ""
    reader.display.stage("federated", 10)
    assert reader.line().split() == ["federated", "1/10", "-:--", "left"]
    reader.display.verb("learn", 3, 100)
    assert reader.line().endswith(" 1/10  -:-- left  learn 3/100")
    reader.clock.now += 8  # the first round took 8 s, so nine more take 72 s
    reader.display.round_finished(metrics(1))
    assert reader.line().startswith("federated ━━━ ")  # a tenth of 30
    assert reader.line().endswith("  2/10  1:12 left  learn 3/100       personal 91.2%  general 85.1%")
    reader.clock.now += 10.4
    assert "  1:02 left" in reader.line()
    reader.clock.now += 1000
    assert "  0:00 left" in reader.line()
    reader.display.round_finished(metrics(10, personal=None))
    assert reader.line().startswith("federated " + "━" * 30 + " 10/10")
    assert reader.line().endswith("━ 10/10  0:00 left  learn 3/100       general 85.1%")


def test_time_left_of_a_resumed_stage_counts_its_own_rounds():
    reader = LineReader()
    reader.display.stage("federated", 1000, first_round=501)
    reader.clock.now += 36
    reader.display.round_finished(metrics(501))
    assert "  502/1000  4:59:24 left" in reader.line()


@pytest.mark.parametrize("width", [80, 60])
def test_live_line_leaves_out_what_does_not_fit(width):
    reader = LineReader(width)
    reader.display.stage("local only", 20)
    reader.display.verb("evaluate", 100, 100)
    reader.display.round_finished(metrics(1))
    line = reader.line()
    assert "\n" not in line
    assert len(line) <= width
    assert " 2/20  0:00 left  evaluate 100/100" in line if width == 80 else " 2/20  0:00 left" in line
    assert "general" not in line


def test_live_display_leaves_notes_and_finished_stages_on_the_screen():
    reader = LineReader()
    with reader.display as display:
        display.stage("local only", 2)
        reader.clock.now += 12.3
        display.round_finished(metrics(2, left_out=[left_out(7)]))
        display.stage("federated", 5)
        display.note("a [note]")
        reader.clock.now += 4
        display.round_finished(metrics(3))
    text = reader.printed()
    finished = "local only  round 2/2  personal 91.2 % (worst 84.0)  general 85.1 %  12.3 s\n"
    stopped = "federated  round 3/5  personal 91.2 % (worst 84.0)  general 85.1 %  4.0 s\n"
    positions = [
        text.index("client 7 left out of share: no reply\n"),
        text.index(finished),
        text.index("a [note]\n"),
        text.index(stopped),
    ]
    assert positions == sorted(positions)
    assert text.count("left out of") == 1


def test_verbs_draw_nothing_themselves():
    reader = LineReader()
    drawn = []
    original = reader.display._live._get_renderable
    reader.display._live._get_renderable = lambda: drawn.append(1) or original()
    reader.display._live.auto_refresh = False  # without the thread that draws ten times a second
    with reader.display as display:
        display.stage("federated", 3)
        before = len(drawn)
        for i in range(1000):
            display.verb("learn", i, 1000)
        assert len(drawn) == before
    assert reader.display._live.refresh_per_second == 10
