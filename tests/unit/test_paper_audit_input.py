"""Logs of other models, broken files, and the command line."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from paper_logs_example import (
    add_isoflop,
    clean_folder,
    curve,
    found,
    isoflop_path,
    steps_for,
    write,
)

from plmscale import cli
from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.errors import PlmscaleError
from plmscale.paper.audit import audit

M47 = PAPER_SIZES["47M"]


@pytest.fixture
def logs(tmp_path):
    return clean_folder(tmp_path / "logs")


# ---- other models, broken files -------------------------------------------------------------


def test_a_model_outside_the_table_keeps_its_slope(logs):
    other = Architecture("other", 20, 1088, 17, 2901)
    label = f"{other.n_params / 1e6:.0f}M"
    path = write(logs, isoflop_path("clm", label, f"{label}_1024l_1e19flops"),
                 curve(other, 512, steps_for(other, 512, 1e19)))  # fmt: skip
    table, runs = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == ("kept", "")
    run = runs.loc[f"clm-{label}-1e19"]
    assert run.n_params == pytest.approx(other.n_params, rel=1e-7)
    assert np.isnan(run.n_layers)


def test_broken_files_are_listed_with_their_reason(logs):
    good = pd.read_csv(logs / isoflop_path("clm", "47M", "47M_1024l_3e18flops"))
    texts = {
        "columns": (good.rename(columns={"Value": "Loss"}).to_csv(index=False), "no column Value"),
        "text": (
            good.astype(object).replace({good.Value[3]: "x"}).to_csv(index=False),
            "line 5: Value",
        ),
        "nan": (good.assign(Value=np.nan).to_csv(index=False), "line 2: Value"),
        "empty": ("", "cannot be read"),
        "header": ("Wall time,Step,Value\n", "0 points"),
        "steps": (good.iloc[::-1].to_csv(index=False), "line 3: Step does not increase"),
        "negative": (good.assign(Value=-1.0).to_csv(index=False), "must be positive"),
        "binary": ("\udcff\udcfe\x00", "cannot be read"),
    }
    for name, (text, _) in texts.items():
        path = logs / isoflop_path("clm", "47M", f"47M_{name}")
        path.write_bytes(text.encode(errors="surrogateescape"))
    (logs / "elsewhere").mkdir()
    good.to_csv(logs / "elsewhere" / "curve.csv", index=False)
    good.to_csv(logs / "gpt_valid" / "no axis in this name-tag-x.csv", index=False)
    table, _ = found(logs)
    for name, (_, reason) in texts.items():
        line = table.loc[isoflop_path("clm", "47M", f"47M_{name}")]
        assert (line.decision, line.mistakes) == ("excluded", "unreadable")
        assert reason in line.why
    for path in ("elsewhere/curve.csv", "gpt_valid/no axis in this name-tag-x.csv"):
        assert table.loc[path, "mistakes"] == "not_recognised"
    assert (table["decision"] == "kept").sum() == 14


def test_a_label_without_a_size_is_excluded(logs):
    path = write(
        logs, "transfer_valid/mlm/tokens/huge_3e18.csv", curve(M47, 512, 9000, "tokens", 80)
    )
    table, _ = found(logs)
    assert (table.loc[path, "decision"], table.loc[path, "mistakes"]) == (
        "excluded",
        "unknown_size",
    )


def test_folders_without_logs_are_errors(tmp_path):
    with pytest.raises(PlmscaleError, match="no such folder"):
        audit(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlmscaleError, match="no CSV file"):
        audit(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PlmscaleError, match=r"none of 1 CSV files .* a\.csv: not recognised"):
        audit(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(logs, tmp_path, capsys):
    assert cli.main(["audit", str(logs), "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert printed["decisions"] == {"kept": 14}
    add_isoflop(logs, "clm", "85M", "1e18", rows=256)
    wrong = logs / isoflop_path("clm", "85M", "85M_again")
    shutil.copy(logs / isoflop_path("clm", "25M", "25M_1024l_3e18flops"), wrong)
    assert cli.main(["audit", str(logs), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^isoflop +7 +6 +0 +1$", text, re.M)
    assert "wrong_size" in text and "85M_again" in text
    assert cli.main(["audit", str(logs), "--out", str(tmp_path / "out"), "--last", "0"]) == 2
    assert cli.main(["audit", str(tmp_path / "no"), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_curves_of_an_earlier_audit_are_replaced_and_nothing_else_is(logs, tmp_path):
    out = tmp_path / "out"
    audit(logs, out)
    (out / "curves" / "old.csv").write_text("stale")
    audit(logs, out)
    assert not (out / "curves" / "old.csv").exists()
    (out / "curves" / "notes.txt").write_text("mine")
    with pytest.raises(PlmscaleError, match=r"notes\.txt: no curve of an earlier audit"):
        audit(logs, out)
    assert (out / "curves" / "notes.txt").read_text() == "mine"
