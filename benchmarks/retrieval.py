"""Scores of many pictures and captions: retrieval against the whole matrix at once, CIDEr-D against pycocoevalcap.

Retrieval ranks pictures' own captions among all, as COCO's evaluation does (five captions each). The naive side
makes the matrix of cosines, sets a picture's own apart and counts who is better; every rank must be the same. Each
measurement is a process of its own, the sides in turn; memory is its peak beyond what it held before (read from /proc,
so on Linux). Scores' bootstrap intervals are left out, since the naive side has none. CIDEr-D is of captions that are
tokens already, five references each; values must be equal to 1e-6, and the peer, if it is not installed, is left out.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _side_by_side import arguments, held_bytes, peak_bytes, report

from chiasm.metrics import caption_scores
from chiasm.metrics.retrieval import rank_items
from chiasm.progress import track

CAPTIONS_EACH = 5
WIDTH = 512
SIDES = {"retrieval": ("naive", "chiasm"), "CIDEr-D": ("pycocoevalcap", "chiasm")}


def main() -> None:
    parser = arguments(__doc__, repeat=5, repeated="measurements of each side")
    parser.add_argument("--pictures", type=int, default=5_000, help="of five captions each (default: 5000)")
    parser.add_argument("--captions", type=int, default=100_000, help="scored by CIDEr-D (default: 100000)")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "SIDE", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.toy:
        args.pictures, args.captions = 300, 500
    if args.measure:
        what, side, file = args.measure
        torch.save(measure(what, side, args.pictures if what == "retrieval" else args.captions), file)
    else:
        sizes = {"retrieval": args.pictures, "CIDEr-D": args.captions}
        rows = [row for what, size in sizes.items() for row in compare(what, size, args.repeat)]
        report("Scores of pictures and captions", rows, args.out)


def compare(what: str, size: int, repeat: int) -> list[dict[str, Any]]:
    """A row for each side, whose results must be equal."""
    sides = [side for side in SIDES[what] if side != "pycocoevalcap" or importlib.util.find_spec(side)]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    jobs = [side for _ in range(repeat) for side in sides]
    with tempfile.TemporaryDirectory() as folder:
        for side in track(jobs, what, total=len(jobs)):
            file, option = Path(folder) / "measured.pt", "--pictures" if what == "retrieval" else "--captions"
            command = [sys.executable, __file__, option, str(size), "--measure", what, side, str(file)]
            subprocess.run(command, check=True)
            runs[side].append(torch.load(file))
    first = runs[sides[0]][0]["result"]
    if not all(torch.allclose(run["result"], first, rtol=0, atol=1e-6) for own in runs.values() for run in own):
        raise SystemExit(f"{what}: the sides differ")
    medians = {side: [statistics.median(run[key] for run in runs[side]) for key in ("s", "MiB")] for side in sides}
    return [
        {"what": what, "of": size, "side": side, "s": seconds, "MiB": mib}
        | {"of its time": seconds / medians[sides[0]][0], "of its memory": mib / medians[sides[0]][1]}
        for side, (seconds, mib) in medians.items()
    ]


def measure(what: str, side: str, size: int) -> dict[str, Any]:
    """One evaluation in this process, after a small one that starts threads and loads kernels."""
    evaluate = {"naive": naive_ranks, "chiasm": chiasm_ranks if what == "retrieval" else chiasm_cider}.get(side, peer)
    draw: Callable[[int], Any] = drawn_vectors if what == "retrieval" else drawn_captions
    evaluate(*draw(20))
    inputs = draw(size)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    held, start = held_bytes(), time.perf_counter()
    result = evaluate(*inputs)
    return {"s": time.perf_counter() - start, "MiB": (peak_bytes() - held) / 2**20, "result": torch.from_numpy(result)}


def drawn_vectors(pictures: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Vectors of pictures and of captions that lie near their own, in shuffled order, and which picture each is of."""
    g = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(pictures, WIDTH, generator=g), dim=1)
    of = torch.arange(pictures).repeat_interleave(CAPTIONS_EACH)[torch.randperm(CAPTIONS_EACH * pictures, generator=g)]
    items = queries[of].add_(torch.randn(len(of), WIDTH, generator=g), alpha=0.3)
    return queries, torch.nn.functional.normalize(items, dim=1), np.arange(pictures), of.numpy()


def chiasm_ranks(queries: torch.Tensor, items: torch.Tensor, query_groups: Any, item_groups: Any) -> np.ndarray:
    return rank_items(queries, items, query_groups, item_groups).better


def naive_ranks(queries: torch.Tensor, items: torch.Tensor, query_groups: Any, item_groups: Any) -> np.ndarray:
    """The whole matrix of cosines; items that are not a query's own and score above its best own item, up to a tie."""
    cosines = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(items, dim=1).T
    own = torch.from_numpy(query_groups)[:, None] == torch.from_numpy(item_groups)
    best = cosines.where(own, -torch.inf).amax(1, keepdim=True)
    return ((cosines > best + 2e-6) & ~own).sum(1).numpy()


def drawn_captions(items: int) -> tuple[list[str], list[list[str]]]:
    """Captions of 5 to 15 words drawn as often as words are in texts (Zipf), one for each item and five to meet it."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 16, size=(items, 1 + CAPTIONS_EACH))
    words = iter(np.minimum(rng.zipf(1.3, size=int(lengths.sum())), 9_999).tolist())
    captions = [[" ".join(f"w{next(words)}" for _ in range(length)) for length in own] for own in lengths.tolist()]
    return [own[0] for own in captions], [own[1:] for own in captions]


def chiasm_cider(hypotheses: list[str], references: list[list[str]]) -> np.ndarray:
    """All of chiasm's scores, of which CIDEr-D is one."""
    return caption_scores(hypotheses, references)["cider_d"].per_item


def peer(hypotheses: list[str], references: list[list[str]]) -> np.ndarray:
    from pycocoevalcap.cider.cider import Cider

    _, per_item = Cider().compute_score(dict(enumerate(references)), {n: [h] for n, h in enumerate(hypotheses)})
    return np.asarray(per_item)


if __name__ == "__main__":
    main()
