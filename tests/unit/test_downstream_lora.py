"""Low-rank adapters on our own transformer and on ESM-2's class."""

import numpy as np
import pytest
import torch
from hub_example import esm2
from inference_fixtures import save_run, small_model
from torch.nn.functional import cross_entropy

from plmscale.downstream import lora, models
from plmscale.downstream.probe import Readout
from plmscale.downstream.store import Store
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
WIDTH = 32
RECIPE = lora.Recipe(
    steps=60, batch=4, every=20, patience=9, lora_rate=1e-2, head_rate=1e-2, lora_rank=4,
    lora_alpha=8,
)  # fmt: skip


@pytest.fixture(params=["clm", "mlm", "esm2"])
def adapter(request, tmp_path):
    if request.param == "esm2":
        return models.open(esm2(tmp_path), dtype="fp32", device="cpu")
    folder = save_run(tmp_path, small_model(), request.param)
    return models.open(folder, device="cpu")


@pytest.fixture
def run(tmp_path):
    return models.open(save_run(tmp_path / "run", small_model(), "mlm"), device="cpu")


def blank(outputs, seed=0):
    """A readout that knows nothing."""
    rng = np.random.default_rng(seed)
    zeros, ones = np.zeros(WIDTH), np.ones(WIDTH)
    weight = 1e-3 * rng.normal(size=(WIDTH, outputs))
    return Readout(zeros, ones, weight, np.zeros(outputs), penalty=1.0)


def proteins(n=6, longest=30, seed=4):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, longest, n)
    return ["".join(rng.choice(list("ACDEFGHIKL"), length)) for length in lengths]


def coins(n=6, seed=0):
    """Proteins whose residues have classes by the toss of a coin: nothing to learn, all to recall."""
    rng = np.random.default_rng(seed)
    return [lora.Item(s, rng.integers(0, 2, len(s)), float(len(s))) for s in proteins(n)]


def nats(made, items):
    return torch.stack(
        [cross_entropy(m, torch.tensor(i.target), reduction="sum") for m, i in zip(made, items)]
    )


def squares(made, items):
    return (torch.stack(made)[:, 0] - torch.tensor([item.target for item in items])) ** 2


def values(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_only_adapters_and_head_move(adapter):
    names = set(values(adapter.module))
    before, head = values(adapter.module), lora.LinearHead(blank(2), pool=False)
    start = values(head)
    with lora.adapted(adapter, 4, 8, seed=1) as adapters:
        first = values(adapter.module)
        lora.fit(adapter, adapters, head, nats, coins(), coins(), RECIPE, seed=1)
        moved = {n for n, p in values(adapter.module).items() if not torch.equal(p, first[n])}
        held = {id(p) for p in adapters}
        # All that moved is an adapter, all adapters moved, and both attention and its output have some.
        assert moved == {n for n, p in adapter.module.named_parameters() if id(p) in held}
        assert all("lora_" in name for name in moved)
        layers = adapter.info.n_layers
        assert len(moved) == 2 * layers * len(adapter.lora_targets)
        assert sum(p.numel() for p in adapters) < sum(p.numel() for p in before.values()) / 2
    assert all(not torch.equal(p, start[n]) for n, p in values(head).items())
    # Afterwards the network is what it was, to the bit and to the name.
    assert set(values(adapter.module)) == names
    for name, value in values(adapter.module).items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in adapter.module.parameters())


def test_adapters_start_where_they_change_nothing(adapter):
    sequences, head = proteins(), lora.LinearHead(blank(3), pool=True)
    plain = lora.outputs(adapter, head, sequences)
    with lora.adapted(adapter, 4, 8, seed=1):
        for a, b in zip(plain, lora.outputs(adapter, head, sequences)):
            assert np.array_equal(a, b)


def test_head_is_the_probe_on_the_stored_embeddings(adapter):
    rng, sequences = np.random.default_rng(2), proteins()
    readout = Readout(
        rng.normal(size=WIDTH),
        1 + rng.random(WIDTH),
        rng.normal(size=(WIDTH, 3)),
        np.arange(3.0),
        1,
    )
    pooled = lora.outputs(adapter, lora.LinearHead(readout, pool=True), sequences, -1, 40)
    assert np.allclose(np.stack(pooled), readout(Store().means(adapter, sequences)), atol=1e-4)
    each = lora.outputs(adapter, lora.LinearHead(readout, pool=False), sequences, 1, 40)
    for made, states in zip(each, Store().residues(adapter, sequences, 1), strict=True):
        assert np.allclose(made, readout(states), atol=1e-4)


def test_overfits_a_tiny_set_as_no_head_alone_does(adapter):
    items, recipe = coins(4), lora.Recipe(
        steps=120, batch=4, every=40, patience=9, lora_rate=2e-2, head_rate=2e-2, lora_rank=16,
        lora_alpha=32,
    )  # fmt: skip
    head = lora.LinearHead(blank(2), pool=False)
    with lora.adapted(adapter, 16, 32, seed=1) as adapters:
        made = lora.fit(adapter, adapters, head, nats, items, items, recipe, seed=1)
    alone = lora.LinearHead(blank(2), pool=False)
    frozen = lora.fit(adapter, [], alone, nats, items, items, recipe, seed=1)
    assert made.start_loss == pytest.approx(np.log(2), abs=0.02)
    assert made.valid_loss < 0.1
    assert made.valid_loss < frozen.valid_loss / 2


