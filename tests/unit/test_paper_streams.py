"""Final losses without the jitter of shared validation batches, where the truth is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from paper_logs_example import CONTEXT, clean_folder

from plmscale import cli
from plmscale.architecture import PAPER_SIZES
from plmscale.errors import PlmscaleError
from plmscale.paper.audit import audit
from plmscale.paper.common_effect import common_effect, residual, validation_numbers
from plmscale.paper.final_loss import averaged, final_losses, jitter_table
from plmscale.paper.group import Run
from plmscale.paper.streams import streams
from plmscale.tables import read_runs

ROWS, SHARED, OWN = 512, 0.006, 0.0012


def make(name, validations, n_params=1e8, stream=1, objective="clm", batches=0, shared=SHARED):
    """Return a run and its loss without any jitter; the law decays faster towards the end."""
    log = SimpleNamespace(claim=SimpleNamespace(objective=objective))
    # The last validation comes before its interval is over, and reads the next batches.
    steps = np.append(np.arange(1, validations), validations - 0.37) * 300
    tokens = steps * ROWS * CONTEXT
    law = 1.5 + 15 / n_params**0.2 + 60 / tokens**0.2 + 0.03 * np.cos(np.pi * steps / steps[-1])
    effect = np.random.default_rng([7, batches]).normal(0, shared, 2000)[:validations]
    gain = 1 + 0.12 * np.log(n_params / 1e8)
    own = np.random.default_rng([8, batches, validations, int(n_params)]).normal(
        0, OWN, validations
    )
    run = Run([log], n_params=int(n_params), rows=ROWS, stream=stream, run_id=name,
              tokens=tokens, loss=law + gain * effect + own)  # fmt: skip
    return run, law


def many(**kwargs):
    """Return thirty runs of 30 to 620 validations, and their losses without jitter by run_id."""
    pairs = [
        make(f"r{i}", int(30 * 1.11**i), n_params=2e7 * 40 ** ((i * 7 % 30) / 29), **kwargs)
        for i in range(30)
    ]
    return [run for run, _ in pairs], {run.run_id: law for run, law in pairs}


@pytest.mark.parametrize("last", [1, 5])
def test_removal_brings_final_losses_nearer_to_the_truth_without_bias(last):
    errors = {True: [], False: []}
    pulls = []
    for batches in range(12):
        runs, laws = many(batches=batches)
        for remove in (True, False):
            found = final_losses(runs, last, remove)
            # Nobody outlives the two longest runs.
            for run in runs[:-2]:
                final = found[run.run_id]
                error = final.loss - laws[run.run_id][-averaged(run, last) :].mean()
                errors[remove].append(error)
                if remove:
                    assert final.others > 1
                    pulls.append(error / final.sd)
    rms = {remove: np.sqrt(np.mean(np.square(e))) for remove, e in errors.items()}
    assert rms[True] < (0.35 if last == 1 else 0.5) * rms[False]
    # Twelve draws of batches, each with about ten ends that share no batches.
    assert abs(np.mean(errors[True])) < 3 * rms[True] / np.sqrt(100)
    assert 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.2


def test_jitter_left_is_the_runs_own_also_where_large_models_feel_batches_more():
    runs, _ = many()
    (row,) = jitter_table(runs, final_losses(runs, 5, True))
    assert (row["stream"], row["objective"], row["runs"]) == (1, "clm", 30)
    assert row["before"] == pytest.approx(SHARED, rel=0.25)
    assert row["after"] == pytest.approx(OWN, rel=0.15)


def test_the_effect_has_no_level_and_no_trend():
    runs, _ = many()
    # Larger than all others, so that it feels its batches more than any of them.
    (run, _), others = make("large", 150, n_params=2e9), runs[19:]
    effect = common_effect(run, others)
    numbers = effect.start + np.arange(len(effect.effect))
    assert np.abs(effect.effect - residual(effect.effect, numbers)).max() < 1e-9
    assert abs(effect.effect.mean()) < 1e-9
    planted = np.random.default_rng([7, 0]).normal(0, SHARED, 2000)[numbers - 1]
    planted *= 1 + 0.12 * np.log(run.n_params / 1e8)
    assert np.std(effect.effect - residual(planted, numbers)) < 0.0008


def test_a_difference_in_level_or_trend_stays_with_its_run():
    runs, _ = many()
    before = final_losses(runs, 5, True)
    moved = runs[12]
    k = validation_numbers(moved)
    bend = 0.1 + 0.03 * np.log(k) - 0.01 * np.log(k) ** 2
    moved.loss = moved.loss + bend
    after = final_losses(runs, 5, True)
    for run in runs:
        shift = bend[-averaged(moved, 5) :].mean() if run is moved else 0.0
        gap = after[run.run_id].loss - before[run.run_id].loss
        assert gap == pytest.approx(shift, abs=1e-9)


def test_the_run_itself_takes_no_part_in_what_is_subtracted():
    runs, _ = many()
    run = runs[12]
    before = final_losses(runs, 5, True)[run.run_id]
    noise = np.random.default_rng(3).normal(0, 0.001, len(run.loss))
    run.loss = run.loss + noise
    after = final_losses(runs, 5, True)[run.run_id]
    assert after.loss - before.loss == pytest.approx(noise[-averaged(run, 5) :].mean(), abs=1e-12)


def test_a_loss_spike_of_another_run_is_not_shared_out():
    runs, _ = many()
    run, other = runs[12], runs[14]
    before = final_losses(runs, 5, True)[run.run_id]
    other.loss = other.loss.copy()
    other.loss[len(run.loss) - 3] += 0.3
    after = final_losses(runs, 5, True)[run.run_id]
    assert abs(after.loss - before.loss) < 0.0003


def test_runs_without_company_are_as_logged():
    runs, _ = many()
    single, _ = make("single", 200, stream=2, batches=5)
    nowhere, _ = make("nowhere", 200, stream=0)
    other, _ = make("other", 200, objective="mlm")
    everyone = [*runs, single, nowhere, other]
    kept, removed = (final_losses(everyone, 5, remove) for remove in (False, True))
    # The longest runs too: nobody tells what their last batches were.
    for name in ("single", "nowhere", "other", "r29", "r28"):
        assert removed[name] == kept[name]
        assert removed[name].others == 0
    assert removed["r27"] != kept["r27"]


def test_fewer_others_tell_less_and_the_standard_error_says_so():
    runs, _ = many()
    run = runs[20]
    full = final_losses(runs, 5, True)[run.run_id]
    few = final_losses([run, runs[25], runs[26]], 5, True)[run.run_id]
    assert few.others == 2 < full.others
    assert few.sd > full.sd


def test_two_streams_do_not_mix():
    one, _ = many(batches=0)
    two, _ = many(batches=1, stream=2)
    for run in two:
        run.run_id += "-two"
    alone = final_losses(one, 5, True)
    both = final_losses([*one, *two], 5, True)
    assert all(both[name] == final for name, final in alone.items())


def test_jitter_that_is_not_shared_is_not_removed():
    """Runs put into one stream by mistake keep their losses, but for little."""
    runs = [make(f"r{i}", 60 + 12 * i, batches=i)[0] for i in range(20)]
    kept, removed = (final_losses(runs, 1, remove) for remove in (False, True))
    gaps = [removed[name].loss - kept[name].loss for name in kept]
    assert np.sqrt(np.mean(np.square(gaps))) < 0.3 * SHARED


def test_streams_are_found_and_short_runs_join_theirs():
    # Runs of 41 validations and more, and three of 27.
    one, two = (many(batches=b, stream=0)[0][3:] for b in (0, 1))
    short = [make(f"short{b}", 27, batches=b, stream=0)[0] for b in (0, 1, 2)]
    groups = streams([*one, *two, *short])
    large = [group for group in groups if len(group) > 1]
    assert len(large) == 2
    for runs, mine in ((one, short[0]), (two, short[1])):
        (home,) = (g for g in large if any(run is mine for run in g))
        assert {id(run) for run in home} == {id(run) for run in [*runs, mine]}
    assert not any(run is short[2] for group in large for run in group)


# ---- from logs to tables --------------------------------------------------------------------


def test_tables_with_and_without_removal(tmp_path):
    logs = clean_folder(tmp_path / "logs")
    summaries = {j: audit(logs, tmp_path / j, last=1, jitter=j) for j in ("remove", "keep")}
    tables = {j: read_runs(tmp_path / j / "runs.csv").set_index("run_id") for j in summaries}
    assert list(tables["remove"].columns) == list(tables["keep"].columns)
    for name in (path.name for path in (tmp_path / "keep" / "curves").iterdir()):
        same = [(tmp_path / j / "curves" / name).read_bytes() for j in summaries]
        assert same[0] == same[1]
    a = PAPER_SIZES["25M"]
    for run_id in ("clm-25M-1e18", "clm-25M-3e18"):
        tokens = tables["keep"].loc[run_id, "tokens"]
        law = 1.6 + 20 / a.n_params**0.2 + 60 / tokens**0.2
        jitter = np.random.default_rng(5).normal(0, 0.006, 100_000)
        number = int(np.ceil(tokens / (512 * CONTEXT * 300)))
        assert tables["keep"].loc[run_id, "loss"] == pytest.approx(
            law + jitter[number - 1], abs=0.004
        )
        assert tables["remove"].loc[run_id, "loss"] == pytest.approx(law, abs=0.004)
        assert tables["remove"].loc[run_id, "loss_sd"] < 0.5 * tables["keep"].loc[run_id, "loss_sd"]
    final = summaries["remove"]["final_loss"]
    assert (final["last"], final["jitter"]) == (1, "remove")
    row = next(r for r in final["by_stream"] if r["objective"] == "clm" and r["removed"])
    assert row["before"] == pytest.approx(0.006, rel=0.3) and row["after"] < 0.002
    assert all(r["removed"] == 0 for r in summaries["keep"]["final_loss"]["by_stream"])
    with pytest.raises(PlmscaleError, match="allowed: remove, keep"):
        audit(logs, tmp_path / "no", jitter="halve")


def test_command_line_says_what_was_done(tmp_path, capsys):
    logs = clean_folder(tmp_path / "logs")
    assert cli.main(["audit", str(logs), "--out", str(tmp_path / "a")]) == 0
    assert "less the jitter of validation batches" in capsys.readouterr().out
    assert cli.main(["audit", str(logs), "--out", str(tmp_path / "b"), "--jitter", "keep"]) == 0
    assert "as logged" in capsys.readouterr().out
    assert json.loads((tmp_path / "b" / "audit.json").read_text())["final_loss"]["jitter"] == "keep"
