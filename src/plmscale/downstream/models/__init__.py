"""Protein models of any origin behind one interface."""

from __future__ import annotations

from pathlib import Path

from plmscale.downstream.models.adapter import Adapter, Encoded
from plmscale.errors import PlmscaleError
from plmscale.files import read_json

__all__ = ["Adapter", "Encoded", "open"]

HUB = "hf:"


def open(
    where: str | Path,
    name: str | None = None,
    use: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    twin_seed: int | None = None,
    *,
    download: bool = False,
    remote_code: bool = False,
) -> Adapter:
    """Open a protein model.

    where: the folder of a run of plmscale, a folder in Hugging Face's format, or `hf:ID` or
    `hf:ID@REVISION` of the Hugging Face hub. name: what tables call it. use: clm or mlm, where the
    model can be both. device: cpu, cuda or auto. dtype: fp32, bf16 or auto (bf16 on a GPU).
    twin_seed: not the model but its random-weight twin. download: whether a hub model may be
    fetched; otherwise it must be in this machine's cache. remote_code: whether Python files that
    come with the model may run.

    Raises PlmscaleError where there is no such model, where it is none that can be used here, or
    not as what was asked.
    """
    if use not in (None, "clm", "mlm"):
        raise PlmscaleError(f"a model is used as clm or mlm, not as {use!r}")
    if dtype not in ("auto", "fp32", "bf16"):
        raise PlmscaleError(f"dtype {dtype!r}: allowed are auto, fp32 and bf16")
    if str(where).startswith(HUB):
        from plmscale.downstream.models.hub import open_hub

        return open_hub(
            str(where),
            name,
            use,
            device,
            dtype,
            twin_seed,
            download=download,
            remote_code=remote_code,
        )
    folder = Path(where)
    if not folder.is_dir():
        raise PlmscaleError(
            f"{where}: no such folder; give a run, a folder in Hugging Face's format, or hf:ID"
        )
    config = read_json(folder / "config.json")
    if isinstance(config, dict) and "architecture" in config:
        from plmscale.downstream.models.run import open_run

        return open_run(folder, name, use, device, dtype, twin_seed)
    from plmscale.downstream.models.hub import open_hub

    return open_hub(folder, name, use, device, dtype, twin_seed, remote_code=remote_code)
