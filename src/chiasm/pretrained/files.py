"""The tensors of published weights: safetensors, whole or in shards; pickles are refused."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from chiasm.bundle import read_tensors
from chiasm.config import read_json
from chiasm.errors import UserError
from chiasm.hub import CONVERT, PICKLES
from chiasm.progress import track


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
