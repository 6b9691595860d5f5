"""Choosing a layout: what fits, what is kept, and what the errors say."""

import math

import pytest
from training_fixtures import launch, make_corpus, make_recipe, metrics, write_run

from plmscale import memory, resources
from plmscale.architecture import PAPER_SIZES, Architecture
from plmscale.errors import PlmscaleError

H100 = 80e9


def choose(size, world, device_bytes=H100, rows=512, **more):
    more = {"device": "cuda", "precision": "bf16", **more}
    return memory.choose(PAPER_SIZES[size], 1024, rows, world, device_bytes, **more)


def test_the_total_is_the_sum_of_its_parts():
    found = memory.predict(
        PAPER_SIZES["85M"], 1024, 16, 8, 1, False, device="cuda", precision="bf16"
    )
    parts = found.to_dict()
    total = parts.pop("total")
    assert total == sum(parts.values()) == found.total and min(parts.values()) > 0


def test_states_of_a_size_counted_by_hand():
    n = PAPER_SIZES["1.2B"].n_params + 128 * 2048
    for stage, bytes_each in ((1, 2 + 4 + 12 / 8), (2, 2 + 16 / 8), (3, 18 / 8)):
        found = memory.predict(
            PAPER_SIZES["1.2B"], 1024, 1, 8, stage, False, device="cuda", precision="bf16"
        )
        assert found.weights + found.gradients + found.optimizer == pytest.approx(n * bytes_each)


@pytest.mark.parametrize("size", ["3M", "85M", "470M", "1.2B", "2.8B", "6B", "7B", "10B"])
@pytest.mark.parametrize("world", [8, 16, 32, 56])
def test_a_layout_fits_and_covers_the_batch(size, world):
    found = choose(size, world)
    assert found.memory.total <= 0.92 * H100
    rows = world * found.micro_rows * found.accumulation
    assert rows >= 512
    # No device has a micro batch too many.
    assert world * found.micro_rows * (found.accumulation - 1) < 512


def test_larger_models_climb_the_stages_and_smaller_ones_never_checkpoint():
    stages = [choose(size, 8).zero_stage for size in ("85M", "2.8B", "7B", "10B")]
    assert stages == sorted(stages) and stages[:2] == [1, 1] and stages[-1] > 1
    assert not any(choose(size, 8).checkpointing for size in ("85M", "470M", "1.2B", "2.8B"))
    # Beside 10 B at stage 1 there is no room for two rows unless activations are computed again.
    assert choose("10B", 32).checkpointing and choose("10B", 32).zero_stage == 1
    whole = choose("7B", 8, 3 * H100)
    assert whole.zero_stage == 1 and not whole.checkpointing


def test_more_memory_never_means_smaller_micro_batches_at_the_same_stage():
    found = [choose("2.8B", 8, gb * 1e9) for gb in (80, 96, 128, 192, 400)]
    assert {(f.zero_stage, f.checkpointing) for f in found} == {(1, False)}
    rows = [f.micro_rows for f in found]
    assert rows == sorted(rows) and rows[-1] == 16


def test_what_is_given_is_kept():
    found = choose("85M", 8, zero_stage=3, micro_rows=5, checkpointing=True)
    assert (found.zero_stage, found.micro_rows, found.checkpointing) == (3, 5, True)
    assert found.accumulation == math.ceil(64 / 5)


def test_what_does_not_fit_says_how_much_and_how_many_devices():
    with pytest.raises(PlmscaleError, match=r"10B .* needs 19\d\.\d GB on each of 1") as caught:
        choose("10B", 1)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert choose("10B", least).memory.total <= 0.92 * H100
    with pytest.raises(PlmscaleError, match=f"at least {least}"):
        choose("10B", least - 1)
    with pytest.raises(PlmscaleError, match="no number of such devices"):
        choose("10B", 8, 1e9)
    with pytest.raises(PlmscaleError, match="zero_stage: 4; allowed: 1, 2, 3"):
        choose("85M", 8, zero_stage=4)


def test_a_cpu_takes_what_its_cache_holds():
    tiny = Architecture("x", 1, 16, 1, 42)
    for context, rows, expected in ((64, 4, 4), (1024, 16, 8), (512, 24, 12), (16384, 8, 1)):
        found = memory.choose(tiny, context, rows, 1, math.inf, device="cpu", precision="fp32")
        assert found.micro_rows == expected and found.accumulation * expected == rows
        assert found.zero_stage == 1 and not found.checkpointing


def test_memory_of_a_recipe_grows_with_its_size_and_covers_both_precisions():
    small = make_recipe()
    large = make_recipe(architecture={"n_layers": 12, "d_model": 768, "n_heads": 12, "d_ff": 2048})
    assert 700 < resources.memory_mb(small) < 710
    # 20 bytes a parameter at least.
    assert resources.memory_mb(large) > 700 + 20 * large["n_params"] / 1e6
    each = [resources.memory_mb({**large, "precision": p}) for p in ("bf16", "fp32")]
    assert resources.memory_mb(large) == max(each)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_peak_memory_of_a_real_run(world, tmp_path):
    shape = {**PAPER_SIZES["25M"].to_dict(), "vocab_size": 32}
    recipe = make_recipe(
        architecture=shape, context=256, batch_rows=4 * world, steps=2, precision="fp32"
    )
    run_dir = write_run(tmp_path, recipe)
    corpus = make_corpus(tmp_path / "corpus", mean_length=200)
    done = launch(run_dir, corpus, "--devices", str(world), "--threads", "1", "--warm", "never")
    assert done.returncode == 0, done.stderr
    arch = Architecture.from_dict(recipe["architecture"])
    found = memory.choose(arch, 256, 4 * world, world, math.inf, device="cpu", precision="fp32")
    peak = metrics(run_dir)["peak_memory_bytes"] / 1e6
    assert peak == pytest.approx(resources.rank_mb(found.memory), rel=0.15)
