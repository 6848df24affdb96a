"""The files of published weights: found in a folder or fetched from the Hub, and read; pickles are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from chiasm.bundle import read_tensors
from chiasm.errors import UserError
from chiasm.progress import track, waiting

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "Unpickling runs whatever code the file holds. Convert it where you trust it: with transformers, "
    "from_pretrained(...).save_pretrained(folder, safe_serialization=True), or safetensors.torch.save_file."
)


def find(source: str | Path) -> Path:
    """The folder of that name, or a copy of the repository of the Hub that has it; UserError where there is neither."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.suffix in PICKLES:
        raise UserError(f"{source} is a pickle, which chiasm does not open", CONVERT)
    if path.exists():
        raise UserError(f"{source} is a file", "Name the folder that holds the weights and their config.json.")
    from huggingface_hub import snapshot_download

    try:
        with waiting(f"fetching {source}"):
            return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:  # no connection, no such repository, no name of one
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"There is no folder {source}, and the Hub gave none: {reason}",
            "Check the name and the connection; on a machine without one, copy the folder there first.",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", "It may be cut off; restore it from a copy.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object", "Restore it from a copy.")
    return data


def read_weights(folder: Path, *stems: str) -> dict[str, Tensor]:
    """All tensors of the first safetensors file that exists, whole or in shards; UserError where there is none.

    Positions that older files repeat as `position_ids` (0, 1, 2, ...) are left out.
    """
    for stem in stems:
        if (folder / f"{stem}.safetensors").exists():
            parts = [f"{stem}.safetensors"]
            break
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            parts = sorted(set(read_json(index).get("weight_map", {}).values()))
            break
    else:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise UserError(f"{folder} holds pickles ({', '.join(pickles)}), which chiasm does not open", CONVERT)
        raise UserError(f"{folder} holds no {stems[0]}.safetensors", CONVERT)
    tensors: dict[str, Tensor] = {}
    for part in track(parts, "reading weights", total=len(parts)):
        tensors |= read_tensors(folder / Path(part).name)  # an index from elsewhere names files of its own folder only
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
