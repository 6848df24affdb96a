"""`chiasm compare`: which architecture suits the data, at equal cost."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Literal

from chiasm.cli.arms import arms_from
from chiasm.compare.config import CompareConfig, Equal, Machinery, TaskName
from chiasm.config import from_dict, to_dict
from chiasm.errors import UserError
from chiasm.machine import available_cores


def compare(
    data: str,
    *,
    task: TaskName,
    out: Path | None = None,
    arms: tuple[str, ...] = (),
    arm: tuple[str, ...] = (),
    seeds: int = 3,
    first_seed: int = 0,
    equal: Equal = "flops",
    budget: str | None = None,
    within: float = 45.0,
    metric: str | None = None,
    tune: int = 4,
    skip: tuple[Literal["floors", "scaling"], ...] = (),
    preset: str = "tiny",
    epochs: float | None = None,
    negatives: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    difficulty: Literal["lesson", "easy", "hard"] | None = None,
    samples: int | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
    workers: int | None = None,
    threads: int = 1,
    engine: Literal["local", "ray"] = "local",
    cost: bool = False,
) -> int:
    """Compare architectures on your data, at equal cost, and write a page about it.

    Every arm is trained with the same seeds, on the same data in the same order; its sizes are changed until its cost
    is that of the others, and its learning rate is tuned with the same number of short trials. OUT then holds
    report.html (the page), report.md, results.json, results.csv, and a run's folder for every training. Killed or
    stopped, the same command goes on where it was.

    Args:
        data: as for `chiasm train`
        task: caption (captioners), answer, match or classify (classifiers of pictures with texts, or of pictures
            alone), or retrieve (dual encoders)
        out: the comparison's folder (runs/compare-DATA-TASK)
        arms: fusions: late, early, cross, perceiver (all four where neither these nor --arm are given)
        arm: any other arm, as NAME=settings.yaml or NAME=path=value (cls=model.vision.pool=cls)
        seeds: trainings of each arm
        first_seed: of these, the others follow it
        equal: what the arms' sizes or lengths make equal: flops of a training, params (parameters), time of a training,
            or samples seen
        budget: how much of it: 2TFLOP, 3M, 10min or 50k (the first arm's sizes, as long as --within allows)
        within: minutes that all trainings together may take, about, where neither --budget nor other settings say how
            long one is
        metric: what is compared: of captions exact_match, cider_d or token_loss (the usual one of the task)
        tune: learning rates tried for each arm; 0 takes the preset's
        skip: leave out floors (trainings on one modality alone) or scaling (trainings on less data)
        preset: sizes to start from, as for `chiasm train`; small ones learn more in the same time
        epochs: how often each example is seen by the first arm
        negatives: where wrong captions for match come from, as for `chiasm train`
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions or questions, where guessing fails
        label_column: the column that holds the classes or answers, where guessing fails
        difficulty: of the built-in shapes
        samples: how many of the built-in shapes
        config: a YAML or JSON file of settings for all arms, nested as a run's config.json
        set: any setting of all arms by its path, as train.batch_size=64
        workers: trainings at a time (as many as the machine has cores for)
        threads: of each training
        engine: where trainings run: local, or ray (a Ray cluster that shares this folder)
        cost: only tell what each arm, and the whole, would cost
    """
    from chiasm.compare.experiment import compare as carry_out
    from chiasm.compare.preview import preview
    from chiasm.report.comparison import write_comparison

    made = arms_from(
        task,
        (*arms, *arm),
        preset=preset,
        config=config,
        set=set,
        data={
            "path": data,
            "image_column": image_column,
            "text_column": text_column,
            "label_column": label_column,
            "shapes": {"difficulty": difficulty, "samples": samples},
        },
        epochs=epochs,
        negatives=negatives,
    )
    settings = from_dict(
        CompareConfig,
        {
            "task": task,
            "arms": [to_dict(one) for one in made],
            "seeds": list(range(first_seed, first_seed + seeds)),
            "equal": equal,
            "budget": budget,
            "within_minutes": within,
            "metric": metric,
            "tune": tune,
            "scaling": "scaling" not in skip,
            "floors": "floors" not in skip,
        },
    )
    if seeds < 1 or threads < 1 or (workers is not None and workers < 1):
        raise UserError("--seeds, --threads and --workers must be at least 1", "Change them.")
    at_once = workers or max(1, available_cores() // threads)
    machinery = Machinery(engine=engine, workers=at_once, threads=threads)
    if cost:
        print(preview(settings, machinery))
        return 0
    command = shlex.join(["chiasm", "compare", *sys.argv[2:]])
    folder = out or Path("runs") / f"compare-{Path(data).stem}-{task}"
    comparison = carry_out(settings, folder, command=command, machinery=machinery)
    page = write_comparison(folder)
    print("\n".join(comparison.verdict))
    print(f"\npage       {page}\nresults    {folder / 'results.json'}\ntrainings  {folder / 'arms'}/")
    return 0
