"""The folder of published weights: named, or fetched from the Hugging Face Hub; pickles are refused."""

from __future__ import annotations

from pathlib import Path

from chiasm.errors import UserError
from chiasm.progress import waiting

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


__all__ = ["CONVERT", "PICKLES", "find"]
