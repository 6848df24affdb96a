"""Metrics: pure functions from predictions and truths to scores with intervals; no model, no files."""

from chiasm.metrics.calibration import Calibration, pair_cosines
from chiasm.metrics.captions import Score, caption_scores, tokenize_caption
from chiasm.metrics.classification import Classification, Probe, classification_scores, linear_probe
from chiasm.metrics.comparing import Compared, Estimate, compare_arms
from chiasm.metrics.intervals import Interval, bootstrap_interval, mean_interval
from chiasm.metrics.retrieval import Ranks, rank_items, retrieval_scores
from chiasm.metrics.scaling import ScalingFit, fit_scaling

__all__ = [
    "Calibration",
    "Classification",
    "Compared",
    "Estimate",
    "Interval",
    "Probe",
    "Ranks",
    "ScalingFit",
    "Score",
    "bootstrap_interval",
    "caption_scores",
    "classification_scores",
    "compare_arms",
    "fit_scaling",
    "linear_probe",
    "mean_interval",
    "pair_cosines",
    "rank_items",
    "retrieval_scores",
    "tokenize_caption",
]
