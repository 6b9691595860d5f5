"""`plmscale fit` on tables as people bring them: what it reads, what it refuses and how it says so."""

import json

import numpy as np
import pandas as pd
import pytest

from plmscale import cli
from plmscale.laws.table.usertable import read_user_table

BUDGETS = (1e17, 1e18, 1e19)


def table(objective="clm", budgets=BUDGETS, sizes=5):
    """Exact parabolas in ln N with N_opt = 0.02 C^0.5 and losses of 20 C^-0.05, about 2.4 to 2.8."""
    rows = []
    for budget in budgets:
        for k in range(sizes):
            x = 0.5 * (k - sizes // 2)
            n = 0.02 * budget**0.5 * np.exp(x)
            rows.append({"objective": objective, "n_params": n, "tokens": budget / 6 / n,
                         "loss": 20 * budget**-0.05 + 0.04 * x**2})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def fit(tmp_path, capsys):
    """Run `plmscale fit` on a table or text; return exit code, laws (or None), stdout, stderr."""

    def run(content, *options, name="runs.csv", boot="0"):
        path, out = tmp_path / name, tmp_path / "laws.json"
        if isinstance(content, pd.DataFrame):
            content = content.to_csv(index=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        out.unlink(missing_ok=True)
        if "--methods" not in options:
            options = (*options, "--methods", "isoflop_parabola", "isoflop_raw_loglog")
        code = cli.main(["fit", str(path), "--out", str(out), "--boot", boot, *options])
        said = capsys.readouterr()
        return code, json.loads(out.read_text()) if out.exists() else None, said.out, said.err

    return run


def exponent(laws, objective="clm"):
    return laws["laws"][objective]["isoflop_parabola"]["N_opt"]["a"]


def refused(result, *parts):
    code, laws, _, err = result
    assert code == 2 and laws is None
    assert err.startswith("plmscale: error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err, err


# What is read


def test_four_columns_are_enough(fit):
    code, laws, out, err = fit(table())
    assert code == 0 and not err and "isoflop_parabola" in out
    assert exponent(laws) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: "sep=;\n" + text.replace(",", ";"),
        lambda text: text.replace(",", ";").replace(".", ","),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", ",,\n").replace("loss,,", "loss,,", 1) + ",,,,,\n\n",
        lambda text: "\n" + text.replace("objective,n_params", " Objective , N_PARAMS"),
        lambda text: text.replace("clm", " CLM "),
    ],
)
def test_files_of_spreadsheets_are_read(fit, change):
    code, laws, _, err = fit(change(table().to_csv(index=False)))
    assert code == 0, err
    assert exponent(laws) == pytest.approx(0.5, abs=1e-6)


def test_parquet_is_read(tmp_path):
    table().to_parquet(tmp_path / "runs.parquet")
    read = read_user_table(tmp_path / "runs.parquet").runs
    assert read["run_id"].iloc[1] == "row 2" and read["loss"].tolist() == table()["loss"].tolist()


def test_numbers_keep_all_digits(tmp_path):
    table().to_csv(tmp_path / "runs.csv", index=False)
    read = read_user_table(tmp_path / "runs.csv").runs
    for name in ("n_params", "tokens", "loss"):
        assert read[name].tolist() == table()[name].tolist()


def test_own_column_names_are_mapped(fit):
    mine = table().rename(columns={"n_params": "N", "loss": "val loss", "objective": "task"})
    code, laws, _, _ = fit(
        mine, "--rename", "n_params=N", "loss=val loss", "--rename", "objective=task"
    )
    assert code == 0 and exponent(laws) == pytest.approx(0.5, abs=1e-6)


def test_a_renamed_column_takes_the_place_of_another(fit):
    both = table().assign(val_loss=table()["loss"], loss=1.0)
    code, laws, _, _ = fit(both, "--rename", "loss=val_loss")
    assert code == 0 and exponent(laws) == pytest.approx(0.5, abs=1e-6)
    assert any("column loss not read" in text for text in laws["warnings"])


def test_an_objective_for_all_rows(fit):
    code, laws, _, _ = fit(table().drop(columns="objective"), "--objective", "mlm")
    assert code == 0 and list(laws["laws"]) == ["mlm"]


def test_mixed_objectives_get_laws_of_their_own(fit):
    code, laws, _, _ = fit(pd.concat([table(), table("mlm")]))
    assert code == 0 and exponent(laws, "clm") == pytest.approx(exponent(laws, "mlm"))


def test_runs_trained_on_both_objectives_at_once_are_of_no_law(fit):
    code, laws, _, _ = fit(pd.concat([table(), table("mixed", sizes=2)]))
    assert code == 0 and list(laws["laws"]) == ["clm"]
    assert exponent(laws) == pytest.approx(exponent(fit(table())[1]))
    assert {row["objective"] for row in laws["excluded"]} == {"mixed"}
    assert len(laws["excluded"]) == 6
    refused(fit(table("mixed")), "trained on both objectives")
    # A part of a study may be of such runs alone.
    code, laws, _, _ = fit(table("mixed"), "--allow-empty")
    assert code == 0 and laws["laws"] == {} and len(laws["excluded"]) == len(table("mixed"))


@pytest.mark.parametrize(
    ("unit", "to_unit"),
    [("bits", lambda nats: nats / np.log(2)), ("perplexity", np.exp)],
)
def test_units_do_not_change_a_law(fit, unit, to_unit):
    nats = table(budgets=(*BUDGETS, 1e20)).assign(loss_sd=0.01)
    other = nats.assign(loss=to_unit(nats["loss"]))
    other["loss_sd"] = 0.01 / np.log(2) if unit == "bits" else 0.01 * other["loss"]
    _, plain, _, _ = fit(
        nats, "--methods", "isoflop_parabola", "isoflop_raw_loglog", "loss_c", boot="50"
    )
    _, turned, _, _ = fit(other, "--loss-unit", unit, "--methods", "isoflop_parabola",
                          "isoflop_raw_loglog", "loss_c", boot="50")  # fmt: skip
    for method in plain["laws"]["clm"]:
        one, two = plain["laws"]["clm"][method], turned["laws"]["clm"][method]
        law = "law" if method == "loss_c" else "L_opt"
        assert one[law] == pytest.approx(two[law], rel=1e-6)
        assert one["ci95"]["c"] == pytest.approx(two["ci95"]["c"], rel=1e-4)


def test_curves_are_converted_with_the_table(fit, tmp_path):
    from plmscale.laws.table.curvefiles import read_curves

    folder = tmp_path / "curves"
    folder.mkdir()
    (folder / "a.csv").write_text("step,tokens,flops_6nd,split,loss\n1,2,3,valid,8.0\n")
    curve = read_curves(folder, ["a", "b"], "perplexity")["a"]
    assert curve["loss"].iloc[0] == pytest.approx(np.log(8.0))


# Warnings


@pytest.mark.parametrize(
    ("change", "flag"),
    [(np.exp, "--loss-unit perplexity"), (lambda nats: nats / np.log(2), "--loss-unit bits")],
)
def test_losses_in_another_unit_are_noticed(fit, change, flag):
    code, _, out, _ = fit(table().assign(loss=change(table()["loss"])))
    assert code == 0 and flag in out


def test_losses_in_nats_are_not_suspected(fit):
    assert "--loss-unit" not in fit(table())[2]


def test_copied_rows_are_dropped_and_named(fit):
    once = fit(table())[1]
    code, laws, out, _ = fit(pd.concat([table(), table().iloc[[3, 7]]]))
    assert code == 0 and "2 rows are copies of an earlier row; dropped (line 17, line 18)" in out
    assert laws["laws"] == once["laws"]


def test_replicates_are_no_copies(fit):
    twice = pd.concat([table().assign(seed=1), table().assign(seed=2)])
    code, laws, out, _ = fit(twice)
    assert code == 0 and "copies" not in out
    assert laws["laws"]["clm"]["isoflop_parabola"]["n_runs"] == 30


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [
        ("flops_6nd", 0.83, ("flops_6nd differs from 6 x n_params x tokens in 15 of 15", "ratio 0.83")),
        ("flops", 1e-9, ("flops is far from", "ratio 1e-09", "is it in GFLOPs?")),
        ("flops", 1 / 3, ("ratio 0.333", "forward pass only?")),
        ("flops", 3.0, ("ratio 3", "without embeddings")),
    ],
)  # fmt: skip
def test_flops_far_from_6nd_are_noticed(fit, column, factor, words):
    runs = table().assign(budget=np.repeat(BUDGETS, 5))
    runs[column] = factor * 6 * runs["n_params"] * runs["tokens"]
    code, _, out, _ = fit(runs)
    assert code == 0
    for word in words:
        assert word in out


