"""The bricks: attention, blocks, latents, embeddings, initialisation and the rule of weight decay."""

from chiasm.nn.attention import Attention, KeyValueCache, KeyValues, StaticCache, causal_keep, prefix_causal_keep
from chiasm.nn.block import Activation, Block, FeedForward, QuickGelu, checkpoint_blocks, compile_blocks
from chiasm.nn.embed import (
    GridPositions,
    PatchEmbed,
    TokenEmbed,
    fourier_features,
    resize_grid,
    sincos_grid,
)
from chiasm.nn.gated import GatedCross, Resampler
from chiasm.nn.init import init_weights, weight_decay_groups
from chiasm.nn.int8 import LEAST_WEIGHTS, Int8Linear, quantize_int8
from chiasm.nn.latent import CrossRead, LatentReader
from chiasm.nn.optimizer import OptimizerName, build_optimizer, matrices_of, measure_update_seconds
from chiasm.nn.packing import packing
from chiasm.nn.step import BlockStep

__all__ = [
    "LEAST_WEIGHTS",
    "Activation",
    "Attention",
    "Block",
    "BlockStep",
    "CrossRead",
    "FeedForward",
    "GatedCross",
    "GridPositions",
    "Int8Linear",
    "KeyValueCache",
    "KeyValues",
    "LatentReader",
    "OptimizerName",
    "PatchEmbed",
    "QuickGelu",
    "Resampler",
    "StaticCache",
    "TokenEmbed",
    "build_optimizer",
    "causal_keep",
    "checkpoint_blocks",
    "compile_blocks",
    "fourier_features",
    "init_weights",
    "matrices_of",
    "measure_update_seconds",
    "packing",
    "prefix_causal_keep",
    "quantize_int8",
    "resize_grid",
    "sincos_grid",
    "weight_decay_groups",
]
