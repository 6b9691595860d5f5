"""Where a model of Hugging Face's format lies, and whether it may be used: its files, its code.

Nothing is ever unpickled: weights are safetensors or the model is refused. Python files that come
with a model run only where the user said so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.files import fingerprint, read_json, sha256_file

_DATA = ("*.json", "*.safetensors", "*.txt", "*.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What decides a model's numbers, besides its weights: shape, tokens, and code of its own.
_DECIDES = ("config.json", "*token*.json", "vocab*", "merges.txt", "*.model", "*.py")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Place:
    """A model's folder. label: what messages call it; origin: hub or folder."""

    folder: Path
    label: str
    name: str
    origin: str

    @property
    def config(self) -> dict[str, Any]:
        config = read_json(self.folder / "config.json")
        if not isinstance(config, dict):
            raise PlmscaleError(f"{self.label}: config.json is no object; the folder is damaged")
        return config


def find(where: str | Path, download: bool, remote_code: bool) -> Place:
    """Return where `where` lies: a folder, or `hf:ID[@REVISION]` in this machine's hub cache.

    download: fetch what the cache lacks. Raises PlmscaleError that says what to do for a model that
    is gated, not there, or not in the cache.
    """
    text = str(where)
    if not text.startswith("hf:"):
        folder = Path(where)
        return Place(folder, text, folder.resolve().name, "folder")
    identity, _, revision = text.removeprefix("hf:").partition("@")
    if not identity or identity.count("/") > 1:
        raise PlmscaleError(f"{text}: write a hub model as hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    patterns = [*_DATA, *(["*.py"] if remote_code else [])]
    folder = _snapshot(text, identity, revision or None, patterns, download)
    name = identity.rpartition("/")[2] + (f"@{revision.replace('/', '-')}" if revision else "")
    return Place(Path(folder), text, name, "hub")


def _snapshot(
    label: str, identity: str, revision: str | None, patterns: list[str], download: bool
) -> str:
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise PlmscaleError(
            f"{label}: needs huggingface_hub; install it (pip install transformers)"
        ) from None
    try:
        return hub.snapshot_download(
            identity,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=not download,
        )
    except errors.GatedRepoError:
        reason = (
            f"is gated; accept its terms at https://huggingface.co/{identity} and log in on this "
            "machine (hf auth login)"
        )
    except errors.RevisionNotFoundError:
        reason = f"has no revision {revision!r}; look at https://huggingface.co/{identity}"
    except errors.RepositoryNotFoundError:
        reason = "is not on the hub, or private; check the name, or log in (hf auth login)"
    except errors.HFValidationError:
        reason = "is no name of a hub model; write hf:OWNER/NAME"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        if download:
            reason = (
                "is not in this machine's cache and the hub cannot be reached; fetch it where there "
                f"is internet (hf download {identity}) and copy the cache, or give its folder"
            )
        else:
            reason = (
                "is not in this machine's cache; allow the download, fetch it beforehand (hf "
                f"download {identity}), or give its folder"
            )
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:
        reason = f"cannot be fetched ({' '.join(str(error).split())[:200]}); try again later"
    raise PlmscaleError(f"{label}: {reason}")


def weight_files(place: Place) -> list[Path]:
    """Return the safetensors files of a model; PlmscaleError where it has none, or not all."""
    folder = place.folder
    index = folder / _INDEX
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
        except (KeyError, TypeError, AttributeError):
            raise PlmscaleError(f"{place.label}: {_INDEX} is damaged; fetch it again") from None
    else:
        names = ["model.safetensors"]
    if not index.is_file() and not (folder / names[0]).is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles or place.origin == "hub":
            found = f"only {pickles[0]}" if pickles else "no safetensors file"
            raise PlmscaleError(
                f"{place.label}: has {found}, and pickled weights are never opened; many models have "
                "a revision with safetensors (hf:ID@refs/pr/N, listed on the hub under Community)"
            )
        raise PlmscaleError(
            f"{place.label}: no weights (model.safetensors); is it a model's folder?"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise PlmscaleError(
            f"{place.label}: {missing[0]} is missing, the model is not complete; fetch it again"
        )
    return [folder / name for name in names]


def weights_digest(place: Place) -> str:
    """Return one SHA-256 for the weights, the config, the tokenizer and the model's own code."""
    files = {path.name: path for path in weight_files(place)}
    return fingerprint({name: sha256_file(path) for name, path in files.items()} | _rest(place))


def shape_digest(place: Place) -> str:
    """The same without the weights, for a twin."""
    return fingerprint(_rest(place))


def _rest(place: Place) -> dict[str, str]:
    files = {path for pattern in _DECIDES for path in place.folder.glob(pattern) if path.is_file()}
    return {path.name: sha256_file(path) for path in sorted(files)}
