"""Training a Flamingo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.loader import Loader
from chiasm.evaluate import TOLD, SplitScores, draw_captions, evaluate_flamingo, write_results
from chiasm.figures import gates_figure
from chiasm.generate import GenerateConfig
from chiasm.models import FlamingoConfig
from chiasm.objectives import Captioning, Interleaving
from chiasm.predict import FlamingoPredictor
from chiasm.train.callbacks import read_metrics
from chiasm.train.captioning import CaptioningTask
from chiasm.train.config import RunConfig
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run


class FlamingoTask(Task):
    """Next-token prediction on sequences of pictures and texts; what is said with and without shots is scored."""

    title = "Flamingo"
    explained = (
        f"{CaptioningTask.explained} exact_match_N_shots: the same after N captioned pictures. Of sequences: choice, "
        "how often the right one of a sequence's texts is the likeliest, and chance, what guessing would give; "
        "_0_shots, without the pictures and texts before."
    )

    def __init__(self, config: RunConfig):
        assert isinstance(config.model, FlamingoConfig)
        gated = range(0, config.model.decoder.depth, config.model.every)
        names = tuple(f"gate_{number}_{kind}" for number in range(len(gated)) for kind in ("cross", "mlp"))
        self.gates = names
        self.objective = Interleaving(captioning=Captioning(label_smoothing=config.train.label_smoothing), gates=names)

    def batches(self, run: Run, loader: Loader, split: str) -> InterleavedLoader:
        """Pictures and texts by turns."""
        model, source = run.config.model, run.source
        assert isinstance(model, FlamingoConfig) and run.tokenizer is not None
        return InterleavedLoader(
            loader,
            source.split(split),
            run.tokenizer,
            mark=model.mark,
            context=model.rules.context,
            grouped=source.interleaved,
            packed=run.config.data.pictures_per_sequence,
        )

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Captions, or the last texts of sequences after all before."""
        pictures, examples = run.pictures["val"], run.source.split("val")
        predictor = FlamingoPredictor(run.bundle(run.model))
        chosen = [int(row) for row in pictures.good]
        if run.source.interleaved:
            groups = list(dict.fromkeys(examples[row].group for row in chosen))[:SAMPLES]
            sequences = [[row for row in chosen if examples[row].group == group] for group in groups]
        else:
            sequences = [[row] for row in chosen[:SAMPLES]]
        told = []
        for rows in sequences:
            pixels = pictures.pixels_of(pictures.good[[chosen.index(row) for row in rows]])
            before = [examples[row] for row in rows[:-1]]
            seen = [e.image is not None for e in before]
            shots = predictor.show(pixels[:-1], [e.texts[0] for e in before], seen)
            said = predictor.caption_pixels(pixels[-1:], GenerateConfig(), shots)[0].text
            told.append({"key": examples[rows[-1]].key, "text": examples[rows[-1]].texts[0], "said": said})
        return told

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """What it says with and without shots, drawings of some of it, and how the gates opened."""
        predictor = FlamingoPredictor(bundle)
        results = evaluate_flamingo(predictor, run.source, splits, GenerateConfig(), max_broken_share=1.0)
        write_results(results, run.folder, TOLD[FlamingoPredictor])
        if not run.source.interleaved:
            draw_captions(predictor.writer, run.source, results, run.folder)
        gates_figure(read_metrics(run.folder / "metrics.csv"), self.gates, run.folder / "gates.png")
        return bundle, results
