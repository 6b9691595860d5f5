"""The registry of downstream tasks, and how their files are fetched and kept the same."""

from __future__ import annotations

import re

import downstream_data_example as example
import pytest
import yaml

from plmscale.downstream import registry
from plmscale.downstream.data import files
from plmscale.downstream.tasks import NAMES
from plmscale.errors import PlmscaleError
from plmscale.files import sha256_file

WITH_DATA = [name for name in NAMES if registry.load(name).sources]


@pytest.mark.parametrize("task", NAMES)
def test_every_task_has_an_entry_with_a_primary_metric(task):
    entry = registry.load(task)
    assert entry.task == task
    assert any(metric.primary for metric in entry.metrics)


@pytest.mark.parametrize("task", WITH_DATA)
def test_addresses_are_pinned_and_what_has_no_checksum_says_what_is_verified(task):
    for source in registry.load(task).sources.values():
        assert source.rows and source.licence and source.citation
        for file in source.files.values():
            assert file.sha256 or file.about
            for place in file.places:
                pinned = re.search(r"[0-9a-f]{40}|_v\d+\.\d+/", place)
                assert pinned and place.startswith("https://")


@pytest.mark.parametrize("task", WITH_DATA)
def test_small_files_need_no_network_and_have_checksums(task):
    assert all(file.sha256 for file in registry.source(task, "small").files.values())


@pytest.mark.skipif(not example.SMALL.is_dir(), reason=f"{example.SMALL} is not there")
@pytest.mark.parametrize("task", WITH_DATA)
def test_the_small_files_are_those_of_the_registry(task):
    for file in registry.source(task, "small").files.values():
        path = example.SMALL / file.path
        assert (path.stat().st_size, sha256_file(path)) == (file.size, file.sha256)


def test_unknown_tasks_and_sources_get_a_suggestion():
    with pytest.raises(PlmscaleError, match=r"task 'folds' is unknown; did you mean fold\?"):
        registry.load("folds")
    with pytest.raises(PlmscaleError, match="fold: no source 'fulls'; did you mean full"):
        registry.data("fold", "fulls", "x")


def test_a_task_without_data_says_so():
    with pytest.raises(PlmscaleError, match="perplexity has no data of its own"):
        registry.data("perplexity", "small", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, "titel: Extra inputs"),
        ({"task": "contacts"}, "task is 'contacts', expected 'fold'"),
        ({"metrics": []}, "metrics: .* at least 1"),
        ({"metrics": [{"name": "a", "definition": "b"}]}, "a metric must be primary"),
    ],
)
def test_a_wrong_entry_names_the_key(tmp_path, change, message):
    entry = yaml.safe_load((registry.RESOURCES / "fold.yaml").read_text())
    (tmp_path / "fold.yaml").write_text(yaml.safe_dump(entry | change))
    with pytest.raises(PlmscaleError, match=message):
        registry.load("fold", tmp_path)


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_file_may_not_leave_the_folder(tmp_path, path):
    entry = yaml.safe_load((registry.RESOURCES / "fold.yaml").read_text())
    entry["sources"]["full"]["files"]["train"]["path"] = path
    (tmp_path / "fold.yaml").write_text(yaml.safe_dump(entry))
    with pytest.raises(PlmscaleError, match=r"files\.train\.path: .*below the folder"):
        registry.load("fold", tmp_path)


def test_broken_yaml_names_the_line(tmp_path):
    (tmp_path / "fold.yaml").write_text("task: fold\ntitle: [\n")
    with pytest.raises(PlmscaleError, match=r"fold\.yaml, line \d: not valid YAML"):
        registry.load("fold", tmp_path)


def test_a_missing_file_says_where_it_is_from_and_where_it_belongs(tmp_path):
    with pytest.raises(PlmscaleError, match="no such folder"):
        registry.data("fold", "full", tmp_path / "absent")
    message = r"train-00000-of-00001\.parquet: missing; download it from https://\S+ and lay it at "
    with pytest.raises(PlmscaleError, match=message + str(tmp_path)):
        registry.data("fold", "full", tmp_path)
    with pytest.raises(PlmscaleError, match="say in which folder"):
        registry.data("fold", "full")


