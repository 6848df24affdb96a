"""Draws docs/performance.png out of the results: how many times as fast as a peer, and the aim, a bar for each job."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).parent
Row = dict[str, Any]
REACHED, SHORT, NO_AIM = "tab:green", "tab:orange", "tab:gray"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which rows of a results file are its bars, and how fast chiasm is by them."""

    file: str
    names: Callable[[Row], str]
    times: Callable[[Row], float]
    is_bar: Callable[[Row], bool]
    aim: Callable[[Row], float | None]
    peer: Callable[[Row], str]


DECODING_AIMS = {("greedy", 1): 3.0, ("beam 4", 1): 2.5, ("sample", 1): 3.0,
                 ("greedy", 64): 1.6, ("beam 4", 64): 2.0, ("sample", 64): 3.0}  # fmt: skip
EMBEDDING_PEERS = {"pictures, files to Parquet": "open_clip, fp32",
                   "texts": "transformers, bf16 weights, padded to the longest"}  # fmt: skip
PERCEIVER_AIMS = {"encoder, bf16, forward": 1 / 0.33, "encoder, bf16, forward + backward": 1 / 0.65}
JOBS = [
    Job(
        file="step", peer=lambda _: "open_clip",
        names=lambda row: f"step, {row['sizes']}, {row['side'].split(', ')[-1]}",
        times=lambda row: row["x open_clip"],
        is_bar=lambda row: row["side"] in ("chiasm, fp32", "chiasm, bf16"),
        aim=lambda row: 2.4 if row["side"].endswith("bf16") else None,
    ),
    Job(
        file="decoding", peer=lambda _: "transformers at its best",
        names=lambda row: f"{row['mode']}, batch {row['batch']}",
        times=lambda row: row["ratio to best"],
        is_bar=lambda row: (row["mode"], row["batch"]) in DECODING_AIMS,
        aim=lambda row: DECODING_AIMS[row["mode"], row["batch"]],
    ),
    Job(
        file="embedding", peer=lambda row: row["side"],
        names=lambda row: f"embedding {row['what']}",
        times=lambda row: row["chiasm's speed over it"],
        is_bar=lambda row: EMBEDDING_PEERS.get(row["what"]) == row["side"],
        aim=lambda row: 3.5,
    ),
    Job(
        file="loading", peer=lambda _: "the best loader",
        names=lambda row: f"loading {row['pictures']}, first epoch",
        times=lambda row: row["of the best peer"],
        is_bar=lambda row: row["side"] == "chiasm",
        aim=lambda row: 1.5,
    ),
    Job(
        file="loading", peer=lambda _: "the best loader",
        names=lambda row: f"loading {row['pictures']}, later epochs",
        times=lambda row: row["of the best peer, later"],
        is_bar=lambda row: row["side"] == "chiasm",
        aim=lambda row: 14.0 if "thumbnails" in row["pictures"] else 2.7,
    ),
    Job(
        file="perceiver", peer=lambda _: "transformers",
        names=lambda row: f"Perceiver {row['what']}",
        times=lambda row: 1 / row["of its time"],
        is_bar=lambda row: row["side"] == "chiasm" and row["what"] in PERCEIVER_AIMS,
        aim=lambda row: PERCEIVER_AIMS[row["what"]],
    ),
    Job(
        file="flamingo", peer=lambda _: "flamingo-pytorch",
        names=lambda row: f"Flamingo {row['what']}, bf16",
        times=lambda row: 1 / row["of its time"],
        is_bar=lambda row: row["side"] == "chiasm" and row["precision"] == "bf16",
        aim=lambda row: 1 / 0.8,
    ),
    Job(
        file="retrieval", peer=lambda row: "the whole matrix" if row["what"] == "retrieval" else "pycocoevalcap",
        names=lambda row: f"scores: {row['what']} of {row['of']:,}",
        times=lambda row: 1 / row["of its time"],
        is_bar=lambda row: row["side"] == "chiasm",
        aim=lambda row: 1.0 if row["what"] == "retrieval" else None,
    ),
    Job(
        file="contrastive", peer=lambda _: "open_clip",
        names=lambda row: f"InfoNCE, {row['pairs']:,} pairs, fp32",
        times=lambda row: 1 / row["of fp32"],
        is_bar=lambda row: row["side"] == "chunked fp32" and row["of fp32"] is not None,
        aim=lambda row: 1 / 0.5,
    ),
    Job(
        file="lesson", peer=lambda _: "the lesson's script",
        names=lambda row: "the lesson's job, whole",
        times=lambda row: 1 / row["of the lesson's time"],
        is_bar=lambda row: row["side"] == "chiasm",
        aim=lambda row: 5.0,
    ),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="the folder of the JSON files")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "performance.png")
    args = parser.parse_args()
    draw(bars(args.results), args.out)
    print(f"drawn      {args.out}")


def bars(results: Path) -> list[tuple[str, str, float, float | None]]:
    """Name, peer, times and aim of each bar whose results are there."""
    found = []
    for job in JOBS:
        path = results / f"{job.file}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        found += [(job.names(row), job.peer(row), job.times(row), job.aim(row)) for row in rows if job.is_bar(row)]
    return found


def draw(found: list[tuple[str, str, float, float | None]], path: Path) -> None:
    """A bar from 1, which is the peer, to how many times as fast chiasm is; a mark where it is to be."""
    figure = Figure(figsize=(10.0, 0.9 + 0.27 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    for place, (_, _, times, aim) in enumerate(found):
        color = NO_AIM if aim is None else REACHED if times >= aim else SHORT
        axes.barh(place, times - 1, left=1, color=color, height=0.7)
        end = aim if aim is not None and times < aim < 1.3 * times else times  # a number beside its mark, not under it
        axes.annotate(f"{times:.2g}", (end, place), (3 if times >= 1 else -3, 0), textcoords="offset points",
                      va="center", ha="left" if times >= 1 else "right", fontsize=8)  # fmt: skip
        if aim is not None:
            axes.plot([aim, aim], [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), [f"{name}  ({peer})" for name, peer, _, _ in found], fontsize=8)
    axes.invert_yaxis()
    ticks = [0.5, 1, 2, 4, 8, 16]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("times as fast as the peer in brackets")
    figure.suptitle("black: the aim; green where it is reached, orange where not, grey where there is none", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
