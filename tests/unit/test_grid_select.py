"""Selections: values, ranges, wildcards, negation, and what is said of mistakes."""

import pytest

from plmscale import grid, study
from plmscale.errors import PlmscaleError
from plmscale.selection import matching, parse_select

ROWS = [
    {"run_id": f"{objective}-{size}-{budget:g}", "experiment": experiment, "objective": objective,
     "architecture": size, "n_params": n, "budget": budget, "parent": "", "clm_share": None}
    for objective in ("clm", "mlm")
    for size, n in (("85M", 85_068_288), ("154M", 154_333_600), ("1.2B", 1_208_618_992))
    for budget, experiment in ((1e18, "small"), (3e19, "small,large"), (1e20, "large"))
]  # fmt: skip
ROWS.append({**ROWS[0], "run_id": "mixed-85M-5Btok", "objective": "mixed", "budget": None,
             "clm_share": 0.2, "experiment": "mixed", "parent": "clm-85M-1e+18"})  # fmt: skip


def chosen(text):
    return [ROWS[i] for i in matching(ROWS, parse_select(text))]


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("", lambda r: True),
        ("objective:mlm", lambda r: r["objective"] == "mlm"),
        ("objective=mlm, budget=1e20", lambda r: r["objective"] == "mlm" and r["budget"] == 1e20),
        ("budget:1e18,budget:100e18", lambda r: r["budget"] in (1e18, 1e20)),
        ("n_params:>1e9", lambda r: r["n_params"] > 1e9),
        ("n_params>1e9", lambda r: r["n_params"] > 1e9),
        ("n_params:100M..1.3B", lambda r: 1e8 <= r["n_params"] <= 1.3e9),
        ("n_params:<=85068288", lambda r: r["n_params"] == 85_068_288),
        ("n_params<85068289,budget>=3e19", lambda r: r["n_params"] < 1e8 and (r["budget"] or 0) > 1e19),
        ("budget:1e18..3e19", lambda r: r["budget"] in (1e18, 3e19)),
        ("budget:3e19..", lambda r: r["budget"] in (3e19, 1e20)),
        ("budget:<1e20", lambda r: r["budget"] in (1e18, 3e19)),
        ("budget:none", lambda r: r["budget"] is None),
        ("budget:!none", lambda r: r["budget"] is not None),
        ("budget:!1e18..3e19", lambda r: r["budget"] in (1e20, None)),
        ("architecture:1*", lambda r: r["architecture"] in ("154M", "1.2B")),
        ("architecture:!1*", lambda r: r["architecture"] == "85M"),
        ("architecture:??M", lambda r: r["architecture"] == "85M"),
        ("architecture!=85M", lambda r: r["architecture"] != "85M"),
        ("architecture:1*,architecture:!1.2B", lambda r: r["architecture"] == "154M"),
        ("objective:!clm,objective:!mlm", lambda r: r["objective"] == "mixed"),
        ("experiment:large", lambda r: "large" in r["experiment"]),
        ("experiment:!large", lambda r: "large" not in r["experiment"]),
        ("experiment:l*,experiment:!sm*", lambda r: r["experiment"] == "large"),
        ("parent:clm*", lambda r: r["parent"] != ""),
        ("clm_share:0.2", lambda r: r["clm_share"] == 0.2),
    ],
)  # fmt: skip
def test_each_filter_keeps_what_it_says(text, keeps):
    assert chosen(text) == [row for row in ROWS if keeps(row)]
    assert len(chosen(text)) > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("objectiv:mlm", "no column 'objectiv'; did you mean objective?"),
        ("objective:mml", "no run has objective 'mml'; did you mean mlm"),
        ("objective:!mml", "no run has objective 'mml'; did you mean mlm"),
        ("architecture:2*", "no run has architecture '2*'"),
        ("budget:7", "no run has budget '7'; allowed: 1e+18, 3e+19, 1e+20"),
        ("n_params:>7e9", "no run has n_params '>7e9'; it goes from 8.50683e+07 to 1.20862e+09"),
        ("n_params:3..2", "ends below its beginning"),
        ("n_params:..", "is no range of numbers"),
        ("n_params:>many", "is no range of numbers"),
        ("objective:>3", "objective holds words"),
        ("mlm", "is not KEY:VALUE"),
        ("objective:", "is not KEY:VALUE"),
        (":mlm", "is not KEY:VALUE"),
        ("experiment:mixed,objective:clm", "no run fits all of experiment:mixed,objective:clm"),
        ("objective:clm,objective:!clm", "no run fits all of"),
    ],
)
def test_a_mistake_is_told_in_one_line(text, said):
    with pytest.raises(PlmscaleError) as error:
        chosen(text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_subsets_take_lists_numbers_and_the_same_filters():
    assert matching(ROWS, {"budget": [1e18, "3e19"], "objective": "!mixed"}) == [
        i for i, row in enumerate(ROWS) if row["budget"] in (1e18, 3e19)
    ]
    assert matching(ROWS, {"budget": None}) == [len(ROWS) - 1]
    with pytest.raises(PlmscaleError, match="no runs to choose from"):
        matching([], {"budget": 1})


def test_an_unknown_subset_is_told_with_all_there_are():
    demo = study.load(study.PROJECT / "config.yaml")
    with pytest.raises(PlmscaleError, match=r"did you mean isoflop.*; subsets: isoflop, "):
        grid.chosen_runs(demo, "isoflob")
