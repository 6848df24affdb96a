"""Embedding with a CLIP ViT-B/32: JPEG files to a Parquet file of vectors, and texts of 8 to 20 tokens to vectors.

All sides have the same random weights (open_clip makes them; chiasm imports its files, transformers chiasm's export)
and see the same pixels and tokens: vectors must be equal to 1e-4 in fp32, and in bf16 have cosines above 0.99 with
those. open_clip reads each picture with its `preprocess` and embeds batches, as its README does (fp32, or autocast),
and with its weights in bf16. chiasm is `chiasm embed` with a loaded model: its calibration is outside the time and
reported. "Model alone" has the pictures prepared before the clock starts. Pictures are 500 x 375 pixels. open_clip
fills texts up to the context; transformers is shown so, and padded to the longest of the batch. The peers live in an
environment of their own, made at first use.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peers import enter_peers
from _side_by_side import add_precision, arguments, median_seconds, report
from PIL import Image

PRECISIONS = "fp32", "autocast", "bf16 weights"
BATCH, TEXT_BATCH = 32, 64
TOY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
WORDS = "a red dog and cat run on the green grass with two blue birds in snow near old house"
LEAST_COSINE = 0.99
FEW, FP32_APART = 8, 1e-4


def main() -> None:
    parser = arguments(__doc__, repeat=3, repeated="times that each side runs, in turn")
    parser.add_argument("--pictures", type=int, default=128, help="JPEG files (default: 128)")
    parser.add_argument("--texts", type=int, default=256, help="texts (default: 256)")
    add_precision(parser)
    args = parser.parse_args()
    enter_peers()
    precisions = PRECISIONS if args.precision == "all" else PRECISIONS[:1]
    pictures, texts = (8, 12) if args.toy else (args.pictures, args.texts)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        peer, preprocess, predictor = both_sides(place, args.toy)
        draw(place / "pictures", pictures)
        rows = compare_pictures(peer, preprocess, predictor, place, args.repeat, precisions)
        rows += compare_texts(peer, predictor, place, sentences(texts), args.repeat, precisions)
    report("Embedding, CLIP ViT-B/32: items a second", rows, args.out)


def both_sides(place: Path, toy: bool) -> tuple[Any, Any, Any]:
    """open_clip's model and `preprocess`, and chiasm's predictor of the same weights."""
    import open_clip
    from safetensors.torch import save_file

    from chiasm.bundle import Bundle
    from chiasm.predict import ClipPredictor
    from chiasm.pretrained import load_pretrained, save_pretrained

    settings = TOY if toy else open_clip.get_model_config("ViT-B-32")
    torch.manual_seed(0)
    model = open_clip.CLIP(**settings).eval()
    preprocess = open_clip.image_transform(model.visual.image_size, is_train=False)
    source = place / "openclip"
    source.mkdir()
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, source / "open_clip_model.safetensors")
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
    write_tokenizer(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", source)
    ours, tokenizer, config = load_pretrained(source)
    Bundle(model=ours, tokenizer=tokenizer, preprocess=config).save(place / "bundle")
    save_pretrained(ours, tokenizer, config, place / "transformers")
    return model, preprocess, ClipPredictor.load(place / "bundle")


def write_tokenizer(merges: Path, folder: Path) -> None:
    """CLIP's tokenizer.json from the list of merges that open_clip brings along."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = gzip.decompress(merges.read_bytes()).decode().split("\n")
    pairs = [tuple(line.split()) for line in lines[1:48895]]
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{c}</w>" for c in letters), *map("".join, pairs), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=pairs).save_pretrained(folder)


def draw(folder: Path, pictures: int) -> None:
    """JPEG files with coarse shapes and fine noise, as large as common photos' thumbnails."""
    folder.mkdir()
    for i in range(pictures):
        random = np.random.default_rng(i)
        coarse = Image.fromarray(random.integers(256, size=(12, 16, 3), dtype=np.uint8)).resize((500, 375), 3)
        noisy = np.asarray(coarse, np.float32) + random.normal(0, 8, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04}.jpg", quality=90)


