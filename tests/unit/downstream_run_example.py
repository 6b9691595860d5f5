"""A made-up task and model for the tests of the workflow around tasks: counts what is computed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from plmscale.downstream import cases
from plmscale.downstream.base import Data, Example, ModelInfo, Predictions, Task
from plmscale.downstream.cases import Case
from plmscale.downstream.statistics import mean
from plmscale.errors import PlmscaleError
from plmscale.fields import Strict


class Options(Strict):
    strength: float = 1.0
    replicates: int = Field(200, ge=2)


class Model:
    """Stands where an Adapter does; a twin knows nothing, a trained one has `skill`."""

    def __init__(self, skill=0.9, kind="mlm", digest="d1", twin=False, name="m", sources=("a",)):
        self.skill, self.twinned = skill, twin
        self.info = ModelInfo(name, kind, "run", 1000, 0, 8, 2, 2, digest, twin, "key", sources)

    def twin(self, seed):
        return Model(0.5, self.info.kind, f"random{seed}", True, self.info.name)


class Made:
    """The task `fold` replaced by one whose calls are counted. fails: methods that raise.
    baselines: how often each is right."""

    def __init__(self, monkeypatch, n=200, fails=None, kinds=("clm", "mlm"), baselines=None):
        self.calls, self.scored, self.fails = [], 0, fails or {}
        self.skills = baselines or {"none": 0.5}
        examples = tuple(
            Example(f"e{i}", "ACDE", "test", i % 2, ("one", "two")[i % 2]) for i in range(n)
        )
        self.data = Data("fold", "small", examples, "sha")
        self.task = Task(
            "fold", "Made up", ("probe", "lora"), kinds, tuple(self.skills), Options, self.predict,
            self.score, lambda *a, **k: self.data, self.differences,
        )  # fmt: skip
        monkeypatch.setattr("plmscale.downstream.tasks.task", lambda name: self.task)

    def predict(self, data, model, method, seed, options, store):
        self.calls.append((model and model.info.digest, method, seed))
        if method in self.fails:
            raise self.fails[method]
        rng = np.random.default_rng(seed)
        skill = model.skill if model else self.skills[method.removeprefix("baseline:")]
        right = rng.random(len(data.examples)) < skill
        target = np.array([example.target for example in data.examples])
        table = pa.table({
            "id": [example.id for example in data.examples],
            "split": [example.split for example in data.examples],
            "group": [example.group for example in data.examples],
            "target": target,
            "prediction": np.where(right, target, 1 - target),
        })  # fmt: skip
        return Predictions(table, {"model": model and model.info.to_dict(), "method": method})

    def score(self, predictions, options):
        self.scored += 1
        return cases.metrics(self._cases(predictions), options.replicates)

    def differences(self, first, second, options):
        if first.table.num_rows != second.table.num_rows:
            raise PlmscaleError("of other examples")
        return cases.differences(self._cases(first), self._cases(second), options.replicates)

    def _cases(self, predictions):
        table = predictions.table
        ids, groups = table["id"].to_pylist(), np.array(table["group"].to_pylist())
        right = (table["target"].to_numpy() == table["prediction"].to_numpy()).astype(float)
        for group in ("", "one", "two"):
            at = np.flatnonzero((groups == group) | (group == ""))
            yield Case(
                "test", group, "accuracy", "all", mean, [ids[i] for i in at], (right[at],), len(at),
                group == "",
            )  # fmt: skip
