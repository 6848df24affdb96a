"""`chiasm write`: texts by a language model."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.generate import GenerateConfig
from chiasm.predict import LanguagePredictor


def write(
    run: Path,
    prompt: str = "",
    *,
    mode: Literal["greedy", "sample", "beam"] = "greedy",
    texts: int = 1,
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
) -> int:
    """Write a text, or go on with one.

    Prints a line per text: confidence (geometric mean of the written tokens' probabilities), text. Lengths and
    repetitions are counted in what is written after the prompt.

    Args:
        run: the folder of a run or a bundle of a language model (`chiasm train lm`)
        prompt: how the text begins
        mode: greedy (the likeliest token at each step), sample (at random), or beam (the likeliest text found)
        texts: how many (with sample or beam)
        beams: texts kept at each step of a beam search
        length_penalty: beam scores are divided by length to this power
        min_tokens: the shortest continuation
        max_tokens: the longest continuation
        no_repeat_ngram: never write the same n tokens in a row twice
        temperature: of sampling: below 1 is more sure, above 1 more varied
        top_k: sample from the k likeliest tokens
        top_p: sample from the fewest tokens that have this probability together
        seed: of sampling
        json: one JSON object per text, with every written token's log-probability
    """
    settings = {
        "mode": mode, "captions": texts, "beams": beams, "length_penalty": length_penalty,
        "min_tokens": min_tokens, "max_tokens": max_tokens, "no_repeat_ngram": no_repeat_ngram,
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed,
    }  # fmt: skip
    configs.from_dict(GenerateConfig, settings)  # its errors name the option
    first = LanguagePredictor.load(run).write(prompt, **settings)
    for text in (first, *first.others):
        tokens = [{"token": token, "log_prob": round(log_prob, 5)} for token, log_prob in text.tokens]
        told = {"text": text.text, "confidence": round(text.confidence, 5), "complete": text.complete, "tokens": tokens}
        print(_json.dumps(told, ensure_ascii=False) if json else f"{text.confidence:.2f}\t{text.text}")
    return 0
