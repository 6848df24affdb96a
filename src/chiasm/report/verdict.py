"""How good a trained model is, in a few sentences and key numbers that follow from its scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import assert_never

from chiasm.evaluate import Estimate
from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FlamingoConfig,
    FusionClassifierConfig,
    LanguageConfig,
    ModelConfig,
    PerceiverAutoencoderConfig,
    PerceiverClassifierConfig,
    PerceiverMlmConfig,
    PictureClassifierConfig,
)
from chiasm.report.grading import FEW, Grades, Slice
from chiasm.report.page import number, percent
from chiasm.report.recorded import Recorded, SplitRecord

REPEATED = 0.5
"""A text that a model says of such a share of the examples is worth a sentence."""
IGNORED_NATS = 0.02
"""A loss that rises by less under wrong pictures says that pictures do not matter."""

NAMES = {
    "exact_match": "exactly right",
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D", "token_loss": "loss per token, nats", "perplexity": "perplexity",
    "shuffled_rise": "rise of the loss under wrong pictures, nats",
    "image_to_text_r1": "picture → text, R@1", "image_to_text_r5": "picture → text, R@5",
    "image_to_text_r10": "picture → text, R@10", "image_to_text_mrr": "picture → text, reciprocal rank",
    "image_to_text_median_rank": "picture → text, median rank",
    "text_to_image_r1": "text → picture, R@1", "text_to_image_r5": "text → picture, R@5",
    "text_to_image_r10": "text → picture, R@10", "text_to_image_mrr": "text → picture, reciprocal rank",
    "text_to_image_median_rank": "text → picture, median rank",
    "all_texts_r1": "picture → all texts, R@1", "all_texts_r5": "picture → all texts, R@5",
    "label_top1": "class by prompt", "label_top5": "class by prompt, top 5",
    "label_mean_per_class": "class by prompt, mean over classes", "probe_top1": "class by linear probe",
    "accuracy": "accuracy", "accuracy_top5": "accuracy, top 5", "accuracy_per_class": "accuracy, mean over classes",
    "baseline": "baseline", "log_loss": "log loss, nats", "calibration_error": "calibration error",
    "shuffled_drop": "fall of accuracy under wrong pictures", "unknown_labels": "labels never trained on",
}  # fmt: skip
"""Of scores, for people; others are shown as they are called."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The score that a kind of model is known by."""

    score: str
    means: str
    higher_is_better: bool = True
    is_share: bool = True
    comparable: bool = True
    """Between splits: false where it depends on how many texts there are to find, or on the split's own words."""

    def say(self, estimate: Estimate) -> str:
        """The value with its interval: 22 % (14 % to 31 %)."""
        show = percent if self.is_share else number
        return f"{show(estimate.value)} ({show(estimate.low)} to {show(estimate.high)})"


SHARE = Headline(score="", means="")


def headline(model: ModelConfig, split: SplitRecord) -> Headline:
    """The score of a split that is talked about first."""
    match model:
        case FlamingoConfig() if "choice" in split.scores:
            return Headline(score="choice", means="of last texts chosen right")
        case CaptionerConfig() | FlamingoConfig() | CocaConfig():
            if split.scores["exact_match"].value < FEW:
                return Headline(
                    score="cider_d", means="CIDEr-D of captions, from 0 to 10", is_share=False, comparable=False
                )
            return Headline(score="exact_match", means="of captions exactly right")
        case ClipConfig():
            return Headline(score="image_to_text_r1", means="of pictures find their own text first", comparable=False)
        case FusionClassifierConfig() | PictureClassifierConfig() | PerceiverClassifierConfig():
            return Headline(score="accuracy", means="of answers right")
        case LanguageConfig():
            return Headline(score="perplexity", means="perplexity", higher_is_better=False, is_share=False)
        case PerceiverMlmConfig():
            return Headline(score="gap_accuracy", means="of gaps filled right")
        case PerceiverAutoencoderConfig():
            return Headline(score=next(iter(split.scores)), means="of what was hidden explained")
        case _:
            assert_never(model)


