"""Shares of the peak, packing, GPUs and hours of a run, disk: against closed forms."""

from dataclasses import replace

import pytest

from plmscale import grid, study
from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.errors import PlmscaleError
from plmscale.files import write_json
from plmscale.memory.layout import USABLE
from plmscale.planning import packing
from plmscale.planning.machine import Wishes, machine
from plmscale.planning.rates import ASSUMED, Rates, rates, read_table
from plmscale.planning.simulate import simulate
from plmscale.planning.sizing import CLUSTER_TOKENS, START_HOURS, Sizer, chained_jobs
from plmscale.planning.storage import all_parameters, corpus_bytes, storage
from plmscale.planning.work import to_jobs, with_ancestors, work

SMOKE = study.PROJECT / "studies/smoke.yaml"
CHENG = study.PROJECT / "studies/cheng2024.yaml"
FLAT = Rates({1.0: 0.4}, "given", {})


@pytest.fixture(scope="module")
def cheng():
    loaded = study.load(CHENG)
    return loaded, grid.expand(loaded)


@pytest.fixture
def smoke(tmp_path):
    return study.load(SMOKE, {"results": str(tmp_path)})


def recipe(size="470M", tokens=4e9, **changes):
    arch = PAPER_SIZES[size]
    rows = 1024 if arch.n_params >= 1e9 else 512
    steps = round(tokens / (rows * 1024))
    tokens = steps * rows * 1024
    found = {
        "run_id": f"clm-{size}", "architecture": arch.to_dict(), "n_params": arch.n_params,
        "context": 1024, "batch_rows": rows, "steps": steps, "tokens": tokens, "precision": "bf16",
        "objective": "clm", "flops": arch.flops_per_token(1024) * tokens,
        "validation": {"rows": 3072, "evaluations": 20, "curve_rows": 256, "seed": 7},
    }  # fmt: skip
    return found | changes


def sizer(gpu="H100", gpus=64, per_node=8, shares=FLAT, **wishes):
    execution = study.load(SMOKE).execution
    return Sizer(machine(gpu, gpus, per_node), Wishes(**wishes), shares, execution)


def test_hours_are_flops_over_the_share_of_the_peak():
    asked = recipe("470M", 4e9)
    found = sizer(devices=4)(asked)
    arch = PAPER_SIZES["470M"]
    n, layers, d = arch.n_params, arch.n_layers, arch.d_model
    token = 6 * n + 12 * layers * d * 1024 + 6 * 128 * d
    # 19 validations of 256 rows and one of 3,072, forward alone.
    validated = (19 * 256 + 3072) * 1024 / 3
    seconds = token * (asked["tokens"] + validated) / (4 * 0.4 * 989e12)
    assert not found.layout.checkpointing and found.place == "4"
    assert found.hours == pytest.approx(seconds / 3600 + START_HOURS)
    assert found.gpu_hours == pytest.approx(4 * found.hours)
    mixed = sizer(devices=4)(recipe("470M", 4e9, objective="mixed"))
    again = token * validated / (4 * 0.4 * 989e12) / 3600
    assert mixed.hours - found.hours == pytest.approx(again)


def test_recomputing_activations_costs_a_third():
    plain, again = (
        Sizer(
            machine("H100", 8),
            Wishes(devices=8),
            FLAT,
            study.load(SMOKE, {"execution": {"activation_checkpointing": asked}}).execution,
        )(recipe("470M", 2e11))
        for asked in ("off", "on")
    )
    assert again.layout.checkpointing and not plain.layout.checkpointing
    assert again.hours / plain.hours == pytest.approx(4 / 3, rel=1e-3)


