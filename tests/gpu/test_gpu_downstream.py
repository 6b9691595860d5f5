"""Models of downstream tasks on a GPU, against a CPU; all in fp32."""

import numpy as np
import pytest
import torch
from gpu_example import DEVICE, on_gpu, only_gpu
from hub_example import esm2, progen2, protgpt2
from inference_fixtures import SEQUENCES, save_run, small_model

from plmscale.downstream import models, scoring
from plmscale.downstream.store import Store

pytestmark = on_gpu
MAKERS = {
    "run-clm": lambda folder: save_run(folder, small_model(), "clm", context=32),
    "run-mlm": lambda folder: save_run(folder, small_model(), "mlm", context=32),
    "esm2": esm2,
    "protgpt2": lambda folder: protgpt2(folder, positions=256),
    "progen2": lambda folder: progen2(folder, n_positions=256)[0],
}


@pytest.fixture(params=MAKERS)
def both(request, tmp_path):
    folder = MAKERS[request.param](tmp_path / "model")
    return [models.open(folder, device=device, dtype="fp32") for device in ("cpu", DEVICE)]


def test_nats_and_embeddings(both):
    cpu, gpu = (scoring.residue_nats(m, SEQUENCES, masks=4) for m in both)
    for a, b in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)
    cpu, gpu = (Store().means(m, SEQUENCES) for m in both)
    np.testing.assert_allclose(gpu, cpu, atol=1e-3)
    cpu, gpu = (Store().residues(m, SEQUENCES) for m in both)
    for a, b in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-3)


def test_marginals_and_maps(both):
    if not both[0].letterwise:
        pytest.skip("its tokens are several residues each")
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 2
    how = "wt" if both[0].causal else "masked"
    cpu, gpu = (scoring.marginals(m, sequence, [0, 7, 39], how) for m in both)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        cpu, gpu = (m.attentions(m.encode([sequence, "MKV"])).cpu() for m in both)
    assert torch.allclose(gpu[0], cpu[0], atol=1e-3)


def test_twins_have_the_same_weights_on_every_device(both):
    cpu, gpu = (m.twin(3) for m in both)
    assert cpu.info == gpu.info
    for a, b in zip(cpu.module.parameters(), gpu.module.parameters(), strict=True):
        assert torch.equal(a, b.cpu())


@only_gpu
def test_auto_is_bf16_on_a_gpu(tmp_path):
    adapter = models.open(esm2(tmp_path / "model"))
    assert (adapter.device.type, adapter.dtype) == ("cuda", torch.bfloat16)
    assert np.isfinite(Store().means(adapter, SEQUENCES)).all()