def test_overfits_numbers_of_proteins(adapter):
    targets = np.random.default_rng(1).normal(size=6)
    items = [lora.Item(s, float(t)) for s, t in zip(proteins(), targets)]
    notes = []
    found = lora.tune(
        adapter, lora.LinearHead(blank(1), pool=True), squares, items, items, proteins(),
        lora.Recipe(
            steps=150, batch=6, every=50, patience=9, lora_rate=5e-3, head_rate=2e-2, lora_rank=4,
            lora_alpha=8,
        ),
        1, notes,
    )  # fmt: skip
    assert np.abs(np.array(found)[:, 0] - targets).max() < 0.2
    assert notes[0].startswith("lora: best at step 1")


def test_same_seed_same_numbers(adapter):
    def trained(seed):
        head = lora.LinearHead(blank(2), pool=False)
        return lora.tune(adapter, head, nats, coins(), coins(), proteins(), RECIPE, seed, [])

    one, again, other = trained(1), trained(1), trained(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, again))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other))


def test_the_global_generator_is_left_alone(run):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with lora.adapted(run, 4, 8, seed=1):
        pass
    assert torch.equal(torch.rand(3), expected)


def test_the_start_is_kept_where_training_only_harms(run):
    # In validation the labels are the other way round, so each step makes it worse.
    items = coins()
    valid = [lora.Item(item.sequence, 1 - item.target, item.weight) for item in items]
    head = lora.LinearHead(blank(2), pool=False)
    start = values(head)
    with lora.adapted(run, 4, 8, seed=1) as adapters:
        recipe = lora.Recipe(**{**vars(RECIPE), "every": 5, "patience": 2})
        made = lora.fit(run, adapters, head, nats, items, valid, recipe, seed=1)
        assert all(float(p.detach().abs().max()) == 0 for p in adapters if p.shape[1] == 4)
    assert (made.best, made.steps) == (0, 10)
    assert made.valid_loss == made.start_loss
    assert all(torch.equal(p, start[name]) for name, p in values(head).items())


def test_the_best_state_is_the_one_that_is_left(run):
    items, valid = coins(4), coins(4, seed=9)
    head = lora.LinearHead(blank(2), pool=False)
    with lora.adapted(run, 4, 8, seed=1) as adapters:
        made = lora.fit(run, adapters, head, nats, items, valid, RECIPE, seed=1)
        again = lora.measure(run, head, nats, valid, -1, 4096)
    assert again == pytest.approx(made.valid_loss, rel=1e-6)


def test_small_parts_of_a_batch_add_up_to_it(run):
    rng = np.random.default_rng(0)
    lengths = (40, 9, 8, 7)
    items = [
        lora.Item("".join(rng.choice(list("ACDE"), n)), rng.integers(0, 2, n), n) for n in lengths
    ]

    def head_after(batch_tokens):
        head = lora.LinearHead(blank(2), pool=False)
        recipe = lora.Recipe(
            **{**vars(RECIPE), "steps": 3, "every": 3, "batch_tokens": batch_tokens}
        )
        with lora.adapted(run, 4, 8, seed=1) as adapters:
            lora.fit(run, adapters, head, nats, items, items, recipe, seed=1)
        return head.weight.detach()

    whole = head_after(4096)
    # Parts of one protein each; the long one alone and the others together.
    for batch_tokens, sizes in ((1, [1, 1, 1, 1]), (43, [1, 3])):
        assert [len(part) for part in lora._parts(items, batch_tokens)] == sizes
        assert torch.allclose(head_after(batch_tokens), whole, atol=1e-5)


def test_proteins_come_once_before_any_comes_again():
    items = [lora.Item(s, 0) for s in proteins(7)]
    order = lora._drawn(items, 3, np.random.default_rng(0))
    drawn = [item.sequence for _ in range(7) for item in next(order)]
    for start in (0, 7, 14):
        assert sorted(drawn[start : start + 7]) == sorted(item.sequence for item in items)


def test_bad_input(run):
    head = lora.LinearHead(blank(2), pool=False)
    for items, valid in (([], coins()), (coins(), [])):
        with pytest.raises(PlmscaleError, match="no proteins to train on, or none to validate"):
            lora.fit(run, [], head, nats, items, valid, RECIPE, seed=1)
    with torch.no_grad():
        run.module.blocks[0].qkv.weight[0, 0] = torch.nan
    with pytest.raises(PlmscaleError, match="loss of LoRA is no number; try dtype fp32"):
        lora.tune(run, head, nats, coins(), coins(), proteins(), RECIPE, 1, [])
    run.lora_targets = ()
    with pytest.raises(PlmscaleError, match="no attention projections that LoRA could adapt"):
        lora.tune(run, head, nats, coins(), coins(), proteins(), RECIPE, 1, [])