def sentences(texts: int) -> list[str]:
    """Texts of 6 to 18 words that are one token each."""
    words = WORDS.split()
    random = np.random.default_rng(0)
    return [" ".join(random.choice(words, random.integers(6, 19))) for _ in range(texts)]


def compare_pictures(
    peer: Any, preprocess: Any, predictor: Any, place: Path, repeat: int, precisions: tuple[str, ...]
) -> list[dict[str, Any]]:
    """From files to Parquet, and the model alone."""
    paths = sorted((place / "pictures").iterdir())
    ready = torch.stack([preprocess(Image.open(path)) for path in paths])
    pixels = predictor.read(paths)
    apart(peer_in(peer, "fp32")(ready[:FEW]), predictor.embed_pixels(pixels[:FEW]), "pictures")
    files = {f"open_clip, {p}": files_to_parquet(peer_in(peer, p), preprocess, paths, place) for p in precisions}
    models = {f"open_clip, {p}": batches(peer_in(peer, p), ready) for p in precisions}
    found, seconds = measured(predictor, "pictures")
    name = f"chiasm, {found.precision}"
    files[name] = ours_to_parquet(found, paths, place)
    models[name] = lambda: found.embed_pixels(pixels)
    told = {name: f"calibrated in {seconds:.1f} s: {found.rows} rows a core"}
    return [
        *rows_of("pictures, files to Parquet", files, len(paths), repeat, told),
        *rows_of("pictures, model alone", models, len(paths), repeat, told),
    ]


def compare_texts(
    peer: Any, predictor: Any, place: Path, texts: list[str], repeat: int, precisions: tuple[str, ...]
) -> list[dict[str, Any]]:
    """From strings to vectors; open_clip's tokenizer fills every text up to the context."""
    import open_clip
    from transformers import CLIPTextModelWithProjection

    tokenizer = open_clip.SimpleTokenizer()
    ids = tokenizer(texts)
    for row, own in zip(ids, predictor.tokenizer.rows(texts, context=77), strict=True):
        if row[: len(own)].tolist() != own:
            raise SystemExit(f"The tokens differ: {row[: len(own)].tolist()} and {own}")
    apart(peer_in(peer, "fp32", "encode_text")(ids[:FEW]), predictor.embed_texts(texts[:FEW]), "texts")
    sides: dict[str, Callable[[], np.ndarray]] = {}
    for precision in precisions:
        encode = peer_in(peer, precision, "encode_text")
        sides[f"open_clip, {precision}"] = lambda encode=encode: np.concatenate(
            [encode(tokenizer(texts[i : i + TEXT_BATCH])) for i in range(0, len(texts), TEXT_BATCH)]
        )
    last = precisions[-1]  # the fastest of them where there is bf16
    dtype = torch.float32 if last == "fp32" else torch.bfloat16
    other = CLIPTextModelWithProjection.from_pretrained(place / "transformers", dtype=dtype).eval()
    for name, fill in (("filled to 77", True), ("padded to the longest", False)):
        sides[f"transformers, {last}, {name}"] = transformers_texts(other, tokenizer, texts, fill)
    found, seconds = measured(predictor, "texts")
    name = f"chiasm, {found.precision}"
    sides[name] = lambda: found.embed_texts(texts)
    return rows_of(
        "texts", sides, len(texts), repeat, {name: f"calibrated in {seconds:.1f} s: {found.rows} rows a core"}
    )


def transformers_texts(model: Any, tokenizer: Any, texts: list[str], fill: bool) -> Callable[[], np.ndarray]:
    """Batches by transformers, with all of the context or up to the last EOT, which has the highest id."""

    @torch.inference_mode()
    def run() -> np.ndarray:
        parts = []
        for start in range(0, len(texts), TEXT_BATCH):
            ids = tokenizer(texts[start : start + TEXT_BATCH])
            ids = ids if fill else ids[:, : int(ids.argmax(1).max()) + 1]
            vectors = model(input_ids=ids).text_embeds.float()
            parts.append(torch.nn.functional.normalize(vectors, dim=-1).numpy())
        return np.concatenate(parts)

    return run


