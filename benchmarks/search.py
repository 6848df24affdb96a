"""Search in a million vectors: time to build, time of a query, and how many of the true ten nearest are found.

The vectors are a mixture of 4,000 directions with noise about them; both lose strength from axis to axis, as embeddings
of trained models do, and the whole is turned so that no axis is special. Queries are further draws from the mixture.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _side_by_side import arguments, report

from chiasm.data.transforms import PreprocessConfig
from chiasm.index import Index, open_index
from chiasm.index.table import ANN_ROWS, About, create_index, tidy
from chiasm.progress import counting, track

CHUNK = 20_000
DIRECTIONS = 4_000
NOISE = 0.7
WARM_UP = 20
K = 10


def main() -> None:
    parser = arguments(__doc__, repeat=1, repeated="times that each query is asked")
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors in the index (default: 1,000,000)")
    parser.add_argument("--width", type=int, default=512, help="numbers in a vector (default: 512)")
    parser.add_argument("--queries", type=int, default=300, help="queries of each kind (default: 300)")
    args = parser.parse_args()
    rows, width, queries = (4_000, 16, 40) if args.toy else (args.rows, args.width, args.queries)
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "benchmark.lance")
        row = benchmark(uri, rows, width, queries, args.repeat, ann_rows=1_000 if args.toy else ANN_ROWS)
    report(f"Search: the {K} nearest of {rows:,} vectors", [row], args.out)


def benchmark(uri: str, rows: int, width: int, queries: int, repeat: int, ann_rows: int) -> dict[str, float]:
    """Build the index as `chiasm index` does, and ask it what `Index.search` asks."""
    mixture = Mixture(width)
    asked = mixture.draw(queries)
    start = time.perf_counter()
    nearest = write(uri, mixture, rows, asked, ann_rows)
    seconds = time.perf_counter() - start
    index = open_index(uri)
    for query in mixture.draw(WARM_UP):
        index.search(vector=query, k=K)
    found, times = ask(index, asked, nearest, repeat)
    return {
        "vectors": rows,
        "width": width,
        "build seconds": seconds,
        "bytes on disk": sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file()),
        "queries": len(times),
        f"recall@{K}": found,
        "p50 ms": 1000 * float(np.percentile(times, 50)),
        "p95 ms": 1000 * float(np.percentile(times, 95)),
    }


class Mixture:
    """Unit vectors about common directions."""

    def __init__(self, width: int):
        self.random = np.random.default_rng(0)
        self.strength = (1 + np.arange(width, dtype=np.float32)) ** -0.5
        self.directions = self._noise(DIRECTIONS)
        self.turn = np.linalg.qr(self.random.standard_normal((width, width)))[0].astype(np.float32)

    def draw(self, rows: int) -> np.ndarray:
        """New vectors."""
        near = self.directions[self.random.integers(DIRECTIONS, size=rows)]
        vectors = (near + NOISE * self._noise(rows)) @ self.turn
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _noise(self, rows: int) -> np.ndarray:
        return self.random.standard_normal((rows, len(self.strength)), dtype=np.float32) * self.strength


def write(uri: str, mixture: Mixture, rows: int, asked: np.ndarray, ann_rows: int) -> np.ndarray:
    """Fill the index with new vectors; returns each query's true nearest, by comparing with all."""
    width = asked.shape[1]
    table = create_index(uri, About(fingerprint="benchmark", embed_width=width, preprocess=PreprocessConfig()))
    cosines, nearest = np.empty((len(asked), 0), np.float32), np.empty((len(asked), 0), np.int64)
    with counting("Writing vectors", rows) as advance:
        for first, vectors in chunks(mixture, rows):
            table.add(as_table(first, vectors, table.schema))
            cosines = np.concatenate([cosines, asked @ vectors.T], axis=1)
            numbers = np.arange(first, first + len(vectors))
            nearest = np.concatenate([nearest, np.broadcast_to(numbers, (len(asked), len(vectors)))], axis=1)
            best = np.argpartition(-cosines, K, axis=1)[:, :K]
            cosines, nearest = np.take_along_axis(cosines, best, 1), np.take_along_axis(nearest, best, 1)
            advance(len(vectors))
    tidy(table, ann_rows)
    return nearest


def chunks(mixture: Mixture, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """The vectors of the index, and the number of the first of them."""
    for first in range(0, rows, CHUNK):
        yield first, mixture.draw(min(CHUNK, rows - first))


def as_table(first: int, vectors: np.ndarray, schema: object) -> object:
    """Vectors with what an index holds of each picture."""
    import pyarrow as pa

    ids = [f"{number:08}.jpg" for number in range(first, first + len(vectors))]
    columns = {
        "id": ids,
        "path": [f"/pictures/{name}" for name in ids],
        "thumbnail": [b""] * len(ids),
        "texts": [[f"what is said of the picture {name}"] for name in ids],
        "tags": [[]] * len(ids),
        **{name: [""] * len(ids) for name in ("label", "group", "said", "stamp", "digest")},
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    return pa.table(columns, schema=schema)


def ask(index: Index, asked: np.ndarray, nearest: np.ndarray, repeat: int) -> tuple[float, list[float]]:
    """The share of the true nearest that are found, and the seconds of every query."""
    found, times = 0, []
    for _ in range(repeat):
        for query, true in track(zip(asked, nearest, strict=True), "searching", total=len(asked)):
            start = time.perf_counter()
            hits = index.search(vector=query, k=K)
            times.append(time.perf_counter() - start)
            found += len({int(hit.id[:8]) for hit in hits} & set(true.tolist()))
    return found / (K * len(times)), times


if __name__ == "__main__":
    main()
