"""The settings of a comparison: what is compared, on what, at what equal cost, how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chiasm.train.config import RunConfig

TaskName = Literal["caption", "match", "answer", "retrieve", "classify"]
Equal = Literal["params", "flops", "time", "samples"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison: its name, and the settings of its runs before costs are made equal."""

    name: str
    settings: RunConfig

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name) or self.name.startswith("."):
            raise ValueError(f"an arm is named {self.name!r}; use letters, digits, -, _ and . (it names a folder)")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """All settings of a comparison; `compare.json` in its folder."""

    task: TaskName
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the trainings, the same for all arms, so that arms can be compared seed by seed."""
    equal: Equal = "flops"
    budget: str | None = None
    """3M parameters, 2TFLOP of a whole training, 10min of it, or 50k samples; None: the first arm's sizes."""
    within_minutes: float = 45.0
    """How long all trainings together may take here, about, where neither budget nor settings say how long one is."""
    metric: str | None = None
    """Of the scores of single items; None: the usual one of the task."""
    tune: int = 4
    """Learning rates tried for each arm; 0 takes the arm's own."""
    scaling: bool = True
    """Also train the best arm on 1/8, 1/4 and 1/2 of the data."""
    floors: bool = True
    """Also train on the words alone and on the pictures alone, where the task allows."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(names) < 2:
            raise ValueError("a comparison needs two arms at least")
        if len(set(names)) < len(names):
            raise ValueError(f"two arms have one name: {', '.join(names)}")
        if any(arm.settings.data != self.arms[0].settings.data for arm in self.arms):
            raise ValueError("arms differ in their data, so that nothing could be compared")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}; name one at least, and none twice")
        if self.tune < 0 or self.within_minutes <= 0:
            raise ValueError(f"tune is {self.tune} and within_minutes {self.within_minutes}; neither can be that small")

    @property
    def open_ended(self) -> bool:
        """Nothing says how long a training is."""
        train = self.arms[0].settings.train
        said = (train.steps, train.epochs, train.minutes)
        return all(length is None for length in said) and (self.budget is None or self.equal == "params")


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """Where trainings run: here or on a cluster, how many at once, with how many threads each."""

    engine: Literal["local", "ray"] = "local"
    workers: int = 2
    threads: int = 1


__all__ = ["Arm", "CompareConfig", "Equal", "Machinery", "TaskName"]
