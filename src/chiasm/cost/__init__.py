"""What a model costs before it is trained: parameters, FLOPs, memory, time on this machine, and how they grow."""

from chiasm.cost.batches import example_batch, pictures_per_sequence, training_objective
from chiasm.cost.flops import Cost, model_cost
from chiasm.cost.growth import Growth, growth
from chiasm.cost.memory import StepBytes, free_bytes, largest_batch, step_bytes
from chiasm.cost.seconds import (
    PRECISIONS,
    Trainee,
    measure_step_seconds,
    predicted_step_seconds,
    worthwhile_precisions,
)

__all__ = [
    "PRECISIONS",
    "Cost",
    "Growth",
    "StepBytes",
    "Trainee",
    "example_batch",
    "free_bytes",
    "growth",
    "largest_batch",
    "measure_step_seconds",
    "model_cost",
    "pictures_per_sequence",
    "predicted_step_seconds",
    "step_bytes",
    "training_objective",
    "worthwhile_precisions",
]