def test_attention_may_cost_what_it_costs(fit):
    runs = table().assign(n_layers=8, d_model=32)
    runs["n_params"] = 12.0 * 8 * 32**2
    runs["tokens"] = np.geomspace(1e8, 1e10, len(runs))
    runs["flops"] = 4 * 6 * runs["n_params"] * runs["tokens"]
    code, _, out, _ = fit(runs, "--methods", "loss_d")
    assert code == 0 and "far from" not in out
    assert "far from" in fit(runs.drop(columns="d_model"), "--methods", "loss_d")[2]


def test_one_size_names_what_is_left(fit):
    runs = table().groupby("n_params").head(1).iloc[:6].assign(n_params=1e7)
    code, laws, out, _ = fit(runs, "--methods", "isoflop_parabola", "parametric", "loss_d")
    assert code == 0
    assert "clm: one size only (1e+07 parameters): N_opt(C), D_opt(C), L(C) and L(N, D) need" in out
    assert "fitted all the same: loss_d" in out
    assert laws["laws"]["clm"]["parametric"]["E"] is None


def test_the_rest_is_fitted_where_one_objective_lacks_budgets(fit):
    code, laws, out, _ = fit(pd.concat([table(), table("mlm", budgets=BUDGETS[:1])]))
    assert code == 0 and exponent(laws) == pytest.approx(0.5, abs=1e-6)
    assert exponent(laws, "mlm") is None and "mlm: one budget only" in out


