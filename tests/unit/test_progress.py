import io
import re
import time
from contextlib import redirect_stderr

import pytest
import torch

from hoptm_plugin.runtime import bars
from hoptm_plugin.runtime.bars import console_progress
from hoptm_plugin.runtime.progress import silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(bars.time, "monotonic", lambda: Clock.now)
    return Clock


def test_lines_are_throttled_and_end_with_the_elapsed_time(clock):
    stream = io.StringIO()
    with console_progress(stream, interval=10)("experts", 10) as bar:
        for step in range(10):
            clock.now += 4
            bar.advance(1, loss=1 / (step + 1))
    assert stream.getvalue().splitlines() == [
        "Experts 3/10  loss 0.333  ETA 0:00:28",
        "Experts 6/10  loss 0.167  ETA 0:00:16",
        "Experts 9/10  loss 0.111  ETA 0:00:04",
        "Experts 10/10  loss 0.1  done in 0:00:40",
    ]


def test_eta_of_a_resumed_loop_counts_this_process_only(clock):
    stream = io.StringIO()
    with console_progress(stream, interval=10)("distilling", 100, 90) as bar:
        clock.now += 10
        bar.advance(0)
        clock.now += 10
        bar.advance(2)
    assert stream.getvalue().splitlines() == [
        "Distilling 90/100",
        "Distilling 92/100  ETA 0:01:20",
        "Distilling 92/100  done in 0:00:20",
    ]


def test_values_are_read_only_when_a_line_is_drawn_and_stay_until_replaced(clock):
    reads = []

    def read():
        reads.append(clock.now)
        return torch.tensor(0.5)

    stream = io.StringIO()
    with console_progress(stream, interval=10)("distilling", 100) as bar:
        bar.advance(1, loss=read, alpha=torch.tensor(0.02), auroc=None)
        for _ in range(50):
            bar.advance(1)
        assert reads == []
        clock.now += 10
        bar.advance(1, alpha=0.03)
    assert len(reads) == 2
    assert stream.getvalue().startswith("Distilling 52/100  loss 0.5  alpha 0.03  ETA")


def test_an_interrupted_loop_says_so_and_passes_the_error_on(clock):
    def fail():
        raise RuntimeError("the device is gone")

    def loop():
        with console_progress(stream)("experts", 10) as bar:
            bar.advance(3, loss=fail)
            clock.now += 31
            raise KeyboardInterrupt

    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        loop()
    assert stream.getvalue() == "Experts 3/10  stopped after 0:00:31\n"


def test_a_report_of_no_steps_is_a_line():
    stream = io.StringIO()
    console_progress(stream)("20 images of 8x8\x1b[31m", 0)
    assert stream.getvalue() == "20 images of 8x8\\x1b[31m\n"
    terminal = Terminal()
    console_progress(terminal)("20 [bold]images", 0)
    assert terminal.getvalue() == "20 [bold]images\n"


def test_stderr_is_the_default_stream(capsys):
    with console_progress()("experts", 1) as bar:
        bar.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Experts 1/1  done in 0:00:00\n"


def test_a_terminal_gets_nested_bars_and_stdout_stays_untouched(capsys):
    stream = Terminal()
    factory = console_progress(stream)
    with redirect_stderr(stream), factory("distilling", 2) as outer:
        outer.advance(1, loss=torch.tensor(0.25))
        with factory("evaluating [x]", 3) as inner:
            inner.advance(3, accuracy=0.5)
        print("a table")  # noqa: T201
        outer.advance(1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for part in ("Distilling", "2/2", "loss 0.25", "Evaluating [x]", "3/3", "accuracy 0.5", "ETA"):
        assert part in text
    assert capsys.readouterr().out == "a table\n"


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with console_progress(stream)("experts", 1) as bar:
        bar.advance()
    assert stream.getvalue() == "Experts 1/1  done in 0:00:00\n"


@pytest.mark.parametrize("factory", [silent, console_progress(io.StringIO()), console_progress(Terminal())])
def test_an_advance_costs_next_to_nothing(factory):
    value = torch.tensor(1.0)
    calls = 20_000
    with factory("experts", calls) as bar:
        began = time.perf_counter()
        for _ in range(calls):
            bar.advance(1, loss=value)
        seconds = time.perf_counter() - began
    assert seconds / calls < 2e-5  # formatting a tensor each time would cost this and more