@pytest.fixture
def full_fold(tmp_path):
    """A source at file:// addresses: (registry, place of the files, folder for the data)."""
    rows = example.domains()
    example.full_fold(tmp_path / "server", rows)
    counts = example.fold_rows(rows, "full")
    groups = {"fold": 2, "superfamily": 3, "family": 2}
    changes = {"rows": counts, "classes": 4, "groups": groups}
    resources = example.resources(
        tmp_path / "registry", "fold", "full", tmp_path / "server", **changes
    )
    return resources, tmp_path / "server", tmp_path / "data"


def test_files_are_fetched_once_and_read_without_their_server(full_fold):
    resources, server, folder = full_fold
    assert registry.fetch("fold", "full", folder, resources) == []
    first = registry.data("fold", "full", folder, resources=resources)
    for path in server.rglob("*.parquet"):
        path.unlink()
    assert registry.fetch("fold", "full", folder, resources) == []
    assert registry.data("fold", "full", folder, resources=resources) == first
    assert not list(folder.rglob(".*"))


def test_what_came_first_is_held_on_to(full_fold):
    resources, _, folder = full_fold
    registry.fetch("fold", "full", folder, resources)
    path = folder / "fold/valid-00000-of-00001.parquet"
    before = sha256_file(path)
    example.write_parquet(path, {"seq": ["MKV"] * 3, "label": [0, 1, 2]})
    message = f"valid.*SHA-256 is {sha256_file(path)}, but was {before} the first time"
    with pytest.raises(PlmscaleError, match=message):
        registry.data("fold", "full", folder, resources=resources)
    # Told to, the new file is taken.
    (folder / "fold-full.lock.json").unlink()
    assert registry.data("fold", "full", folder, resources=resources).split("valid")


def test_a_source_that_changed_after_the_first_time_is_refused_by_fetch(full_fold):
    resources, server, folder = full_fold
    registry.fetch("fold", "full", folder, resources)
    name = "fold/valid-00000-of-00001.parquet"
    (folder / name).unlink()
    example.write_parquet(server / name, {"seq": ["MKV"] * 3, "label": [0, 1, 2]})
    with pytest.raises(PlmscaleError, match=r"fold \(full\): .*SHA-256 is .*, expected"):
        registry.fetch("fold", "full", folder, resources)
    assert not (folder / name).exists()


def test_a_gone_address_says_how_to_lay_the_file_by_hand_and_then_takes_it(full_fold):
    resources, server, folder = full_fold
    name = "fold/train-00000-of-00001.parquet"
    (server / name).rename(server / "elsewhere.parquet")
    with pytest.raises(
        PlmscaleError, match=f"no such file; download it from .* lay it at .*{name}"
    ):
        registry.fetch("fold", "full", folder, resources)
    (folder / "fold").mkdir(exist_ok=True)
    (server / "elsewhere.parquet").rename(folder / name)
    registry.fetch("fold", "full", folder, resources)
    assert registry.data("fold", "full", folder, resources=resources).split("train")


def test_an_optional_file_may_be_absent(full_fold):
    resources, server, folder = full_fold
    (server / "fold/test_family.txt").unlink()
    notes = registry.fetch("fold", "full", folder, resources)
    assert len(notes) == 1 and notes[0].startswith("test_family.txt could not be fetched")
    data = registry.data("fold", "full", folder, resources=resources)
    assert any("levels of the test set" in note and "not known" in note for note in data.notes)


