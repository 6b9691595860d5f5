"""The report: one file that stands alone, says all warnings, and puts words before pictures."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from figures_example import laws_json, write_study

from plmscale.figures import FIGURES
from plmscale.figures.__main__ import main as draw
from plmscale.report.__main__ import main
from plmscale.report.build import raised
from plmscale.report.captions import CAPTIONS, GROUPS
from plmscale.tables import read_runs, write_runs

ROOT = Path(__file__).resolve().parents[2]


def write(paths, out, **replaced):
    names = ["runs", "laws", "findings", "figures", "corpus", "study", "metrics"]
    given = {**paths, **replaced}
    options = []
    for name in names:
        if given.get(name):
            options += [f"--{name}", str(given[name])]
    return main([*options, "--out", str(out)])


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    found = write_study(folder)
    found["figures"] = folder / "figures"
    options = ["--runs", found["runs"], "--laws", found["laws"], "--out-stem"]
    for name in ("isoflop", "repetition"):
        assert draw([name, *map(str, options), str(found["figures"] / name)]) == 0
    return found


@pytest.fixture(scope="module")
def page(paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert write(paths, out) == 0
    return out.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects what a browser would load, the ids, the links inside, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.inner, self.open, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("img", "script", "link", "iframe", "source") and (
            given.get("src") or given.get("href")
        ):
            self.loads.append(given.get("src") or given.get("href"))
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and given["href"].startswith("#"):
            self.inner.append(given["href"][1:])
        if tag == "img":
            assert given["alt"]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open and "script" not in self.open:
            self.text += text


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert parsed.loads
    assert all(address.startswith("data:") for address in parsed.loads)
    assert "@import" not in page
    assert not re.search(r"url\(\s*['\"]?http", page)
    assert parsed.open == []


def test_links_inside_the_page_lead_somewhere(page):
    parsed = Page(page)
    assert set(parsed.inner) <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_every_warning_is_in_the_page_and_counted_at_the_top(page, paths):
    laws = json.loads(paths["laws"].read_text())
    found = list(laws["warnings"])
    for entry in laws["laws"].values():
        for law in entry.values():
            found += law["warnings"]
    found += json.loads(paths["findings"].read_text())["warnings"]
    for text in found:
        assert html.escape(text) in page
    assert f"{len(set(found))} warnings" in Page(page).text


def test_words_come_before_figures(page):
    assert page.index("The best CLM size grows as") < page.index("<figure")
    assert page.index("warnings</a>") < page.index("<figure")


def test_side_findings_are_told_with_their_interval(page):
    text = Page(page).text
    assert "raises the loss by 0.031 nats per token" in text
    assert "seed noise unknown and not included" in text


def test_runs_that_diverged_are_shown_with_the_reason(page):
    text = Page(page).text
    assert "loss is nan at step 12" in text
    assert "status is diverged" in text


def test_text_from_files_is_escaped(page):
    assert "the minimum is &lt;shallow&gt;" in page


def test_exponents_are_raised_and_text_is_escaped():
    assert str(raised("a < C^−0.58, C^0.4.")) == "a &lt; C<sup>−0.58</sup>, C<sup>0.4</sup>."


def test_the_same_input_gives_the_same_page(paths, page, tmp_path):
    assert write(paths, tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_page_needs_only_runs_and_laws(paths, tmp_path):
    (tmp_path / "laws.json").write_text('{"schema": 1, "laws": {}, "warnings": ["too few runs"]}')
    nothing = dict.fromkeys(["findings", "figures", "corpus", "study", "metrics"])
    out = tmp_path / "report.html"
    assert write(paths, out, laws=tmp_path / "laws.json", **nothing) == 0
    text = Page(out.read_text(encoding="utf-8")).text
    assert "No law could be fitted for CLM" in text
    assert "too few runs" in text


def test_an_unresolved_law_is_told_as_such(paths, tmp_path):
    laws = laws_json(read_runs(paths["runs"]))
    laws["laws"]["mlm"]["isoflop_parabola"]["ci95"]["N_opt"]["a"] = [None, None]
    (tmp_path / "laws.json").write_text(json.dumps(laws))
    assert write(paths, tmp_path / "r.html", laws=tmp_path / "laws.json") == 0
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "How the best MLM size grows with compute is not resolved" in text


def test_the_laws_and_findings_that_plmscale_writes_are_understood(paths, tmp_path):
    from plmscale.files import write_json
    from plmscale.laws.findings import findings
    from plmscale.laws.fit import fit_laws

    runs = read_runs(paths["runs"])
    laws = fit_laws(runs, n_boot=50)
    write_json(tmp_path / "laws.json", laws)
    write_json(tmp_path / "findings.json", findings(runs))
    own = {"laws": tmp_path / "laws.json", "findings": tmp_path / "findings.json"}
    assert write(paths, tmp_path / "r.html", **own) == 0
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert re.search(r"The best CLM size grows as C0\.\d\d \(95\s% interval 0\.\d\d to", text)
    assert "instead of “mix”" in text
    assert "of it on CLM first" in text
    for warning in laws["warnings"]:
        assert warning in text


def test_runs_without_loss_or_budget_do_not_break_the_table(paths, tmp_path):
    runs = read_runs(paths["runs"]).head(3).assign(loss=float("nan"), budget=float("nan"))
    runs["status"] = "diverged"
    write_runs(pd.DataFrame(runs), tmp_path / "runs.csv")
    assert write(paths, tmp_path / "r.html", runs=tmp_path / "runs.csv") == 0


def test_a_missing_laws_file_is_one_line(paths, tmp_path, capsys):
    assert write(paths, tmp_path / "r.html", laws=tmp_path / "none.json") == 2
    assert capsys.readouterr().err == f"plmscale: error: {tmp_path / 'none.json'}: no such file\n"
    assert not (tmp_path / "r.html").exists()


def test_every_figure_has_a_place_and_its_caption_is_the_one_of_snakemakes_report():
    assert {name for _, names in GROUPS for name in names} == set(FIGURES) == set(CAPTIONS)
    for name, (title, caption) in CAPTIONS.items():
        text = (ROOT / "rules" / "report" / f"{name}.rst").read_text(encoding="utf-8")
        assert " ".join(text.split()) == f"**{title}.** {caption}", f"rules/report/{name}.rst"
