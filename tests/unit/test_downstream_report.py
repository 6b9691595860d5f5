"""The report's section on downstream evaluation, and what it says where things are missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from downstream_tables_example import (
    FOLD,
    NOT_RUN,
    baseline_row,
    by_loss,
    full,
    runs_table,
    tables,
    write,
)
from figures_example import write_study

from plmscale.downstream.scaling import scaling
from plmscale.figures import DOWNSTREAM, data
from plmscale.figures.__main__ import main as draw
from plmscale.figures.downstreamview import Measure, labels
from plmscale.files import write_json
from plmscale.report.__main__ import main
from plmscale.report.captions import CAPTIONS
from plmscale.report.downstream import answer_sentence, section
from plmscale.report.downstreamcaptions import DOWNSTREAM_CAPTIONS
from plmscale.report.downstreamtables import failure_table, metric_words, number
from plmscale.report.parts import Figures

ROOT = Path(__file__).resolve().parents[2]


def evaluated(path, runs, found):
    folder = write(path, runs, found)
    told = scaling(found["metrics"], found["gains"], runs, replicates=300)
    write_json(folder / "scaling.json", told)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("evaluated"), *full())


@pytest.fixture(scope="module")
def made(folder):
    return section(folder, Figures(None))


def page(study, folder, out, *more):
    words = ["--runs", study["runs"], "--laws", study["laws"], "--out", out, *more]
    words += ["--downstream", folder] if folder else []
    assert main([str(word) for word in words]) == 0
    return out.read_text(encoding="utf-8")


def by_title(found):
    return {table.title: table for table in found.tables}


def test_the_section_is_there_only_where_results_are(study, folder, tmp_path):
    with_it = page(study, folder, tmp_path / "with.html")
    assert '<section id="downstream">' in with_it and 'href="#downstream"' in with_it
    without = page(study, None, tmp_path / "without.html")
    assert "downstream" not in without
    assert "downstream" not in page(study, tmp_path, tmp_path / "not_yet.html").split("<style>")[0]


def test_figures_stand_in_the_section(study, folder, tmp_path):
    words = ["downstream_loss", "downstream_fitness", "--downstream", folder, "--out", tmp_path]
    assert draw([str(word) for word in words]) == 0
    text = page(study, folder, tmp_path / "r.html", "--figures", tmp_path)
    part = text[text.index('<section id="downstream">') :]
    assert part.index("figure-downstream_loss") < part.index("figure-downstream_fitness")
    assert part.index("downstream_fitness") < part.index("</section>")


def test_models_stand_beside_twins_baselines_and_models_from_elsewhere(made, folder):
    table = by_title(made)["Fold classification"]
    names = [name for name, _ in table.columns]
    rows = [dict(zip(names, row)) for row in table.rows]
    assert {row["metric"] for row in rows} == {"accuracy"}
    first = rows[0]
    assert first["model"] == "clm-5" and first["leakage"] == "12.0 %"
    assert first["training is"] == "better"
    # The random twin has 0.1, the baseline 0.08: two paired differences.
    ahead = first["over best baseline (95 %)"]
    assert ahead.endswith(", better") and ahead != first["gain (95 %)"] + ", better"
    metrics = data.read_downstream(folder)["metrics"]
    own = metrics.query("task == 'fold' and method == 'probe' and model == 'clm-5'").iloc[0]
    assert first["value (95 %)"].startswith(f"{own['value']:.3f} (")
    outside = next(row for row in rows if row["model"] == "esm2-150m")
    assert outside["training is"] == "no twin" and outside["leakage"] == "–"
    assert [row["model"] for row in rows if row["as"] == "baseline"] == ["composition"]


def test_measures_of_one_name_are_told_apart(made):
    table = by_title(made)["Contact prediction"]
    assert {row[3] for row in table.rows} == {"P@L/5, |i-j|>=6", "P@L/5, |i-j|>=24"}
    splits = [Measure("perplexity", "zero-shot", s, "all", "p", "w") for s in ("valid", "test")]
    assert list(labels(splits).values()) == ["p, valid", "p, test"]


def test_perplexity_stands_beside_the_unigram_baseline_of_another_name(tmp_path):
    runs = runs_table(1, ("clm",))
    measure = ("perplexity", "zero-shot", "test", "all", "perplexity_clm", "exp of nats")
    found = tables(runs, {measure: lambda run: 17.0}, baselines=False)
    base = baseline_row((*measure[:4], "perplexity_unigram", "exp of nats"), 18.1, "unigram")
    found["metrics"].loc[len(found["metrics"])] = base
    rows = by_title(section(evaluated(tmp_path, runs, found), Figures(None)))["Perplexity"].rows
    assert [row[0] for row in rows] == ["clm-0", "unigram"]


def test_the_answer_counts_gains_and_says_what_chance_does(made):
    text = " ".join(made.sentences)
    assert "12 runs of this study and 1 model from elsewhere" in text
    assert "on the gain over random weights" in text and "one question in twenty" in text
    assert "none is taken from a publication" in text


def test_one_run_cannot_answer(tmp_path):
    runs = runs_table(1, ("clm",))
    found = section(evaluated(tmp_path, runs, tables(runs, {FOLD: by_loss})), Figures(None))
    assert any("cannot be said" in text for text in found.sentences)
    assert "too few runs" in by_title(found)["Metrics against loss, size and compute"].rows[0]


def test_perplexity_alone_is_no_answer():
    row = {"against": "loss", "task": "perplexity", "of": "gain", "verdict": "better"}
    assert "loss under another name" in answer_sentence({"trends": [row]})


def test_missing_baselines_and_diverged_runs_are_told(tmp_path):
    runs = runs_table(6, ("clm",))
    found = tables(runs, {FOLD: by_loss}, baselines=False)
    runs.loc[2, ["loss", "status"]] = [None, "diverged"]
    made = section(evaluated(tmp_path, runs, found), Figures(None))
    assert any("clm-2 has no loss (status: diverged)" in text for text in made.sentences)
    assert "No baseline was measured" in by_title(made)["Fold classification"].sentences[-1]


def test_failures_and_tools_not_run_are_listed_by_name(made):
    table = by_title(made)["What failed or was not run"]
    lines = [" | ".join(row) for row in table.rows]
    assert any("gated | failed | hf:gated: needs a licence" in line for line in lines)
    assert any("foldseek: no such program" in line for line in lines)
    (folded,) = [line for line in lines if NOT_RUN in line]
    assert "plddt" in folded and "clm-0, clm-1, clm-2, clm-3 and 2 more" in folded


def test_equal_reasons_are_one_row():
    rows = [("fold", f"m{i}", "probe", "failed", "no memory") for i in range(6)]
    columns = ["task", "model", "method", "status", "reason"]
    table = failure_table(pd.DataFrame(rows, columns=columns))
    assert len(table.rows) == 1 and table.rows[0][2] == "m0, m1, m2, m3 and 2 more"


def test_generated_proteins_stand_beside_their_controls(made):
    table = by_title(made)["Generation"]
    assert [row[0] for row in table.rows[-3:]] == [
        f"{name} proteins" for name in ("natural", "shuffled", "unigram")
    ]
    cells = {(row[0], row[1]): row[2] for row in table.rows}
    assert cells["clm-3", "T=0.8 p=0.95"].startswith("0.310 (")
    assert cells["clm-3, random", "T=0.8 p=0.95"].startswith("0.620 (")
    assert cells["natural proteins", ""].startswith("0.372 (")
    assert "pLDDT" not in [name for name, _ in table.columns]


def test_text_from_files_is_escaped(study, tmp_path):
    runs = runs_table(1, ("clm",))
    found = tables(runs, {FOLD: by_loss})
    found["failures"].loc[0, "reason"] = "<script>alert(1)</script>"
    text = page(study, evaluated(tmp_path, runs, found), tmp_path / "r.html")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_numbers_and_definitions_fit_their_cells():
    assert [number(v) for v in (0.12345, -0.5, 123.456, None, float("nan"))] == [
        "0.123", "−0.500", "123.5", "–", "–",
    ]  # fmt: skip
    row = {"group": "all", "metric": "nats_clm", "definition": "word " * 40}
    assert len(metric_words(row)) < 110 and metric_words(row).endswith("…)")


def test_a_broken_table_is_one_line(study, folder, tmp_path, capsys):
    (tmp_path / "metrics.csv").write_bytes(b"")
    words = ["--runs", study["runs"], "--laws", study["laws"], "--downstream", tmp_path]
    assert main([str(w) for w in [*words, "--out", tmp_path / "r.html"]]) == 2
    assert "metrics.csv: cannot be read" in capsys.readouterr().err


def test_every_figure_has_a_caption_which_is_the_one_of_snakemakes_report():
    assert set(DOWNSTREAM_CAPTIONS) == set(DOWNSTREAM) and not set(CAPTIONS) & set(DOWNSTREAM)
    for name, (title, caption) in DOWNSTREAM_CAPTIONS.items():
        text = (ROOT / "rules" / "report" / f"{name}.rst").read_text(encoding="utf-8")
        assert " ".join(text.split()) == f"**{title}.** {caption}"
