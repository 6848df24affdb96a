"""Published Perceivers against transformers' own."""

import json

import pytest
import torch

from chiasm.errors import UserError
from chiasm.pretrained import load_pretrained
from chiasm.pretrained.perceiver import byte_tokenizer

SIZES = {
    "num_latents": 5, "d_latents": 32, "d_model": 24, "num_blocks": 2, "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4, "num_cross_attention_heads": 1, "max_position_embeddings": 20,
}  # fmt: skip
PICTURES = "PerceiverForImageClassification"


def publish(folder, kind, processor=None, **changes):
    """A randomly initialised Perceiver's folder, every tensor at random, so that none can be forgotten; the model."""
    import transformers

    torch.manual_seed(0)
    labels = {0: "ant", 1: "bee", 2: "cow"}
    config = transformers.PerceiverConfig(
        **SIZES | changes, id2label=labels, label2id={name: i for i, name in labels.items()}
    )
    model = getattr(transformers, kind)(config).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn_like(tensor) * (0.6 if tensor.ndim > 1 else 0.1)
            tensor.copy_(noise.abs() + 0.5 if "running_var" in name or "norm" in name else noise)
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_channels": 16, "v_channels": 32, "num_cross_attention_heads": 4, "self_attention_widening_factor": 3},
        {"cross_attention_shape_for_attention": "q", "use_query_residual": False, "cross_attention_widening_factor": 2},
    ],
    ids=["kv", "widths", "q"],
)
def test_the_masked_language_model(tmp_path, changes):
    theirs = publish(tmp_path, "PerceiverForMaskedLM", **changes)
    ours, tokenizer, _ = load_pretrained(tmp_path)
    ids = torch.randint(6, 262, (3, 14), generator=torch.Generator().manual_seed(1))
    ids[:, 4:6] = 3  # [MASK]
    keep = torch.arange(14) < torch.tensor([14, 9, 11])[:, None]
    with torch.no_grad():
        expected = theirs(inputs=ids, attention_mask=keep.long()).logits[:, :14]
        logits = ours.head(ours(ids, keep))
        masked = torch.zeros_like(keep)
        masked[:, 4:6] = True
        again = ours.head(ours(ids.masked_fill(masked, 77), keep, masked))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-4)
    assert (expected[:, 4] - expected[:, 7]).std() > 0.1 and expected.std(0).mean() > 0.1
    assert tokenizer.vocab_size == ours.config.vocabulary == 262


CHECKPOINTS = {
    "learned": ("Learned", (12, 12), {"image_size": 12, "num_cross_attention_heads": 4}),
    "fourier": ("Fourier", (10, 10), {}),
    "conv": ("ConvProcessing", (37, 37), {}),
    "conv-even": ("ConvProcessing", (32, 32), {"cross_attention_shape_for_attention": "q"}),
}


@pytest.mark.parametrize(("kind", "size", "changes"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_classes_of_pictures(tmp_path, kind, size, changes):
    processor = {"size": {"height": size[0], "width": size[1]}, "image_mean": [0.1, 0.2, 0.3]}
    theirs = publish(tmp_path, PICTURES + kind, processor, **changes)
    ours, tokenizer, preprocess = load_pretrained(tmp_path)
    assert tokenizer is None and ours.classes == ("ant", "bee", "cow")
    assert (preprocess.size, preprocess.mean) == (size, (0.1, 0.2, 0.3))
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    from chiasm.models.inputs import Given

    with torch.no_grad():
        expected, logits = theirs(inputs=images).logits, ours({"picture": Given(images)})
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    assert expected.std(0).min() > 0.05


@pytest.mark.parametrize("text", ["a dog", "", "Grüße, 世界 \N{DOG FACE}", "[MASK] [CLS]", "\n\t tab"])
def test_bytes_are_those_of_transformers(text):
    from transformers import PerceiverTokenizer

    ours = byte_tokenizer()
    rows = ours.rows([text], context=100)
    theirs = [4, *(byte + 6 for byte in text.encode()), 5]
    assert rows[0] == theirs and ours.decode(rows[0]) == text
    if "[" not in text:  # whose own takes the characters for the token
        assert PerceiverTokenizer()(text)["input_ids"] == theirs


def test_a_byte_tokenizer_is_saved_and_read(tmp_path):
    ours = byte_tokenizer()
    ours.save(tmp_path / "tokenizer.json")
    assert type(ours).load(tmp_path / "tokenizer.json") == ours


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architectures": ["PerceiverForOpticalFlow"]}, "PerceiverForOpticalFlow"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_self_attends_per_block": 3}, "missing"),
    ],
)
def test_what_is_unknown_or_missing_is_named(tmp_path, changes, match):
    publish(tmp_path, PICTURES + "Learned", image_size=4)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=match):
        load_pretrained(tmp_path)