def test_a_known_checksum_is_demanded(full_fold):
    resources, server, folder = full_fold
    entry = yaml.safe_load((resources / "fold.yaml").read_text())
    file = entry["sources"]["full"]["files"]["test"]
    file["sha256"] = "0" * 64
    (resources / "fold.yaml").write_text(yaml.safe_dump(entry))
    with pytest.raises(PlmscaleError, match=f"SHA-256 is .*, expected {'0' * 64}"):
        registry.fetch("fold", "full", folder, resources)
    # The same where the file was laid there by hand, and for its size.
    (server / "fold").rename(folder / "by_hand")
    (folder / "fold").rename(folder / "old")
    (folder / "by_hand").rename(folder / "fold")
    with pytest.raises(PlmscaleError, match=r"test-\S+ SHA-256 is .*, expected 0000"):
        registry.data("fold", "full", folder, resources=resources)
    file["size"] = 7
    (resources / "fold.yaml").write_text(yaml.safe_dump(entry))
    with pytest.raises(PlmscaleError, match=r"test-\S+ has [\d,]+ bytes, expected 7"):
        registry.data("fold", "full", folder, resources=resources)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(full_fold, monkeypatch):
    resources, server, _ = full_fold

    def refuse(path, value):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "write_json", refuse)
    data = registry.data("fold", "full", server, resources=resources)
    assert any("no checksums were kept" in note for note in data.notes)


def test_a_damaged_lock_is_named(full_fold):
    resources, server, _ = full_fold
    (server / "fold-full.lock.json").write_text("[1]")
    with pytest.raises(PlmscaleError, match=r"fold-full\.lock\.json: expected an object"):
        registry.data("fold", "full", server, resources=resources)


def test_other_rows_name_split_expected_and_found(full_fold):
    resources, server, _ = full_fold
    path = server / "fold/valid-00000-of-00001.parquet"
    example.write_parquet(path, {"seq": ["MKV"] * 4, "label": [0, 1, 2, 3]})
    with pytest.raises(PlmscaleError, match="fold: valid has 4 rows, expected 3"):
        registry.data("fold", "full", server, resources=resources)


def test_an_unknown_form_is_an_error(full_fold):
    resources, server, _ = full_fold
    changed = (resources / "fold.yaml").read_text().replace("tape-parquet", "tape-parket")
    (resources / "fold.yaml").write_text(changed)
    with pytest.raises(
        PlmscaleError, match="form 'tape-parket' has no reader; did you mean tape-p"
    ):
        registry.data("fold", "full", server, resources=resources)


def test_a_limit_draws_from_each_split_and_group_by_seed(full_fold):
    resources, server, _ = full_fold

    def drawn(limit, seed=0):
        data = registry.data("fold", "full", server, limit, seed, resources=resources)
        return [e.id for e in data.examples], data

    whole, data = drawn(100)
    assert whole == [
        e.id for e in registry.data("fold", "full", server, resources=resources).examples
    ]
    two, data = drawn(2)
    sizes = {}
    for e in data.examples:
        sizes[e.split, e.group] = sizes.get((e.split, e.group), 0) + 1
    assert sizes == {("train", ""): 2, ("valid", ""): 2, ("test", "fold"): 2,
                     ("test", "superfamily"): 2, ("test", "family"): 2}  # fmt: skip
    assert two == drawn(2)[0] != drawn(2, seed=1)[0]
    assert set(drawn(1)[0]) < set(two) < set(drawn(5)[0]) < set(whole)
    assert "at most 2 examples of each split and group, drawn by seed 0" in data.notes
    with pytest.raises(PlmscaleError, match="limit is 0, expected at least 1"):
        drawn(0)


def test_groups_take_a_part_and_an_unknown_one_is_told(full_fold):
    resources, server, _ = full_fold
    data = registry.data("fold", "full", server, groups=["family"], resources=resources)
    assert {(e.split, e.group) for e in data.examples} == {("test", "family")}
    with pytest.raises(PlmscaleError, match="fold: no group 'familly'; did you mean family"):
        registry.data("fold", "full", server, groups=["familly"], resources=resources)


def test_a_file_that_could_not_be_read_is_not_held_on_to(full_fold):
    resources, server, _ = full_fold
    path = server / "fold/valid-00000-of-00001.parquet"
    right = path.read_bytes()
    example.write_parquet(path, {"seq": ["MKV"], "label": [0]})
    with pytest.raises(PlmscaleError, match="valid has 1 rows, expected 3"):
        registry.data("fold", "full", server, resources=resources)
    path.write_bytes(right)
    assert registry.data("fold", "full", server, resources=resources).split("valid")
