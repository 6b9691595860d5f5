"""Figures of the corpus, on numbers of the size of UniMeta200B and on hardly any."""

import warnings
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_figures import assert_nothing_overlaps, draw, texts

from plmscale.corpus.stats import IDENTITY_BINS
from plmscale.errors import PlmscaleError
from plmscale.figures import FIGURES, data, style
from plmscale.figures.heldout import fates

CORPUS = [name for name in FIGURES if name.startswith("corpus_")]
SOURCES = {  # sequences, residues, share in the mix, epochs' tokens
    "uniref50": (54e6, 15.2e9, 0.085),
    "uniref90_50": (102e6, 37.8e9, 0.195),
    "colabfold_c": (208e6, 37.7e9, 0.195),
    "colabfold_m": (575e6, 103e9, 0.525),
}
# Records lost by length, by letters, within, across (of), unused, train, valid.
CLEANED = {
    "uniref50": (2_100_000, 90_000, 0, {}, 300_000, 54_000_000, 270_000),
    "uniref90_50": (3e6, 210_000, 4_000, {"uniref50": 54_100_000}, 900_000, 111e6, 500_000),
    "colabfold_c": (4e6, 0, 12_000, {"uniref50": 2e6, "uniref90_50": 9e6}, 2e6, 192e6, 1e6),
    "colabfold_m": (9e6, 0, 41e6, {"uniref90_50": 11e6, "colabfold_c": 40e6}, 4e6, 424e6, 2e6),
}


def epochs(columns=7, mixes=("mix", "uniref50"), cap=None):
    rows = []
    for mix in mixes:
        chosen = SOURCES if mix == "mix" else {mix: (*SOURCES["uniref50"][:2], 1.0)}
        for k, tokens in enumerate(np.geomspace(2e9, 260e9, columns).astype(int)):
            for source, (sequences, residues, share) in chosen.items():
                n = tokens * share / (residues + 2 * sequences)
                held = cap is not None and n > cap
                rows.append((mix, 1e18 * 3**k if k % 4 else None, tokens, source, share,
                             tokens * share, min(n, cap or n), held))  # fmt: skip
    names = ["mix", "budget", "tokens", "source", "share", "source_tokens", "epochs", "capped"]
    return pd.DataFrame(rows, columns=names)