def verdict(run: Recorded, grades: Grades | None, slices: Sequence[Slice]) -> list[str]:
    """How good it is, whether it repeats itself, whether it uses the pictures, how other splits do, its weakness."""
    first = run.splits[0]
    sentences = [_quality(run, first), _repeated(grades), _pictures(first), _others(run), _weakest(run, grades, slices)]
    return [sentence for sentence in sentences if sentence]


def _quality(run: Recorded, split: SplitRecord) -> str:
    scores, model, unseen = split.scores, run.config.model, f"{split.pictures:,} unseen pictures ({split.name})"
    match model:
        case FlamingoConfig() if "choice" in scores:
            return (
                f"After the pictures and texts before it, the right one of a sequence's texts is the likeliest in "
                f"{SHARE.say(scores['choice'])} of {split.pictures:,} unseen sequences; guessing gives "
                f"{percent(scores['chance'].value)}."
            )
        case CaptionerConfig() | FlamingoConfig() | CocaConfig():
            return f"{_captions(scores, unseen)} {_found(split) if isinstance(model, CocaConfig) else ''}".strip()
        case ClipConfig():
            return _found(split)
        case FusionClassifierConfig() | PictureClassifierConfig() | PerceiverClassifierConfig():
            return _answers(run, split)
        case LanguageConfig():
            return (
                f"Each token of {split.pictures:,} unseen texts ({split.name}) is as hard to tell as one of "
                f"{number(scores['perplexity'].value)} equally likely ones "
                f"({number(scores['perplexity'].low)} to {number(scores['perplexity'].high)}); the model knows "
                f"{model.vocabulary:,} tokens."
            )
        case PerceiverMlmConfig():
            return (
                f"In {split.pictures:,} unseen texts ({split.name}), {SHARE.say(scores['gap_accuracy'])} of the gaps "
                f"are filled right; always saying the commonest token would fill {percent(scores['baseline'].value)}."
            )
        case PerceiverAutoencoderConfig():
            return _given_back(split)
        case _:
            assert_never(model)


def _captions(scores: dict[str, Estimate], unseen: str) -> str:
    exact, cider = scores["exact_match"], scores["cider_d"]
    if exact.value < FEW:
        few = "None" if not exact.value else percent(exact.value)
        quality = f"{cider.value:.2f} of 10 ({cider.low:.2f} to {cider.high:.2f})"
        return f"{few} of the captions of {unseen} are exactly right; their CIDEr-D is {quality}."
    return (
        f"{SHARE.say(exact)} of the captions of {unseen} are exactly one of the picture's texts; their CIDEr-D is "
        f"{cider.value:.2f} of 10."
    )


def _found(split: SplitRecord) -> str:
    texts = len({text for row in split.told for text in row["texts"]})
    among = f" among the {texts:,} different texts there (chance is about {_rare(1 / texts)})" if texts else ""
    told = (
        f"{SHARE.say(split.scores['image_to_text_r1'])} of {split.pictures:,} unseen pictures ({split.name}) find "
        f"their own text first{among}, and {SHARE.say(split.scores['text_to_image_r1'])} of the texts their picture."
    )
    labels = {row["label"] for row in split.told if row["label"]}
    if "label_top1" in split.scores and labels:
        told += f" Of {len(labels)} classes, prompts of their names tell {SHARE.say(split.scores['label_top1'])} right"
        probe = split.scores.get("probe_top1")
        told += "." if probe is None else f", a linear probe of the vectors {SHARE.say(probe)}."
    return told


def _answers(run: Recorded, split: SplitRecord) -> str:
    accuracy, task, texts = split.scores["accuracy"], run.config.data.task, run.config.model.rules is not None
    count = f"{len(split.told) or split.pictures:,}"
    what = {
        "answer": f"of {count} questions about {split.pictures:,} unseen pictures ({split.name}) are answered right",
        "match": f"of {count} unseen pairs of picture and caption ({split.name}) are judged right",
        "label": f"of {count} unseen examples ({split.name}) are given the right class",
    }[task.name if task is not None else "label"]
    told = f"{SHARE.say(accuracy)} {what}"
    baseline = split.scores.get("baseline")
    if baseline is None:
        return f"{told}."
    blind = "the commonest answer to the same words" if texts else "always the commonest class"
    if accuracy.low <= baseline.value:
        return f"{told}: no better than {blind}, which is right in {percent(baseline.value)}."
    return f"{told}; {blind} would be right in {percent(baseline.value)}."