def test_a_run_takes_the_fewest_gpus_that_end_it_in_time(cheng):
    loaded, runs = cheng
    shares = Rates(ASSUMED, "assumed", {})
    auto = Sizer(machine("H100", 64), Wishes(), shares, loaded.execution)
    late = 0
    for run in runs:
        found = auto(run.recipe)
        if found.hours > 24:
            # Nothing faster was to be had: all GPUs, or as many as its batch keeps busy.
            late += 1
            rows, context = run.recipe["batch_rows"], run.recipe["context"]
            assert found.gpus == 64 or rows * context / (2 * found.gpus) < CLUSTER_TOKENS
        elif found.gpus > 1:
            fewer = Wishes(devices=found.gpus // 2)
            try:
                half = Sizer(machine("H100", 64), fewer, shares, loaded.execution)(run.recipe)
            except PlmscaleError as error:
                assert "needs" in str(error)
            else:
                assert half.hours > 24
        elif found.slots == 1 and packing.slots(run.recipe["n_params"]) > 1:
            # One of two on the GPU would have been too slow.
            assert (found.hours - START_HOURS) * 2 * found.share > 24 * packing.packed_share(
                found.share, 2
            )
        assert found.layout.memory.total <= USABLE * 80e9
    assert 0 < late < len(runs) / 10


def test_a_small_run_gets_its_part_of_a_shared_gpu():
    alone, shared = (sizer(packing=p)(recipe("6M", 1e9)) for p in (False, True))
    assert (alone.slots, shared.slots, shared.place) == (1, 8, "1/8")
    share = packing.packed_share(0.4, 8)
    slower = (shared.hours - START_HOURS) / (alone.hours - START_HOURS)
    assert slower == pytest.approx(8 * 0.4 / share)


def test_slots_fall_with_size_and_with_memory():
    assert [packing.slots(n) for n in (3e6, 13e6, 85e6, 154e6)] == [8, 4, 2, 1]
    sizes = sorted(a.n_params for a in PAPER_SIZES.values())
    assert [packing.slots(n) for n in sizes] == sorted(map(packing.slots, sizes), reverse=True)
    # 8 x (2 + 1.5) GB do not fit 24 GB, 4 x 3.5 do.
    assert packing.slots(3e6, 2e9, 24e9) == 4 and packing.slots(3e6, 2e9, 80e9) == 8


def test_packs_add_up_and_never_compute_less_than_one_run():
    for alone in (0.02, 0.1, 0.39, 0.45):
        shares = [packing.packed_share(alone, k) for k in (1, 2, 4, 8)]
        assert shares[0] == alone and shares == sorted(shares) and shares[-1] <= max(alone, 0.4)
    assert packing.packed_share(0.05, 4) == pytest.approx(0.05 * 1.4 * 1.4)


def test_long_runs_go_on_in_a_chain_of_jobs():
    assert [chained_jobs(h, None) for h in (1, 1000)] == [1, 1]
    useful = 24 - START_HOURS
    assert [chained_jobs(h, 24) for h in (useful, useful * 1.001, 3 * useful)] == [1, 2, 3]
    asked = recipe("470M", 2e11)
    plain, chained = sizer(devices=1)(asked), sizer(devices=1, walltime=24)(asked)
    assert chained.jobs > 10
    assert chained.hours - plain.hours == pytest.approx((chained.jobs - 1) * START_HOURS)
    with pytest.raises(PlmscaleError, match=r"--walltime 0\.01: a job needs"):
        chained_jobs(1, 0.01)


def test_the_share_is_a_line_in_log_n():
    found = Rates({1e6: 0.1, 1e8: 0.3}, "", {})
    assert found.share(1e7) == pytest.approx(0.2)
    assert [found.share(n) for n in (1e5, 1e6, 1e8, 1e9)] == [0.1, 0.1, 0.3, 0.3]


def finished(loaded, name, **changes):
    arch = PAPER_SIZES["470M"]
    metrics = {
        "n_params": arch.n_params, "mfu": 0.3, "flops": 12.0, "flops_6nd": 10.0, "precision": "bf16",
        "device": "NVIDIA H100 80GB HBM3", "activation_checkpointing": False,
    }  # fmt: skip
    write_json(loaded.folder / "runs" / name / "metrics.json", metrics | changes)


def test_finished_runs_on_the_same_gpu_go_before_assumptions(smoke):
    assert rates(smoke, "H100 SXM").origin == "assumed, not measured"
    finished(smoke, "a")
    # 6 N D over the peak is 0.3, with attention and head 0.36, with the repeated forward 0.48.
    finished(smoke, "b", activation_checkpointing=True)
    finished(smoke, "c", device="cpu", mfu=0.9)
    finished(smoke, "d", device="NVIDIA A100-SXM4-80GB", mfu=0.9)
    finished(smoke, "e", n_params=6e6, mfu=0.9)
    found = rates(smoke, "H100 SXM")
    n = float(PAPER_SIZES["470M"].n_params)
    assert found.measured == {n: pytest.approx((0.36 + 0.48) / 2)}
    assert found.share(n) == pytest.approx(0.42) and "measured" in found.origin
    # Beyond what was measured the assumptions stay, and small runs may have shared their GPU.
    assert found.share(1e10) == ASSUMED[1.2e9] and found.share(6e6) < 0.2
    assert 6e6 in rates(smoke, "H100 SXM", packing=False).measured


def test_a_table_of_shares_is_read_line_by_line(tmp_path, smoke):
    path = tmp_path / "mfu.tsv"
    path.write_text("N\tshare\n3e6 0.1  # small\n\n85e6,0.3\n")
    assert read_table(path) == {3e6: 0.1, 85e6: 0.3}
    assert str(path) in rates(smoke, "H100 SXM", table=path).origin
    for text, message in (
        ("N share\n", "holds no line"), ("3e6 0.1\n85e6 30\n", "line 2: N above 0 and a share"),
        ("3e6 0.1\n85e6\n", "line 2: expected N and its share"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(PlmscaleError, match=message):
            read_table(path)
    with pytest.raises(PlmscaleError, match="cannot be read"):
        read_table(tmp_path / "none")


def test_bf16_needs_a_gpu_that_has_it_and_auto_falls_back_to_fp32():
    with pytest.raises(PlmscaleError, match=r"clm-470M: .*bf16, which V100 SXM does not compute"):
        sizer("V100", 8)(recipe())
    found = sizer("V100", 8, devices=8)(recipe(precision="auto"))
    bf16 = sizer("H100", 8, devices=8)(recipe(precision="auto"))
    assert found.precision == "fp32" and bf16.precision == "bf16"
    # fp32 products run at the fp32 peak, an eighth of what tensor cores do.
    rate = (bf16.hours - START_HOURS) / (found.hours - START_HOURS)
    assert rate == pytest.approx(15.7 / 989 * (3 / 4 if found.layout.checkpointing else 1))


def test_a_run_that_fits_no_gpu_is_named():
    with pytest.raises(PlmscaleError, match=r"^clm-10B: 10B .*use at least \d+ such devices"):
        sizer("RTX 4090", 8)(recipe("10B", 2e11))


def test_the_corpus_is_counted_by_what_sources_publish(cheng):
    loaded, _ = cheng
    found = corpus_bytes(loaded)
    residues = 15.2e9 + 37.8e9 + 37.7e9 + 103e9
    sequences = 54e6 + 102e6 + 208e6 + 575e6
    assert found == {"bytes": residues + 8 * sequences, "known_by": "published", "unknown": []}


def test_a_built_corpus_is_counted_in_its_manifest(smoke):
    part = {"residues": 100, "sequences": 10}
    manifest = {"sources": {"a": {"train": part, "valid": part}, "b": {"test": part}}}
    write_json(smoke.folder / "corpus" / "manifest.json", manifest)
    assert corpus_bytes(smoke) == {"bytes": 3 * 180, "known_by": "manifest", "unknown": []}


def test_disk_follows_the_schedule(cheng):
    loaded, runs = cheng
    # All two-run stretches: few GPUs, so that runs follow each other.
    on = machine("H100", 16)
    works = work(loaded, runs[:40], Sizer(on, Wishes(), FLAT, loaded.execution))
    schedule = simulate(to_jobs(works), on.nodes)
    found = storage(loaded, works, schedule)
    parameters = {w.name: all_parameters(w.run.recipe) for w in works}
    totals = []
    for moment in sorted(p.start for p in schedule.placed):
        live = [p.job.name for p in schedule.placed if p.start <= moment < p.end]
        done = [p.job.name for p in schedule.placed if p.end <= moment]
        totals.append((24 * sum(map(parameters.get, live)), 4 * sum(map(parameters.get, done))))
    corpus = found["corpus"]["bytes"]
    assert found["checkpoints_peak_bytes"] == max(checkpoints for checkpoints, _ in totals)
    assert found["peak_bytes"] == corpus + max(a + b for a, b in totals)
    assert found["weights_bytes"] == 4 * sum(parameters.values())
    assert found["end_bytes"] == corpus + found["weights_bytes"] and not found["trunks_bytes"]


def test_parameters_on_disk_count_embeddings():
    arch = Architecture("x", 2, 64, 1, 170, vocab_size=128)
    assert all_parameters({"architecture": arch.to_dict()}) == arch.n_params + 128 * 64


def on_a_gpu(loaded, runs):
    on = machine("H100", 8)
    return work(loaded, runs, Sizer(on, Wishes(), FLAT, loaded.execution))


def test_what_is_done_is_not_planned_and_a_checkpoint_counts(smoke):
    runs = grid.expand(smoke)
    write_json(smoke.folder / "runs" / runs[0].run_id / "metrics.json", {})
    steps = runs[1].recipe["steps"]
    checkpoint = smoke.folder / "checkpoints" / runs[1].run_id / f"step-{steps // 4}"
    checkpoint.mkdir(parents=True)
    found = on_a_gpu(smoke, runs)
    assert found[0].sized is None and found[0].gpu_hours_left == 0 < found[0].whole.gpu_hours
    assert found[1].left == pytest.approx(1 - (steps // 4) / steps)
    left = (found[1].sized.hours - START_HOURS) / (found[1].whole.hours - START_HOURS)
    assert left == pytest.approx(found[1].left)
    assert {job.name for job in to_jobs(found)} == {run.run_id for run in runs[1:]}


def test_children_wait_for_parents_and_bring_them_in(cheng):
    loaded, runs = cheng
    child = next(run for run in runs if run.parent)
    both = with_ancestors(loaded, [child])
    assert [run.run_id for run in both] == [child.parent, child.run_id]
    jobs = {job.name: job for job in to_jobs(on_a_gpu(loaded, both))}
    assert jobs[child.run_id].after == (child.parent,) and not jobs[child.parent].after


def test_a_shared_beginning_is_waited_for_and_saved(smoke):
    runs = [replace(run) for run in grid.expand(smoke)[:2]]
    shorter, longer = runs
    schedule = {"name": "wsd", "warmup_steps": 5, "decay_fraction": 0.25}
    for run, steps in ((shorter, 100), (longer, 300)):
        run.recipe = {**run.recipe, "schedule": schedule, "steps": steps, "parent": None}
    longer.trunk = shorter.run_id
    found = on_a_gpu(smoke, runs)
    # The shorter one leaves the constant rate at step 75, a quarter of the longer one's way.
    assert [w.left for w in found] == [1, pytest.approx(0.75)]
    jobs = to_jobs(found)
    assert jobs[1].after == (shorter.run_id,)
    disk = storage(smoke, found, simulate(jobs, [1]))
    assert disk["trunks_bytes"] == 12 * all_parameters(shorter.recipe)
    # Once the shorter one is done, its kept state is what counts.
    write_json(smoke.folder / "runs" / shorter.run_id / "metrics.json", {})
    assert [w.left for w in on_a_gpu(smoke, runs)] == [0, 1]
    (smoke.folder / "checkpoints" / shorter.run_id / "trunk" / "step-75").mkdir(parents=True)
    assert [w.left for w in on_a_gpu(smoke, runs)] == [0, pytest.approx(0.75)]
    assert not to_jobs(on_a_gpu(smoke, runs))[0].after


def test_every_node_is_counted():
    assert machine("H100", 20).nodes == [8, 8, 4] and machine("H100", 3).nodes == [3]
    assert machine("H100", 12, 6).nodes == [6, 6] and machine("H100", 12, 6).node == 6
    found = sizer(gpus=12, per_node=6, max_hours=2)(recipe("470M", 2e10))
    assert found.gpus in (6, 12)