def tables():
    rng = np.random.default_rng(4)
    sources, duplicates, identity, lengths, residues = [], [], [], [], []
    for name, (length, letters, within, across, unused, train, valid) in CLEANED.items():
        read = length + letters + within + sum(across.values()) + unused + train + valid
        row = {
            "source": name, "part": "train", "sequences": train, "read_sequences": read + valid // 9,
            "dropped_by_length": length, "dropped_letter_rule": letters,
            "duplicates_within_source": within, "duplicates_across_sources": sum(across.values()),
            "unused_sequences": unused,
        }  # fmt: skip
        sources += [row, {"source": name, "part": "valid", "sequences": valid},
                    {"source": name, "part": "test", "sequences": valid // 9}]  # fmt: skip
        duplicates += [(name, name, within), *((name, other, n) for other, n in across.items())]
        identity += [(name, "valid", b, int(n), 1)
                     for b, n in zip(IDENTITY_BINS, valid * np.array([0.4, 0.35, 0.25, 0, 0]))]  # fmt: skip
        identity += [(name, "test", b, int(n), 1)
                     for b, n in zip(IDENTITY_BINS, 3e5 * rng.dirichlet(np.ones(5)))]  # fmt: skip
    identity += [("outside", "test", b, n, 1) for b, n in zip(IDENTITY_BINS, (900, 300, 90, 9, 1))]
    identity += [("outside", "valid", b, 0, 0) for b in IDENTITY_BINS]
    for source, mean, part in (("uniref50", 330, "train"), ("outside", 190, "test")):
        values, n = np.unique(rng.gamma(2.2, mean / 2.2, 5000).astype(int) + 30, return_counts=True)
        lengths += [(source, part, int(v), int(k)) for v, k in zip(values, n)]
        residues += [(source, p, letter, int(k) * (p == part), 0.05)
                     for p in ("train", "test")
                     for letter, k in zip("ACDEFGHIKLMNPQRSTVWYX", rng.integers(500, 9000, 21))]  # fmt: skip
    return {
        "epochs": epochs(),
        "sources": pd.DataFrame(sources),
        "duplicates": pd.DataFrame(duplicates, columns=["source", "kept_in", "sequences"]),
        "identity": pd.DataFrame(
            identity, columns=["source", "part", "bin", "sequences", "residues"]
        ),
        "lengths": pd.DataFrame(lengths, columns=["source", "part", "length", "sequences"]),
        "residues": pd.DataFrame(
            residues, columns=["source", "part", "residue", "count", "frequency"]
        ),
    }


@pytest.fixture(scope="module")
def inputs():
    return data.Inputs(stats=tables())


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", CORPUS)
def test_drawn_without_warnings_and_overlaps(name, inputs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(name, inputs)
        assert_nothing_overlaps(figure)
        style.save(figure, tmp_path / name)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("name", CORPUS)
def test_tables_without_rows_give_an_empty_figure(name, inputs):
    bare = {key: table.iloc[:0] for key, table in inputs.stats.items()}
    assert "No " in texts(draw(name, data.Inputs(stats=bare)))


@pytest.mark.parametrize(
    ("name", "table"),
    [("corpus_epochs", "epochs"), ("corpus_duplicates", "duplicates"),
     ("corpus_identity", "identity")],
)  # fmt: skip
def test_a_missing_column_is_named(name, table, inputs):
    broken = {**inputs.stats, table: inputs.stats[table].drop(columns="source")}
    with pytest.raises(PlmscaleError, match=rf"stats/{table}.csv: missing column source"):
        draw(name, data.Inputs(stats=broken))


def test_epochs_are_written_into_the_map(inputs):
    shown = texts(draw("corpus_epochs", inputs)).split(" | ")
    assert shown.count("1.44") == 1  # uniref50 in the mix at 260 B tokens: 22.1 / 15.308
    assert "17.0" in shown or "17" in shown  # uniref50 alone
    assert "mix: epochs of each source" in shown


def lines_at(figure, axes, colour):
    """Return the corners of the lines of one colour in a panel."""
    lines = [line for line in figure.axes[axes].lines if line.get_color() == colour]
    return {tuple(map(tuple, line.get_xydata())) for line in lines}


def test_the_lines_of_one_and_four_epochs_run_between_the_right_cells():
    table = epochs(columns=4, mixes=("mix",))
    table["epochs"] = [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 2, 1, 0.5, 0.5, 9, 3, 3, 3]
    figure = draw("corpus_epochs", data.Inputs(stats={"epochs": table}))
    assert lines_at(figure, 0, style.WARN) == {((2.5, -0.5), (2.5, 0.5)), ((2.5, 0.5), (3.5, 0.5))}
    assert lines_at(figure, 0, style.INK) == {
        ((1.5, -0.5), (1.5, 0.5)), ((1.5, 0.5), (1.5, 1.5)),  # two sources from the third column
        ((1.5, 1.5), (2.5, 1.5)),  # down to those that are not there yet
        ((2.5, 1.5), (2.5, 2.5)), ((2.5, 2.5), (2.5, 3.5)),
    }  # fmt: skip


def test_capped_sources_carry_a_star():
    shown = texts(draw("corpus_epochs", data.Inputs(stats={"epochs": epochs(cap=0.5)})))
    assert "0.50*" in shown and "held down by max_epochs" in shown
    assert "max_epochs" not in texts(draw("corpus_epochs", data.Inputs(stats={"epochs": epochs()})))


def test_of_many_budgets_some_are_left_out_and_told():
    figure = draw("corpus_epochs", data.Inputs(stats={"epochs": epochs(columns=30)}))
    assert len(figure.axes[0].get_xticks()) == 11
    assert "19 budgets between are not shown" in figure.axes[0].get_title(loc="right")
    assert_nothing_overlaps(figure)


def test_every_record_has_one_fate():
    table = fates(tables()["sources"])
    for name, (length, letters, within, across, unused, train, valid) in CLEANED.items():
        row = table.loc[name]
        assert row["held"] == valid + valid // 9
        assert (row["train"], row["unused"], row["length"]) == (train, unused, length)
        assert (row["letters"], row["within"]) == (letters, within)
        assert row["across"] == sum(across.values())
        assert row.sum() == tables()["sources"].query("source == @name")["read_sequences"].max()


def test_copies_are_shown_by_who_kept_them(inputs):
    figure = draw("corpus_duplicates", inputs)
    shown = texts(figure)
    assert "kept in" in shown and "32 %" in shown  # 54.1 of 170 M
    alone = {"sources": inputs.stats["sources"], "duplicates": inputs.stats["duplicates"].iloc[:1]}
    assert len(draw("corpus_duplicates", data.Inputs(stats=alone)).axes) == 1


def test_bars_of_identity_are_shares(inputs):
    figure = draw("corpus_identity", inputs)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["uniref50, validation", "uniref50, test"]
    assert labels[-1] == "outside, test"  # its empty validation is left out
    bars = figure.axes[0].patches
    ends = {}
    for bar in bars:
        y = round(bar.get_y() + bar.get_height() / 2)
        ends[y] = max(ends.get(y, 0), bar.get_x() + bar.get_width())
    assert ends == pytest.approx(dict.fromkeys(range(len(labels)), 100))


def test_a_held_out_source_is_marked(inputs):
    for name in ("corpus_lengths", "corpus_residues"):
        shown = texts(draw(name, inputs))
        assert "outside (held out): " in shown and "uniref50: " in shown


def test_functions_have_the_names_of_their_figures():
    for name in CORPUS:
        assert callable(getattr(import_module(f"plmscale.figures.{FIGURES[name]}"), name))