def _repeated(grades: Grades | None) -> str:
    """Of a model that says the same of most examples, though it is true of few."""
    if grades is None or not grades.sharp:
        return ""
    (text, times), *_ = Counter(answer.said for answer in grades.answers).most_common(1)
    true = sum(text in answer.truths for answer in grades.answers)
    if times < REPEATED * len(grades.answers) or 2 * true > times:
        return ""
    share = percent(times / len(grades.answers))
    return f"It says “{text}” of {share} of the examples; it is true of {percent(true / len(grades.answers))}."


def _pictures(split: SplitRecord) -> str:
    rise, drop = split.scores.get("shuffled_rise"), split.scores.get("shuffled_drop")
    if rise is not None:
        ignored = rise.value < IGNORED_NATS or rise.low <= 0
        told = f"under wrong ones, the loss of the right text rises by {number(rise.value)} nats per token"
        return f"It ignores the pictures: {told} only." if ignored else f"It looks at the pictures: {told}."
    if drop is None:
        return ""
    left = split.scores["accuracy"].value - drop.value
    if drop.low <= 0:
        return f"It makes no clear use of the pictures: with wrong ones, {percent(left)} are right."
    return f"It uses the pictures: with wrong ones, accuracy falls by {_points(drop.value)}, to {percent(left)}."


def _others(run: Recorded) -> str:
    first = run.splits[0]
    said = headline(run.config.model, first)
    own, told, name = first.scores[said.score], [], "" if said.is_share else f"{NAMES[said.score]} "
    for split in run.splits[1:]:
        other = split.scores.get(said.score)
        if other is None:
            continue
        lower, higher = other.high < own.low, other.low > own.high
        how = "clearly better" if higher == said.higher_is_better else "clearly worse"
        apart = said.comparable and (lower or higher)
        told.append(f"on {split.name}{f' it is {how}:' if apart else ':'} {name}{said.say(other)}{_among(split)}")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _among(split: SplitRecord) -> str:
    """How many texts there are to find, of a dual encoder, whose score depends on that."""
    texts = {text for row in split.told if "rank" in row and "caption" not in row for text in row["texts"]}
    return f" among {len(texts):,} texts" if texts else ""


def _weakest(run: Recorded, grades: Grades | None, slices: Sequence[Slice]) -> str:
    weak = [s for s in slices if s.weak]
    if grades is None or not weak:
        return ""
    worst = max(weak, key=lambda s: (s.answers * (1 - s.value), s.answers))
    where = {
        "kind": f"at questions of the kind {worst.name}",
        "class": f"at the class {worst.name}"
        if run.config.data.task is None or run.config.data.task.name == "label"
        else f"where “{worst.name}” is right",
        "length": f"at texts of {worst.name}",
        "word": f"at texts with {worst.name}",
    }[worst.by]
    if grades.shares:
        own = SHARE.say(Estimate(worst.value, worst.low, worst.high))
        return f"It is weakest {where}: {own} of {worst.answers:,} right."
    return f"It is weakest {where}: {grades.name} {number(worst.value)}, over all {number(grades.mean)}."


def _given_back(split: SplitRecord) -> str:
    def parts(ending: str) -> str:
        named = {name.removesuffix(ending): score for name, score in split.scores.items() if name.endswith(ending)}
        what = {name: "tokens" if name == "text" else f"variance of the {name}" for name in named}
        return " and ".join(f"{SHARE.say(score)} of the {what[name]}" for name, score in named.items())

    told = (
        f"Of what is hidden in {split.pictures:,} unseen examples ({split.name}), it gives back {parts('_explained')}"
    )
    alone = parts("_from_others")
    return f"{told}; with that input hidden altogether, {alone}." if alone else f"{told}."


def _rare(share: float) -> str:
    return f"{100 * share:.2g} %"


def _points(share: float) -> str:
    points = f"{100 * share:.0f}".replace("-", "−")
    return f"{points} point{'s' * (points != '1')}"


__all__ = ["NAMES", "Headline", "headline", "verdict"]
