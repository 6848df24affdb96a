"""The peers' own environment, made once: their packages need a torchvision, which asks for another torch than ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch==2.14.1", "torchvision==0.29.1", "open_clip_torch==3.3.0", "transformers==5.23.0")
EXTRAS = {"flamingo_pytorch": "flamingo-pytorch==0.1.2"}


def enter_peers(*modules: str) -> None:
    """Go on in the peers' environment (`.venv-peers`), where chiasm is installed too, so that both sides share a torch.

    `modules` are further peers, by the names that they are imported by.
    """
    folder = ROOT / ".venv-peers"
    if Path(sys.prefix) == folder:
        return
    python = folder / "bin" / "python"
    wanted = [*PACKAGES, *(EXTRAS[name] for name in modules)]
    listing = folder / "installed.txt"
    if not set(wanted) <= set(listing.read_text().split() if listing.exists() else ()):
        print(f"installing peers into {folder}: {', '.join(wanted)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted, "-e", f"{ROOT}[search]"], check=True)
        listing.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    os.execv(python, [python, *sys.argv])


__all__ = ["enter_peers"]
