"""Writing text with any Writer, by greedy choice, sampling or beam search."""

from chiasm.generate.beam import beam_search
from chiasm.generate.prompted import Prompted
from chiasm.generate.sampling import GenerateConfig, filter_logits, repeated_ngrams
from chiasm.generate.search import Written, generate, stream

__all__ = [
    "GenerateConfig",
    "Prompted",
    "Written",
    "beam_search",
    "filter_logits",
    "generate",
    "repeated_ngrams",
    "stream",
]