# Refusals


def test_one_budget_is_refused_with_its_best_size(fit):
    refused(fit(table(budgets=(1e18,))), "runs.csv: no law can be fitted", "one budget only",
            "1e+18 FLOPs, 5 sizes", "need two budgets or more", "best size at this budget is 2e+07")  # fmt: skip


def test_a_table_without_a_law_can_be_kept(fit):
    code, laws, out, _ = fit(table(budgets=(1e18,)), "--allow-empty")
    assert code == 0 and "one budget only" in out
    assert laws["laws"]["clm"]["isoflop_parabola"]["points"][0]["N_opt"] == pytest.approx(2e7)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.drop(columns="tokens"), ["missing column tokens", "--rename tokens=YOURS"]),
        (lambda t: t.rename(columns={"n_params": "params"}),
         ["missing column n_params", "it has objective, params", "add --rename n_params=params"]),
        (lambda t: t.rename(columns={"n_params": "N", "tokens": "D", "loss": "val loss"}),
         ["--rename n_params=N tokens=D", 'loss="val loss"']),
        (lambda t: t.rename(columns={"tokens": "tokenz"}), ["--rename tokens=tokenz"]),
        (lambda t: t.drop(columns="objective"), ["missing column objective", "--objective clm or mlm"]),
        (lambda t: t.drop(columns="tokens").assign(flops=1e18), ["compute / (6 n_params)"]),
        (lambda t: t.assign(objective="gpt"), ["line 2: objective 'gpt' is unknown; allowed: clm, mlm"]),
        (lambda t: t.assign(objective=["clm"] * 14 + [""]), ["line 16: objective is missing"]),
        (lambda t: t.assign(n_params=-1), ["line 2: n_params -1 is not positive (so in 14 more)"]),
        (lambda t: t.assign(tokens=0), ["line 2: tokens 0 is not positive"]),
        (lambda t: t.assign(loss=[2.5] * 14 + [np.nan]), ["line 16: loss is missing", "status other than done"]),
        (lambda t: t.assign(loss=[2.5] * 14 + [np.inf]), ["line 16: loss inf is not a finite number"]),
        (lambda t: t.assign(n_params="85M"), ["line 2: n_params '85M' is not a number; write 85e6"]),
        (lambda t: t.assign(tokens="1,000,000"), ["line 2: tokens '1,000,000'", "separators, 1000000"]),
        (lambda t: t.assign(loss="2,5"), ["line 2: loss '2,5'", "decimals with a point"]),
        (lambda t: t.assign(seed="first"), ["line 2: seed 'first' is not a number", "cell empty"]),
        (lambda t: t.assign(run_id="a"), ["run_id 'a' names different runs (line 2, line 3"]),
        (lambda t: t.assign(run_id=[f"r{i}" for i in range(15)], tokens=0), ["runs.csv, r0: tokens 0"]),
        (lambda t: t.assign(status="failed"), ["no law can be fitted", "no run is left"]),
        (lambda t: t.iloc[:0], ["a header line but no rows"]),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_what_to_do(fit, change, parts):
    refused(fit(change(table())), "runs.csv", *parts)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("objective n_params tokens loss\nclm 1 2 3\n", "one column only, 'objective n_params"),
        ("clm,1e6,1e8,2.5\n", "the first line holds values, not column names"),
        (
            "objective,n_params,tokens,loss\nclm,1,2,3,4\n",
            "line 2: 5 fields where the header names 4",
        ),
        ("objective,n_params,tokens,loss,loss\nclm,1,2,3,4\n", "column 'loss' stands twice"),
        ("objective,n_params,tokens,loss,LOSS\nclm,1,2,3,4\n", "two columns mean loss"),
        (b"PK\x03\x04 rest of an xlsx", "a spreadsheet; save the sheet as CSV"),
        ("run_id,objective\né,clm\n".encode("latin-1"), "not UTF-8 text"),
        (b"a,b\n\0,1\n", "not a text table"),
    ],
)
def test_what_is_no_table_is_refused(fit, content, part):
    refused(fit(content), "runs.csv", part)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--rename", "n_param=N"], ["'n_param' is no column of a runs table", "did you mean n_params"]),
        (["--rename", "size=n_params"], ["turn it round: --rename n_params=size"]),
        (["--rename", "n_params=M"], ["no column 'M'"]),
        (["--rename", "n_params"], ["expected NAME=YOURS"]),
        (["--objective", "mlm"], ["the table has rows of clm"]),
        (["--loss-unit", "perplexity", "--rename", "loss=one"], ["a perplexity of 1 cannot be"]),
        (["--flops-column", "flops"], ["missing column flops"]),
        (["--methods", "parabola"], ["law method 'parabola' is unknown", "isoflop_parabola"]),
        (["--methods", "envelope"], ["add --curves DIR"]),
        (["--curves", "nowhere"], ["nowhere: no such folder of learning curves"]),
        (["--noise-sd", "0"], ["noise of a loss: 0 is not positive"]),
    ],
)  # fmt: skip
def test_a_bad_option_is_refused(fit, options, parts):
    refused(fit(table().assign(one=1.0), *options), *parts)


