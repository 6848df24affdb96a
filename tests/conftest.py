"""Shapes and types in signatures are enforced in tests (and only there); builders that several rooms share."""

import os

import hypothesis
import pytest
from jaxtyping import config, install_import_hook

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
install_import_hook("chiasm", "beartype.beartype")
hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # before fixtures, which may train
def pytest_runtest_setup(item):
    """Slow tests do at length what short ones do once; to enforce types there, too, would take half of their time."""
    config.update("jaxtyping_disable", item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def make_captioner():
    """A function that builds a tiny captioner in evaluation mode, equal for equal seeds.

    Its weights are larger than at the start of training, so that pictures and words matter to its logits.
    """
    import torch

    from chiasm.models import CaptionerConfig, build_model
    from chiasm.models.decoder import DecoderConfig
    from chiasm.models.language import TextRules
    from chiasm.models.vision import VitConfig

    def make(vision=None, *, vocabulary=11, context=12, dropout=0.0, seed=0, gain=4.0, **changes):
        vision = vision or VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, dropout=dropout)
        rules = TextRules(context=context)
        decoder = DecoderConfig(width=16, depth=2, heads=2, rules=rules, vocabulary=vocabulary, dropout=dropout)
        torch.manual_seed(seed)
        model = build_model(CaptionerConfig(vision=vision, decoder=decoder, **changes))
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "vision.embed" not in name:
                parameter.data.mul_(gain)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_clip():
    """A function that builds a tiny dual encoder in evaluation mode, equal for equal seeds, its weights enlarged."""
    import torch

    from chiasm.models import ClipConfig, build_model
    from chiasm.models.language import TextConfig, TextRules
    from chiasm.models.vision import VitConfig

    def make(vision=None, *, vocabulary=11, context=12, dropout=0.0, seed=0, gain=4.0, text=None, **changes):
        vision = vision or VitConfig(
            size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, pool="mean", dropout=dropout
        )
        sizes = {"width": 16, "depth": 2, "heads": 2, "vocabulary": vocabulary, "dropout": dropout} | (text or {})
        text_config = TextConfig(rules=TextRules(context=context), **sizes)
        torch.manual_seed(seed)
        model = build_model(ClipConfig(vision=vision, text=text_config, embed_dim=20, **changes))
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "vision.embed" not in name:
                parameter.data.mul_(gain)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_coca():
    """A function that builds a tiny CoCa in evaluation mode, equal for equal seeds, its weights enlarged."""
    import torch

    from chiasm.models import CocaConfig, build_model
    from chiasm.models.decoder import DecoderConfig
    from chiasm.models.language import TextRules
    from chiasm.models.vision import VitConfig

    def make(vision=None, *, vocabulary=11, context=12, dropout=0.0, seed=0, gain=4.0):
        vision = vision or VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, dropout=dropout)
        decoder = DecoderConfig(
            width=16, depth=4, heads=2, unimodal_depth=2, rules=TextRules(context=context), vocabulary=vocabulary,
            dropout=dropout,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = build_model(CocaConfig(vision=vision, latents=5, decoder=decoder, embed_dim=20))
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "vision.embed" not in name:
                parameter.data.mul_(gain)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_images():
    """A function that draws noise as pictures, equal for equal seeds."""
    import torch

    def make(pictures, size=(16, 16), seed=0):
        return torch.randn(pictures, 3, *size, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def scripted():
    """A function that builds a writer whose next-token logits are a function of the picture's number and the tokens.

    It counts the rows of each of its steps; `numbered(n)` are its pictures 0 to n - 1.
    """
    import torch

    from chiasm.models import Writer
    from chiasm.models.language import TextRules

    class Scripted(Writer):
        def __init__(self, logits, context):
            self.logits = logits
            self.rows = []
            self._rules = TextRules(context=context)

        @property
        def rules(self):
            return self._rules

        def start(self, images, beams=1):
            return [(int(image.flatten()[0]), ()) for image in images for _ in range(beams)]

        def step(self, ids, draft):
            self.rows.append(len(draft))
            draft[:] = [(picture, (*seen, i)) for (picture, seen), i in zip(draft, ids.tolist(), strict=True)]
            return torch.stack([self.logits(picture, seen[1:]).clone() for picture, seen in draft])

        def reorder(self, draft, rows):
            draft[:] = [draft[row] for row in rows.tolist()]

    def numbered(pictures):
        return torch.arange(float(pictures)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)

    def make(logits, context=12):
        writer = Scripted(logits, context)
        return writer, numbered

    return make


@pytest.fixture(scope="session")
def babble():
    """A function from a seed to logits of four words (ids 3 to 6) at random, equal for equal pictures and tokens."""
    import torch

    def make(seed, vocabulary=7, end=0.0):
        known = {}

        def logits(picture, tokens):
            if (picture, tokens) not in known:
                generator = torch.Generator().manual_seed(hash((seed, picture, tokens)) % 2**63)
                drawn = 1.5 * torch.randn(vocabulary, generator=generator)
                drawn[2] += end
                known[picture, tokens] = drawn
            return known[picture, tokens]

        return logits

    return make
