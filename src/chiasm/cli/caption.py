"""`chiasm caption`: captions for files, folders and globs."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.errors import UserError
from chiasm.figures import attention_figure
from chiasm.generate import GenerateConfig
from chiasm.predict import Caption, CaptionPredictor, FlamingoPredictor, Shot, read_shots


def caption(
    run: Path,
    pictures: tuple[str, ...],
    *,
    mode: Literal["greedy", "sample", "beam"] = "greedy",
    captions: int = 1,
    beams: int = 4,
    length_penalty: float = 1.0,
    min_tokens: int = 1,
    max_tokens: int | None = None,
    no_repeat_ngram: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    json: bool = False,
    attention: Path | None = None,
    shots: Path | None = None,
    question: str = "",
    int8: bool = False,
    compile: bool = False,
) -> int:
    """Write captions for pictures.

    Prints a line per picture: path, confidence (geometric mean of the tokens' probabilities), caption.

    Args:
        run: the folder of a run or a bundle
        pictures: files, folders (all pictures in them) or globs
        mode: greedy (the likeliest token at each step), sample (at random), or beam (the likeliest text found)
        captions: how many per picture (with sample or beam)
        beams: texts kept at each step of a beam search
        length_penalty: beam scores are divided by length to this power
        min_tokens: the shortest caption
        max_tokens: the longest caption
        no_repeat_ngram: never write the same n tokens in a row twice
        temperature: of sampling: below 1 is more sure, above 1 more varied
        top_k: sample from the k likeliest tokens
        top_p: sample from the fewest tokens that have this probability together
        seed: of sampling
        json: one JSON object per picture, with every token's log-probability
        attention: draw where the decoder looked for each word: a .png file, or for several pictures a folder
        shots: examples for a flamingo to go by: JSON Lines of {"image", "text"}, or {"image", "question", "answer"}
        question: what a flamingo is to answer about each picture
        int8: write with weights of eight bits: faster for large decoders (`chiasm evaluate --int8` tells what it costs)
        compile: let torch.compile make kernels of a step of writing, which takes some ten seconds: for GPUs
    """
    config = configs.from_dict(
        GenerateConfig,
        {
            "mode": mode, "captions": captions, "beams": beams, "length_penalty": length_penalty,
            "min_tokens": min_tokens, "max_tokens": max_tokens, "no_repeat_ngram": no_repeat_ngram,
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed,
        },
    )  # fmt: skip
    paths = find_pictures(pictures)
    after_shots = shots is not None or bool(question)
    predictor = (FlamingoPredictor if after_shots else CaptionPredictor).load(run)
    if int8:
        predictor.write_in_int8()
    if compile:
        predictor.compile_writing()
    if isinstance(predictor, FlamingoPredictor):
        return _after_shots(predictor, paths, config, [] if shots is None else read_shots(shots), question, json)
    if attention is not None and not predictor.looks:
        raise UserError(
            f"{run} reads a vector of a picture (fusion late) or latents (a flamingo), and looks at no places",
            "Leave out --attention; captioners with another --fusion than late have it.",
        )
    for good, pixels in in_batches(predictor, paths, "captioning"):
        for path, pixel, text in zip(good, pixels, predictor.caption_pixels(pixels, config), strict=True):
            print(_as_json(path, text) if json else _as_line(path, text), flush=True)
            if attention is not None:
                words = [word for word, _ in text.tokens]
                target = attention if len(paths) == 1 and attention.suffix else attention / _drawing(path, paths)
                attention_figure(pixel, words, predictor.attention(pixel[None], text), target)
    return 0


def _after_shots(
    predictor: FlamingoPredictor,
    paths: list[Path],
    config: GenerateConfig,
    shots: list[Shot],
    question: str,
    json: bool,
) -> int:
    """What a Flamingo says of each picture after the same examples."""
    shown = predictor.show(predictor.read([shot.image for shot in shots]), [shot.text for shot in shots])
    for good, pixels in in_batches(predictor, paths, "captioning"):
        for path, text in zip(good, predictor.caption_pixels(pixels, config, shown, question=question), strict=True):
            print(_as_json(path, text) if json else _as_line(path, text), flush=True)
    return 0


def _drawing(path: Path, paths: list[Path]) -> str:
    """A name for a picture's drawing: its own, with its folder where another picture has the same."""
    alone = sum(other.stem == path.stem for other in paths) == 1
    return f"{path.stem}.png" if alone else "-".join(path.absolute().parts[1:]) + ".png"


def _as_line(path: Path, caption: Caption) -> str:
    lines = [f"{path}\t{c.confidence:.2f}\t{c.text}" for c in (caption, *caption.others)]
    return "\n".join(lines)


def _as_json(path: Path, caption: Caption) -> str:
    def told(c: Caption) -> dict[str, object]:
        tokens = [{"token": token, "log_prob": round(log_prob, 5)} for token, log_prob in c.tokens]
        return {"caption": c.text, "confidence": round(c.confidence, 5), "complete": c.complete, "tokens": tokens}

    data = {"path": str(path)} | told(caption) | {"others": [told(other) for other in caption.others]}
    return _json.dumps(data, ensure_ascii=False)
