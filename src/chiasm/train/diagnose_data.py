"""What the data and the final scores tell of a training: findings on leaks, cut captions, doubles, unused pictures."""

from __future__ import annotations

from collections.abc import Mapping

from chiasm.data.findings import Leaks, leak_sentence
from chiasm.evaluate import Estimate
from chiasm.train.findings import Finding

LEAKED = 0.01
"""From this share of a split's pictures on, its scores may be a point too good."""
CUT = 0.01
"""A share of captions below it that lose their end changes no score that one could measure."""
FEW_PAIRS = 32
"""Fewer different pairs in a batch are mostly told apart by colour or theme; published dual encoders use thousands."""
IGNORED_NATS, IGNORED_ACCURACY = 0.02, 0.01
"""What other pictures cost at least where pictures are used: nats per token (2 % of perplexity), and accuracy."""
UNSURE = 0.1
"""Where the interval reaches up to this cost, the test pictures are too few to say that pictures are not used."""
WORDS_SUFFICE = 0.95
"""With so many answers right, or so little loss left, pictures that are not looked at may not be needed."""


def leak(leaks: Leaks, pictures: Mapping[str, int], same_texts: Mapping[str, int]) -> Finding | None:
    """Splits that are held back from training have pictures of it, `same_texts` of them with a text of theirs too."""
    found = {
        second: pairs
        for (first, second), pairs in leaks.items()
        if first == "train" and len(pairs) >= LEAKED * pictures[second]
    }
    if not found:
        return None
    sentences = [leak_sentence("train", split, pairs) for split, pairs in found.items()]
    evidence: dict[str, int | float] = {}
    for split, pairs in found.items():
        evidence |= {f"{split}_pictures": pictures[split], f"{split}_leaked": len(pairs)}
        evidence[f"{split}_with_same_text"] = same_texts.get(split, 0)
    text = f"{' '.join(sentences)} Remove them from one side, or give equal pictures one group."
    return Finding("leak", text, evidence)


def captions_cut(captions_share: float, tokens_share: float, context: int) -> Finding | None:
    """Captions lose their end to the model's context."""
    if captions_share < CUT:
        return None
    text = (
        f"{100 * captions_share:.0f} % of the captions are longer than the model's context of {context} tokens and "
        f"lost their end, {100 * tokens_share:.0f} % of all tokens. What stands there is never learnt; a longer "
        "context (rules.context of the model's text or decoder) reads it."
    )
    evidence = {"captions_share": captions_share, "tokens_share": tokens_share, "context": context}
    return Finding("captions_cut", text, evidence)


def few_negatives(batch: int, alike: float, pairs: int) -> Finding | None:
    """Too few different pairs are told apart in a batch.

    Of a batch of so many pairs, each has `alike` others with its picture or its text, on average; the data has `pairs`.
    Such others are positives of both losses, and no false negatives, so they do no harm; but they are no negatives
    either.
    """
    different = batch / (1 + alike)
    if different >= FEW_PAIRS:
        return None
    evidence = {"batch": batch, "alike": alike, "different": different, "false_negatives_share": 0.0}
    if different < batch / 2:
        share = alike / max(1, batch - 1)
        text = (
            f"In a batch of {batch} pairs each has {alike:.1f} others with the same text or picture, {100 * share:.0f} "
            "% of what would be its negatives. They count as hits of each other, not as false negatives; but a batch "
            f"then has only about {different:.0f} different things to tell apart. Captions that say more would teach "
            "more; where the texts are the names of classes, chiasm train vit learns those more directly."
        )
    elif pairs < FEW_PAIRS:
        text = (
            f"There are only {pairs} training pairs, so each is told apart from few others. More data, or to start "
            "from a trained model (--from), is what helps."
        )
    else:
        text = (
            f"A batch has {batch} pairs, about {different:.0f} of them different, so each is told apart from few "
            "others, and those at random are mostly easy. Set train.batch_size=128 or more; train.accumulate keeps "
            "the memory that it takes small, with the same gradient."
        )
    return Finding("few_negatives", text, evidence)


def pictures_ignored(scores: Mapping[str, Estimate]) -> Finding | None:
    """Other pictures cost (next to) nothing, though there is something left that pictures could tell."""
    if "shuffled_rise" in scores:
        change, floor, unit = scores["shuffled_rise"], IGNORED_NATS, "the loss rises by {} nats per token"
        needed = scores["token_loss"].value > IGNORED_NATS
        left = {"token_loss": scores["token_loss"].value}
    elif "shuffled_drop" in scores:
        change, floor, unit = scores["shuffled_drop"], IGNORED_ACCURACY, "the accuracy falls by {}"
        needed = scores["accuracy"].value < WORDS_SUFFICE
        left = {name: scores[name].value for name in ("accuracy", "baseline") if name in scores}
    else:
        return None
    if change.value >= floor or change.high >= UNSURE or not needed:
        return None
    told = unit.format(f"{change.value:.3f} (95 % interval {change.low:.3f} to {change.high:.3f})")
    text = (
        f"The pictures are not looked at: with each exchanged for another, {told}. Check that pictures belong to "
        "what is said of them; train for longer (words are learnt first); or start from a trained picture encoder."
    )
    return Finding("pictures_ignored", text, {"change": change.value, "low": change.low, "high": change.high} | left)


__all__ = ["captions_cut", "few_negatives", "leak", "pictures_ignored"]