def test_curves_without_any_of_the_runs_are_refused(fit, tmp_path):
    (tmp_path / "other.csv").write_text("tokens,split,loss\n")
    refused(fit(table().assign(run_id=[f"r{i}" for i in range(15)]), "--curves", str(tmp_path)),
            "no curve of any run; expected r0.csv")  # fmt: skip
    (tmp_path / "r1.csv").write_text("tokens,loss\n1,2\n")
    refused(fit(table().assign(run_id=[f"r{i}" for i in range(15)]), "--curves", str(tmp_path)),
            "r1.csv: missing column split")  # fmt: skip


def test_missing_and_unwritable_files_are_named(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    assert cli.main(["fit", str(path), "--out", str(tmp_path / "laws.json")]) == 2
    assert "runs.csv: no such file" in capsys.readouterr().err
    table().to_csv(path, index=False)
    options = ["--boot", "0", "--methods", "isoflop_parabola"]
    assert cli.main(["fit", str(path), "--out", str(tmp_path), *options]) == 2
    assert "cannot be written" in capsys.readouterr().err


# Both ways to count compute


def test_both_counts_of_compute_stand_side_by_side(fit):
    runs = table().assign(budget=np.repeat(BUDGETS, 5))
    # Attention weighs more in small models.
    runs["flops"] = 6 * runs["n_params"] * runs["tokens"] * (1 + 2e3 / runs["n_params"] ** 0.5)
    code, laws, out, _ = fit(runs)
    assert code == 0 and "compute counted both ways" in out
    both = laws["flops_conventions"]
    for column in ("flops_6nd", "flops"):
        alone = fit(runs, "--flops-column", column)[1]["laws"]["clm"]["isoflop_parabola"]
        found = both[column]["laws"]["clm"]["isoflop_parabola"]
        assert (found["A"], found["a"]) == (alone["N_opt"]["A"], alone["N_opt"]["a"])
    exponents = [both[c]["laws"]["clm"]["isoflop_parabola"]["a"] for c in ("flops", "flops_6nd")]
    assert abs(exponents[0] - exponents[1]) > 1e-4


def test_one_count_is_not_shown_twice(fit):
    runs = table()
    runs["flops"] = 6 * runs["n_params"] * runs["tokens"]
    assert "flops_conventions" not in fit(runs)[1]
