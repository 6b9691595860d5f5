"""Metrics of the registry are those that the tasks write."""

from __future__ import annotations

import downstream_data_example as example
import pytest

from plmscale.downstream import registry, tasks
from plmscale.downstream.contacts.metrics import FRACTIONS, LENGTHS, RANGES
from plmscale.downstream.fitness.summary import METRICS


def named(task):
    """{metric: its option's default and alternatives, where it has one option alone}."""
    found = {}
    for metric in registry.load(task).metrics:
        options = list(metric.options.values())
        one = options[0] if len(options) == 1 else None
        found[metric.name] = {one.default, *one.alternatives} if one else set()
    return found


def test_metrics_of_contacts_and_fitness_are_those_that_the_tasks_write():
    assert set(named("contacts")) == {f"P@{part}" for part in FRACTIONS}
    for metric in registry.load("contacts").metrics:
        separation, length = metric.options["separation"], metric.options["length"]
        assert (separation.default, *separation.alternatives) == tuple(RANGES)
        assert (length.default, *length.alternatives) == LENGTHS
    assert tuple(named("fitness")) == METRICS


def supervised(tmp_path, task):
    """Made-up data of a supervised task, and its simplest baseline."""
    if task == "fold":
        rows = example.domains()
        example.small_fold(tmp_path / "small", rows)
        return example.read(tmp_path, task, "small", rows={}, classes=4), "majority"
    if task == "fluorescence":
        near = ["", "SK1R", "SE3V", "SE4G", "SL5P"]
        far = ["SK1R:SE3V:SE4G:SL5P", "SK1R:SE3V:SE4G:SK24R", "SK1R:SE3V:SE4G:SL5P:SK24R"]
        far += ["SK1R:SE3V:SE4G:SE30V:SK24R"]
        values = [3.7, 3.6, 3.5, 3.4, 3.3, 3.6, 1.4, 1.3, 3.5]
        lines = [f"{name}\t{value}" for name, value in zip(near + far, values, strict=True)]
        text = "\n".join(["aaMutations\tmedianBrightness", *lines])
        name = "small/gfp/amino_acid_genotypes_to_brightness.tsv.gz"
        example.write_gzip(tmp_path / name, text)
        return example.read(tmp_path, task, "small", rows={}), "mutations"
    example.write_flip(tmp_path / "small", example.flip(example.FLIP_RECORDS))
    return example.read(tmp_path, task, "small", rows={}), "majority"


@pytest.mark.parametrize("task", ["fold", "fluorescence", "secondary_structure"])
def test_metrics_and_definitions_are_those_that_a_task_writes(tmp_path, task):
    data, baseline = supervised(tmp_path, task)
    chosen = tasks.task(task)
    options = chosen.options()
    made = chosen.predict(data, None, f"baseline:{baseline}", 0, options, None)
    metrics = list(chosen.score(made, options))
    entry = {metric.name: metric for metric in registry.load(task).metrics}
    assert {m.metric for m in metrics} == set(entry)
    assert {m.metric for m in metrics if m.primary} == {n for n, m in entry.items() if m.primary}
    for name, definitions in named(task).items():
        if definitions:
            assert {m.definition for m in metrics if m.metric == name} == definitions