def apart(theirs: np.ndarray, ours: np.ndarray, what: str) -> None:
    """Both compute the same function in fp32: vectors of random weights are alike, so cosines alone would not tell."""
    if not np.abs(theirs - ours).max() < FP32_APART < np.abs(theirs[0] - theirs[1]).max():
        raise SystemExit(f"{what}: vectors in fp32 differ by {np.abs(theirs - ours).max():.2g}")


def measured(predictor: Any, what: str) -> tuple[Any, float]:
    """The predictor that `chiasm embed` takes for much, and the seconds of finding it."""
    start = time.perf_counter()
    found, _ = predictor.measured(what)
    return found, time.perf_counter() - start


def peer_in(peer: Any, precision: str, encode: str = "encode_image") -> Callable[[torch.Tensor], np.ndarray]:
    """A function from a batch to open_clip's unit vectors."""
    from copy import deepcopy

    model = deepcopy(peer).bfloat16() if precision == "bf16 weights" else peer
    dtype = torch.bfloat16 if precision == "bf16 weights" else torch.float32

    @torch.no_grad()
    def vectors(inputs: torch.Tensor) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
            return getattr(model, encode)(inputs, normalize=True).float().numpy()

    return vectors


def batches(vectors: Callable[[torch.Tensor], np.ndarray], ready: torch.Tensor) -> Callable[[], np.ndarray]:
    """Prepared pictures, batch by batch."""
    return lambda: np.concatenate([vectors(part) for part in ready.split(BATCH)])


def files_to_parquet(
    vectors: Callable[[torch.Tensor], np.ndarray], preprocess: Any, paths: list[Path], place: Path
) -> Callable[[], np.ndarray]:
    """open_clip's README over files, its vectors written as ours are."""
    from chiasm.cli.vectors import write_vectors

    def run() -> np.ndarray:
        parts = []
        for start in range(0, len(paths), BATCH):
            batch = [preprocess(Image.open(path)) for path in paths[start : start + BATCH]]
            parts.append(vectors(torch.stack(batch)))
        write_vectors(place / "peer.parquet", list(map(str, paths)), np.concatenate(parts))
        return np.concatenate(parts)

    return run


def ours_to_parquet(predictor: Any, paths: list[Path], place: Path) -> Callable[[], np.ndarray]:
    """What `chiasm embed` does with a loaded model."""
    from chiasm.cli.embed import embed_pictures
    from chiasm.cli.vectors import Parts, write_vectors

    def run() -> np.ndarray:
        with Parts(place / "ours.parquet", predictor.fingerprint) as parts:
            keys, vectors, _ = embed_pictures(predictor, paths, parts)
            write_vectors(place / "ours.parquet", keys, vectors)
        return vectors

    return run


def rows_of(
    what: str, sides: dict[str, Callable[[], np.ndarray]], items: int, repeat: int, told: dict[str, str]
) -> list[dict[str, Any]]:
    """Every side checked against open_clip in fp32, then timed in turn."""
    wanted = sides["open_clip, fp32"]()
    cosines = {}
    for name, side in sides.items():
        vectors = side()
        cosines[name] = float((vectors * wanted).sum(1).min())
        if not cosines[name] > LEAST_COSINE:
            raise SystemExit(f"{what}, {name}: a vector has the cosine {cosines[name]:.4f} with open_clip's")
    seconds = median_seconds(sides, repeat)
    default, ours = seconds["open_clip, fp32"], seconds[next(name for name in sides if name.startswith("chiasm"))]
    return [
        {
            "what": what,
            "side": name,
            "items/s": items / seconds[name],
            "times open_clip, fp32": default / seconds[name],
            "chiasm's speed over it": seconds[name] / ours,
            "least cosine": cosines[name],
            "note": told.get(name, ""),
        }
        for name in sides
    ]


if __name__ == "__main__":
    main()
