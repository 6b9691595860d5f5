"""What a person can watch while a run trains: TensorBoard, a line in a terminal, lines in a log."""

import io

import pytest
from training_fixtures import launch, make_corpus, make_recipe, metrics, write_run

from plmscale.training import records
from plmscale.training.records import Progress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    corpus = make_corpus(folder / "corpus")
    run_dir = write_run(folder, make_recipe(objective="mlm", steps=60))
    done = launch(run_dir, corpus)
    assert done.returncode == 0, done.stderr
    return run_dir, done.stdout


def test_tensorboard_holds_what_metrics_and_curve_say(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir, _ = run
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags == {
        "loss/train", "loss/valid", "loss/spikes", "memory/peak_gigabytes",
        "optimizer/gradient_norm", "optimizer/learning_rate", "optimizer/steps_refused",
        "speed/tokens_per_second",
    }  # fmt: skip
    valid = events.Scalars("loss/valid")
    assert valid[-1].step == 60
    assert valid[-1].value == pytest.approx(metrics(run_dir)["loss"], rel=1e-6)
    rates = {e.step: e.value for e in events.Scalars("optimizer/learning_rate")}
    assert rates[2] == pytest.approx(1e-2) and rates[60] == pytest.approx(1e-3)
    assert all(e.value > 0 for e in events.Scalars("speed/tokens_per_second"))
    assert all(0 < e.value < 100 for e in events.Scalars("optimizer/gradient_norm"))


def test_a_log_has_plain_lines(run):
    _, said = run
    assert "\r" not in said and "\x1b" not in said
    assert "done at step 60, loss" in said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, out, seconds):
    """Ten minutes of a run, a step every `seconds`; return what was written."""
    clock = iter(float(n * seconds) for n in range(10_000))
    monkeypatch.setattr(records.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stdout", out)
    progress = Progress("a-run", 600, 1000)
    for step in range(1, 600):
        progress.show(step, 3.0)
    progress.say("done")
    return out.getvalue()


def test_a_terminal_gets_one_line_that_renews_itself(monkeypatch):
    text = shown(monkeypatch, Terminal(), 1.0)
    assert text.count("\r") > 500 and text.count("\n") == 2
    assert "a-run: step 598/600, loss 3.0000, 1,000 tokens/s, 2 s left" in text


def test_a_long_log_does_not_fill_up(monkeypatch):
    lines = shown(monkeypatch, io.StringIO(), 1.0).splitlines()
    assert 10 < len(lines) < 80 and "\r" not in "".join(lines)
