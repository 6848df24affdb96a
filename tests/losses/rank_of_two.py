"""One of two processes: the losses of its half of a batch under DDP; saves its losses and gradients.

Called by test_ranks.py as: rank_of_two.py RANK FOLDER. `dual`, `batch` and `CASES` are shared with the test.
"""

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.functional import normalize

from chiasm.losses.ranks import gather, info_nce_across_ranks, sigmoid_across_ranks

CASES = [(name, chunk) for name in ("info_nce", "sigmoid") for chunk in (None, 3)]


class Dual(nn.Module):
    """Two linear towers and the parameters of the loss, computed within `forward` so that DDP sees it."""

    def __init__(self, loss, biased):
        super().__init__()
        torch.manual_seed(0)
        self.loss = loss
        self.image, self.text = nn.Linear(5, 4).double(), nn.Linear(6, 4).double()
        self.of_loss = nn.ParameterList(
            [nn.Parameter(torch.tensor(value).double()) for value in (2.1, -1.5)[: 1 + biased]]
        )

    def forward(self, pictures, texts, ids, chunk):
        embeddings = normalize(self.image(pictures), dim=1), normalize(self.text(texts), dim=1)
        return self.loss(*embeddings, *self.of_loss, *ids, chunk=chunk)


def batch():
    """Pictures, texts and ids of which some repeat, within a half and across halves."""
    g = torch.Generator().manual_seed(1)
    pictures, texts = (torch.randn(14, width, generator=g, dtype=torch.float64) for width in (5, 6))
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 3, 12, 12], [0, 1, 1, 3, 4, 5, 6, 4, 8, 9, 10, 11, 12, 13]])
    return pictures, texts, ids


def main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    losses = {"info_nce": info_nce_across_ranks, "sigmoid": sigmoid_across_ranks}
    half = slice(7 * rank, 7 * rank + 7)
    pictures, texts, ids = batch()
    seen = {}
    for name, chunk in CASES:
        model = nn.parallel.DistributedDataParallel(Dual(losses[name], name == "sigmoid"))
        loss = model(pictures[half], texts[half], ids[:, half], chunk)
        loss.backward()
        seen[name, chunk] = loss.detach(), [parameter.grad for parameter in model.parameters()]
    rows = torch.full((2, 3), rank + 1.0, requires_grad=True)
    gathered = gather(rows)
    (gathered * torch.arange(4.0)[:, None] * (rank + 1)).sum().backward()
    seen["gather"] = gathered.detach(), rows.grad
    short = slice(7 - rank)
    try:
        sigmoid_across_ranks(pictures[short, :4], pictures[short, :4], *torch.zeros(2), *ids[:, short])
    except ValueError as error:
        seen["unequal"] = str(error)
    torch.save(seen, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
