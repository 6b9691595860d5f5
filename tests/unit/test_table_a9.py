"""Table A9 of Cheng et al. 2024 out of the released logs: where each printed row comes from."""

import os
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest

from plmscale.errors import PlmscaleError
from plmscale.laws.parametric.fit import best_fit, centred
from plmscale.laws.parametric.landscape import optima
from plmscale.laws.parametric.lbfgs import PAPER_START, lbfgs_stop
from plmscale.paper.logs import read_log
from plmscale.paper.table_a9 import labelled_curves, published_parametric

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or Path(__file__).parents[3] / "shared")


def paper(objective):
    folder = SHARED / "paper" / "training_logs"
    assert folder.is_dir(), f"{folder} is missing; set PLMSCALE_SHARED to the folder of inputs"
    kind = {"clm": "gpt_valid", "mlm": "mlm_valid"}[objective]
    logs = [
        read_log(path, PurePosixPath(path.relative_to(folder).as_posix()))
        for path in sorted((folder / kind).rglob("*.csv"))
    ]
    return published_parametric(labelled_curves(logs, objective), objective)


def test_the_clm_row_of_table_a9_is_where_the_optimiser_stopped():
    row = paper("clm")
    assert row["n_points"] == 129
    found = row["from_paper_start"]
    # As an independent re-analysis of the same construction found them.
    assert found["E"] == pytest.approx(2.12768, rel=1e-3)
    assert found["A"] == pytest.approx(144.706, rel=1e-2)
    assert found["B"] == pytest.approx(22040.0, rel=1e-3)
    assert [found["alpha"], found["beta"]] == pytest.approx([0.37087, 0.49533], rel=2e-3)
    assert row["printed_is"] == "from_paper_start" and row["two_digits"]
    assert row["published"]["objective"] == pytest.approx(1.4389e-3, rel=1e-3)
    assert not row["published"]["stationary"] and not found["stationary"]
    best = row["global"]
    assert best["stationary"] and best["objective"] <= 4.5596e-4
    assert [best["E"], best["alpha"], best["beta"]] == pytest.approx([0, 0.0430, 0.0599], abs=2e-4)
    assert best["a"] == pytest.approx(0.582, abs=1e-3)
    # Downhill all the way from the printed values: they are no local optimum.
    assert row["downhill_from_published"]["objective"] == pytest.approx(best["objective"], rel=1e-5)
    logs = [np.log([point[k] for point in row["points"]]) for k in ("n_params", "tokens", "loss")]
    assert lbfgs_stop(np.array(PAPER_START), *logs).objective == found["objective"]
    listed = optima(*best_fit(centred(*logs)), centred(*logs))
    assert len(listed) == 2 and listed[0]["starts"] >= 0.9 * listed[0]["of"]
    assert listed[0]["stationary"] and not listed[1]["stationary"]


def test_the_mlm_row_of_table_a9_is_the_global_optimum():
    row = paper("mlm")
    assert row["n_points"] == 82 and row["printed_is"] == "global" and row["two_digits"]
    assert row["global"]["E"] == 0.0
    for name, item in row["differences"].items():
        assert name == "E" or abs(item["relative"]) < 0.006
    assert row["global"]["objective"] <= row["published"]["objective"] <= 4.56e-4


def test_curves_of_the_paper_are_checked():
    with pytest.raises(PlmscaleError, match="objective 'gpt' is unknown"):
        published_parametric({"x": pd.DataFrame()}, "gpt")
    with pytest.raises(PlmscaleError, match="no curve"):
        published_parametric({}, "clm")
    with pytest.raises(PlmscaleError, match="x: missing column n_params"):
        published_parametric({"x": pd.DataFrame({"flops": [1.0]})}, "clm")
