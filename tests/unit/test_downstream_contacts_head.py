"""The pairwise head and its training, on states whose contacts are known."""

import numpy as np
import pytest
import torch
from contacts_example import charged, protein, random_protein
from inference_fixtures import save_run, small_model

from plmscale.downstream import lora, models
from plmscale.downstream.contacts.baselines import rates, separation, separation_bin
from plmscale.downstream.contacts.head import PairHead, loss
from plmscale.downstream.contacts.metrics import count
from plmscale.downstream.contacts.pairs import known, labels, n_pairs, pair_index
from plmscale.downstream.contacts.stored import Stored
from plmscale.downstream.lora import Item, Recipe
from plmscale.downstream.store import Store

torch.set_num_threads(1)
RNG = np.random.default_rng(6)
LETTERS = "KEAGLS"
PROTEINS = [charged(RNG, int(n), f"p{n}-{k}") for k, n in enumerate(RNG.integers(30, 60, 40))]
FEW, VALID, TEST = PROTEINS[:24], PROTEINS[24:32], PROTEINS[32:]


def one_hot(proteins):
    """States that say which residue stands where, and nothing else."""
    eye = torch.eye(len(LETTERS))
    return [eye[[LETTERS.index(letter) for letter in p.sequence]] for p in proteins]


def head(seed=0, rank=8):
    return PairHead(len(LETTERS), rank, rates(FEW), seed)


def items(proteins):
    return [Item(p.sequence, p) for p in proteins]


class Letters(Stored):
    """A stored model whose states are one-hot letters."""

    def __init__(self, proteins):
        model = models.adapter.ModelInfo("letters", "mlm", "folder", 1, 0, 6, 1, 1, "d")
        self.info, self.device, self.dtype = model, torch.device("cpu"), torch.float32
        self._number = {p.sequence: k for k, p in enumerate(proteins)}
        self._states = [s.numpy() for s in one_hot(proteins)]


def trained(seed=0, steps=150, found=FEW, **changes):
    made = head(seed)
    how = {"batch": 4, "every": 25, "patience": 6, "head_rate": 1e-2, **changes}
    recipe = Recipe(steps, lora_rate=1.0, lora_rank=1, lora_alpha=1, **how)
    outcome = lora.fit(Letters(PROTEINS), [], made, loss, items(found), items(VALID), recipe, seed)
    return made, outcome


def test_scores_are_the_formula():
    made = head(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    states = [torch.randn(n, len(LETTERS)) for n in (30, 24, 6, 3)]
    for state, got in zip(states, made(states), strict=True):
        normed = made.norm(state)
        q, k, u = made.query(normed), made.key(normed), made.single(normed)
        pairs = list(zip(*(part.tolist() for part in pair_index(len(state)))))
        assert len(got) == len(pairs)
        for value, (i, j) in zip(got.tolist(), pairs):
            both = (q[i] @ k[j] + q[j] @ k[i]) / 8**0.5
            apart = made.bias[int(separation_bin(np.array(j - i)))]
            assert value == pytest.approx((both + u[i, 0] + u[j, 0] + apart).item(), abs=1e-4)


def test_an_untrained_head_is_near_the_separation_baseline():
    made, scorer = head(), separation(FEW, 0)
    for p, scores in zip(TEST, made(one_hot(TEST))):
        assert np.abs(scores.detach().numpy() - scorer(p)).max() < 1.0
    with torch.no_grad():
        made.query.weight.zero_()
    for p, scores in zip(TEST, made(one_hot(TEST))):
        assert np.allclose(scores.detach().numpy(), scorer(p), atol=1e-5)


def test_the_loss_is_the_mean_over_resolved_far_pairs():
    found = [random_protein(RNG, 25), random_protein(RNG, 18), protein(5)]
    logits = [torch.randn(n_pairs(len(p))) for p in found]
    got = loss(logits, items(found))
    for row, p in enumerate(found):
        mask, touching = known(p.resolved), labels(p.contacts, len(p))
        each = [
            np.log1p(np.exp(-x if t else x))
            for x, m, t in zip(logits[row].tolist(), mask, touching)
            if m
        ]
        assert got[row].item() == pytest.approx(np.mean(each) if each else 0, abs=1e-5)


def test_a_rule_of_two_residues_is_learnt():
    made, outcome = trained()
    assert outcome.valid_loss < 0.02 < outcome.start_loss and outcome.best > 0
    found = lora.outputs(Letters(PROTEINS), made, [p.sequence for p in TEST])
    for p, scores in zip(TEST, found):
        touching = labels(p.contacts, len(p))
        assert scores[touching].min() > scores[~touching].max()
        chosen, hits, _ = count(scores, p.contacts, p.resolved)
        assert hits[0, 0, 2] == min(chosen[0, 0, 2], touching.sum())


def test_the_seed_decides_all():
    (a, one), (b, two), (c, _) = (trained(seed, 12, every=6) for seed in (0, 0, 1))
    assert one == two
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters()):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)


def test_small_parts_give_the_gradient_of_the_whole_batch():
    """However many proteins fit into memory, a step is the same."""
    whole, _ = trained(0, 10, batch=6, every=5)
    for tokens in (1, 120):
        parts, _ = trained(0, 10, batch=6, every=5, batch_tokens=tokens)
        for x, y in zip(whole.parameters(), parts.parameters()):
            assert torch.allclose(x, y, atol=1e-4)


@pytest.mark.parametrize("layer", [-1, 1])
def test_stored_states_are_those_of_the_model(tmp_path, layer):
    model = models.open(save_run(tmp_path / "run", small_model(), "mlm"))
    sequences = [p.sequence for p in TEST]
    stored = Stored(model, Store(tmp_path / "store"), [*sequences, *sequences], layer)
    # In another order, one twice, of unequal lengths.
    asked = [sequences[3], sequences[0], sequences[3], sequences[1]]
    rows, expected = stored.encode(asked), model.encode(asked)
    assert rows.residues.sum(1).tolist() == [len(s) for s in asked]
    assert torch.allclose(
        rows.of_residues(stored.hidden(rows)),
        expected.of_residues(model.hidden(expected, layer)),
        atol=1e-5,
    )
    assert stored.info == model.info


def test_a_network_can_be_trained_with_the_head(tmp_path):
    """LoRA moves what the head reads: the loss falls where the head alone is fixed."""
    model = models.open(save_run(tmp_path / "run", small_model(), "clm"))
    made = PairHead(32, 4, rates(FEW), 0)
    recipe = Recipe(
        20, batch=4, every=5, patience=4, lora_rate=1e-2, head_rate=0.0, lora_rank=4, lora_alpha=8
    )
    before = [p.detach().clone() for p in made.parameters()]
    with lora.adapted(model, 4, 8.0, 0) as adapters:
        outcome = lora.fit(model, adapters, made, loss, items(FEW), items(VALID), recipe, 0)
    assert outcome.best > 0 and outcome.valid_loss < outcome.start_loss
    # At rate 0 weight decay too is 0: the head stays.
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters()))
