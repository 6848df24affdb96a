"""Picture encoders: which token shows which place, how pooling reads them, and other sizes than trained."""

import pytest
import torch

from chiasm.models.vision import Conv, ConvConfig, Vit, VitConfig, build_vision, without_some
from chiasm.nn import resize_grid, weight_decay_groups

SMALL = {"size": (24, 32), "patch_pixels": 8, "width": 16, "heads": 2}


def make(config, seed=0):
    torch.manual_seed(seed)
    return build_vision(config).eval()


def images(size=(24, 32), rows=2):
    return torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(1))


def test_a_configuration_builds_its_own_encoder():
    assert isinstance(make(VitConfig(**SMALL)), Vit) and isinstance(make(ConvConfig()), Conv)


def test_tokens_stand_in_row_order():
    encoder = make(VitConfig(**SMALL, depth=0))  # no block mixes places
    before = images()
    for row in range(3):
        for column in range(4):
            after = before.clone()
            after[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
            changed = (encoder(before).tokens != encoder(after).tokens).any(-1)
            assert changed[0].nonzero()[:, 0].tolist() == [row * 4 + column]


def test_the_vit_is_patches_positions_blocks_and_a_norm():
    encoder = make(VitConfig(**SMALL, depth=2))
    x = (encoder.embed(images()) + encoder.positions.table).flatten(2).transpose(1, 2)
    for block in encoder.blocks:
        x = block(x)
    assert torch.equal(encoder(images()).tokens, encoder.norm(x))
    assert encoder(images()).pooled is None


def test_the_class_token_reads_the_grid_but_is_no_part_of_it():
    encoder = make(VitConfig(**SMALL, depth=1, pool="cls"))
    x = (encoder.embed(images()) + encoder.positions.table).flatten(2).transpose(1, 2)
    x = encoder.norm(encoder.blocks[0](torch.cat([encoder.cls.expand(2, 1, 16), x], 1)))
    seen = encoder(images())
    assert torch.equal(seen.pooled, x[:, 0]) and torch.equal(seen.tokens, x[:, 1:])


@pytest.mark.parametrize("pool", ["none", "cls", "mean", "attention", "map"])
def test_registers_take_part_without_a_place_and_are_dropped(pool):
    encoder = make(VitConfig(**SMALL, depth=2, pool=pool, registers=3))
    assert encoder.registers.shape == (3, 16) and encoder.registers.std() < 0.05
    grid = (encoder.embed(images()) + encoder.positions.table).flatten(2).transpose(1, 2)
    first = [] if pool != "cls" else [encoder.cls.expand(2, 1, 16)]
    x = torch.cat([*first, encoder.registers.expand(2, 3, 16), grid], 1)  # where they stand does not matter
    for block in encoder.blocks:
        x = block(x)
    x = encoder.norm(x)
    seen = encoder(images())
    torch.testing.assert_close(seen.tokens, x[:, -12:], rtol=1e-4, atol=1e-5)
    if pool == "cls":
        torch.testing.assert_close(seen.pooled, x[:, 0], rtol=1e-4, atol=1e-5)
    if pool == "mean":
        torch.testing.assert_close(seen.pooled, x[:, -12:].mean(1), rtol=1e-4, atol=1e-5)
    before = seen.tokens
    encoder.registers.data *= -50
    assert (encoder(images()).tokens - before).abs().max() > 1e-4


@pytest.mark.parametrize("pool", ["cls", "mean", "attention", "map"])
def test_every_register_gets_a_gradient_and_none_decays(pool):
    encoder = make(VitConfig(**SMALL, depth=1, pool=pool, registers=3)).double().train()
    encoder(images().double()).pooled[:, 0].sum().backward()
    assert encoder.registers.grad.abs().amax(1).min() > 1e-10
    assert any(p is encoder.registers for p in weight_decay_groups(encoder, 0.1)[1]["params"])


@pytest.mark.parametrize(
    "make_config", [lambda pool: VitConfig(**SMALL, pool=pool), lambda pool: ConvConfig(pool=pool)]
)
def test_mean_and_attention_pool_the_tokens(make_config):
    pictures = images((32, 32))
    seen = make(make_config("mean"))(pictures)
    torch.testing.assert_close(seen.pooled, seen.tokens.mean(1))
    encoder = make(make_config("attention"))
    seen = encoder(pictures)
    assert torch.equal(seen.pooled, encoder.pool.reader(type(seen)(tokens=seen.tokens)).tokens[:, 0])


@pytest.mark.parametrize("patch_pixels, stages", [(2, 1), (4, 2), (8, 3), (16, 4)])
def test_a_conv_stem_has_the_stride_of_the_patches(patch_pixels, stages):
    config = VitConfig(size=(32, 48), patch_pixels=patch_pixels, width=16, depth=0, heads=2, stem="conv")
    encoder = make(config)
    assert len(encoder.embed) == 2 * stages
    assert encoder.embed(images((32, 48))).shape == (2, 16, 32 // patch_pixels, 48 // patch_pixels)
    assert encoder(images((32, 48))).tokens.shape == (2, (32 // patch_pixels) * (48 // patch_pixels), 16)


def test_conv_tokens_are_its_last_grid_with_positions():
    encoder = make(ConvConfig(size=(16, 24), widths=(8, 16)))
    grid = encoder.stages(images((16, 24)))
    assert grid.shape == (2, 16, 4, 6)
    x = encoder.norm((grid + encoder.positions.table).permute(0, 2, 3, 1).flatten(1, 2))
    torch.testing.assert_close(encoder(images((16, 24))).tokens, x)


@pytest.mark.parametrize("config", [VitConfig(**SMALL, depth=1), VitConfig(**SMALL, depth=1, stem="conv")])
def test_another_resolution_reads_interpolated_positions(config):
    encoder = make(config)
    pictures = images((48, 40))
    grid = encoder.embed(pictures)
    x = (grid + resize_grid(encoder.positions.table, 6, 5)).flatten(2).transpose(1, 2)
    assert torch.equal(encoder(pictures).tokens, encoder.norm(encoder.blocks[0](x)))


@pytest.mark.parametrize("config", [VitConfig(**SMALL), VitConfig(**SMALL, stem="conv"), ConvConfig(size=(24, 32))])
def test_a_picture_s_tokens_do_not_depend_on_its_batch(config):
    encoder, pictures = make(config).train(), images(rows=5)
    together = encoder(pictures).tokens
    for row in range(5):
        torch.testing.assert_close(encoder(pictures[row : row + 1]).tokens[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind, settings, told",
    [
        (VitConfig, {"size": (60, 64)}, "60 x 64 pixels is not a whole number of 8-pixel patches"),
        (VitConfig, {"size": (0, 64)}, "0 x 64"),
        (VitConfig, {"width": 256, "heads": 3}, "not a multiple of heads 3"),
        (VitConfig, {"registers": -1}, "registers is -1"),
        (VitConfig, {"heads": 0}, "not a multiple of heads 0"),
        (VitConfig, {"patch_pixels": 0}, "0-pixel patches"),
        (VitConfig, {"width": 6, "heads": 2}, "multiple of 4"),
        (VitConfig, {"stem": "conv", "size": (60, 60), "patch_pixels": 6}, "power of 2"),
        (VitConfig, {"stem": "conv", "patch_pixels": 1}, "power of 2"),
        (VitConfig, {"stem": "conv", "width": 12}, "width 12 is not a multiple of 8"),
        (ConvConfig, {"widths": ()}, "at least one"),
        (ConvConfig, {"widths": (8, 12)}, "multiples of 8"),
        (ConvConfig, {"size": (36, 32)}, "36 x 32 pixels is not a whole number of 8-pixel patches"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, settings, told):
    with pytest.raises(ValueError, match=told):
        kind(**settings)


@pytest.mark.parametrize("pool", ["none", "cls", "mean"])
def test_patch_dropout_shows_training_a_share_of_the_patches_told_by_the_generator(pool):
    config = VitConfig(size=(32, 32), patch_pixels=8, width=16, depth=1, heads=2, pool=pool, patch_dropout=0.75)
    vit, images = Vit(config), torch.randn(2, 3, 32, 32)

    def tokens(seed):
        torch.manual_seed(seed)
        return vit(images).tokens

    assert tokens(0).shape == (2, 4, 16)
    assert torch.equal(tokens(0), tokens(0)) and not torch.equal(tokens(0), tokens(1))
    vit.eval()
    assert tokens(0).shape == (2, 16, 16) and torch.equal(tokens(0), tokens(1))


def test_patch_dropout_takes_each_rows_own_tokens_in_their_order():
    x = torch.arange(64.0).view(2, 32, 1)
    left = without_some(x, 0.5)[..., 0]
    assert left.shape == (2, 16) and bool((left.diff() > 0).all())
    assert left[0].max() < 32 <= left[1].min() and left[0].tolist() != (left[1] - 32).tolist()
    assert without_some(x, 0.999).shape == (2, 1, 1)


def test_a_patch_dropout_of_all_is_refused():
    with pytest.raises(ValueError, match="patch_dropout is 1"):
        VitConfig(patch_dropout=1.0)
