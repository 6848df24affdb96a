"""Cross-entropy of tokens or classes, smoothed and plain."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], smoothing: float = 0.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of cross-entropies in nats, smoothed (1512.00567, section 7) and plain; in fp32 under autocast.

    Only real tokens, or labelled examples, belong here: with pads left out by the caller, smoothing cannot spread to
    them.
    """
    log_probs = logits.float().log_softmax(-1)
    plain = F.nll_loss(log_probs, targets, reduction="sum")
    if not smoothing:
        return plain, plain
    return (1 - smoothing) * plain - smoothing * log_probs.mean(-1).sum(), plain


__all__ = ["cross_entropy"]
