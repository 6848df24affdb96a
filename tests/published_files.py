"""Tiny published models at random, written to disk by transformers itself, for the tests of parity."""

import json

import numpy as np
import torch
from PIL import Image

MERGES = ["o f</w>", "t h", "th e</w>", "r e", "re d</w>", "d o", "do g</w>", "c a", "ca t</w>", "p h", "o t"]
TEXTS = [
    "a photo of the red dog",
    "cat",
    "The  CAT's\n42 dogs!",
    "a thoroughly long ph ot of a cat and a dog",
    "é 🙂 dé",
    "",
]


def write_clip_tokenizer(folder, context=24):
    """CLIP's kind of tokenizer, by transformers' own class from a vocabulary and merges; returns it."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{c}</w>" for c in letters), *(m.replace(" ", "") for m in MERGES)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[tuple(m.split()) for m in MERGES], model_max_length=context)
    tokenizer.save_pretrained(folder)
    return tokenizer


def randomise(model, seed=0):
    """Every parameter at random, biases and norms too, so that none is trivially without effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 and "norm" in name and name.endswith("weight"):
            parameter.data = 1 + 0.3 * torch.randn(parameter.shape, generator=generator)
        else:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def write_clip(folder, *, act="quick_gelu", patch=8, size=16, shards=False, **changes):
    """A CLIP's folder: weights, tokenizer and picture processor; returns transformers' model and tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = write_clip_tokenizer(folder)
    shared = {"num_attention_heads": 2, "hidden_act": act, "layer_norm_eps": 1e-4}
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3,
            "max_position_embeddings": 24, "eos_token_id": tokenizer.eos_token_id, **shared,
        },
        vision_config={
            "hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 2, "image_size": size,
            "patch_size": patch, **shared,
        },
        projection_dim=12,
    )  # fmt: skip
    model = randomise(CLIPModel(config))
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if shards else {}))
    write_processor(
        folder, "CLIPImageProcessorPil", size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    return model, tokenizer


def write_processor(folder, name, **settings):
    """A picture processor's settings; returns transformers' processor."""
    import transformers

    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(folder)
    return processor


def photo(height, width, seed=0):
    """A picture with what photos have: gradients, edges, fine texture at many frequencies, and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = sum(
        np.sin(2 * np.pi * (x * np.cos(a) + y * np.sin(a)) / period + phase) / (1 + 8 / period)
        for period in (2.3, 3.7, 7, 19, 61, 150)
        for a, phase in [(random.uniform(0, np.pi), random.uniform(0, 6))]
    )
    planes = [120 + 60 * x / width + 20 * np.roll(waves, 3 * c, 1) + 50 * ((x - y) % 97 < 40) for c in range(3)]
    pixels = np.stack(planes, -1) + random.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_siglip(folder, *, patch=8, size=16, act="gelu_pytorch_tanh", vision_mlp=56):
    """A SigLIP's folder, with a tokenizer whose pad is its end and that has no beginning; returns the model."""
    import tokenizers
    from transformers import SiglipConfig, SiglipModel

    words = ["<unk>", "</s>", "a", "red", "dog", "cat", "photo", "of", "the"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "</s>", "eos_token": {"content": "</s>"}}))
    shared = {"num_attention_heads": 2, "hidden_act": act, "layer_norm_eps": 1e-5}
    config = SiglipConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
            "max_position_embeddings": 10, "projection_size": 24, **shared,
        },
        vision_config={
            "hidden_size": 24, "intermediate_size": vision_mlp, "num_hidden_layers": 2, "image_size": size,
            "patch_size": patch, **shared,
        },
    )  # fmt: skip
    model = randomise(SiglipModel(config))
    model.save_pretrained(folder)
    write_processor(folder, "SiglipImageProcessorPil", size={"height": size, "width": size})
    return model


def write_openclip(folder, model, *, size=16, patch=8, quick_gelu=True):
    """The weights of a transformers CLIP under OpenCLIP's names; tokenizer.json lies in the folder already."""
    from safetensors.torch import save_file

    theirs, ours = model.state_dict(), {}
    for tower, visual in (("vision_model", "visual."), ("text_model", "")):
        for name, tensor in theirs.items():
            if not name.startswith(f"{tower}.encoder.layers."):
                continue
            number, part = name.removeprefix(f"{tower}.encoder.layers.").split(".", 1)
            block = f"{visual}transformer.resblocks.{number}"
            side = part.rsplit(".", 1)[-1]
            if part.startswith("self_attn.q_proj"):
                fused = [theirs[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
                ours[f"{block}.attn.in_proj_{side}"] = torch.cat(fused)
            elif "k_proj" not in part and "v_proj" not in part:
                pairs = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
                         "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
                ours[f"{block}.{pairs[part.rsplit('.', 1)[0]]}.{side}"] = tensor
    for a, b in {
        "vision_model.embeddings.patch_embedding": "visual.conv1",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.embeddings.token_embedding": "token_embedding",
        "text_model.final_layer_norm": "ln_final",
    }.items():
        ours |= {f"{b}.{s}": theirs[f"{a}.{s}"] for s in ("weight", "bias") if f"{a}.{s}" in theirs}
    ours |= {
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T,
        "text_projection": theirs["text_projection.weight"].T,
        "logit_scale": theirs["logit_scale"],
    }
    save_file({name: tensor.contiguous() for name, tensor in ours.items()}, folder / "open_clip_model.safetensors")
    vision, text = model.config.vision_config, model.config.text_config
    described = {
        "model_cfg": {
            "embed_dim": model.config.projection_dim, "quick_gelu": quick_gelu,
            "vision_cfg": {
                "image_size": size, "patch_size": patch, "layers": vision.num_hidden_layers,
                "width": vision.hidden_size, "head_width": 12,
                "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            },
            "text_cfg": {
                "context_length": 24, "vocab_size": text.vocab_size, "width": text.hidden_size, "heads": 2,
                "layers": text.num_hidden_layers, "mlp_ratio": text.intermediate_size / text.hidden_size,
            },
        },
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(described))


def write_vit(folder, *, act="gelu", patch=8, size=16, classes=5, head=True, **changes):
    """A ViT's folder, with its picture processor, as a classifier or (without `head`) alone; returns the model."""
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    names = {i: f"kind {i}" for i in range(classes)}
    config = ViTConfig(
        **vit_sizes(act, patch, size), id2label=names, label2id={n: i for i, n in names.items()}, **changes
    )
    model = randomise((ViTForImageClassification if head else ViTModel)(config))
    model.save_pretrained(folder)
    write_processor(folder, "ViTImageProcessorPil", size={"height": size, "width": size})
    return model


def vit_sizes(act="gelu", patch=8, size=16):
    return {
        "hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": size, "patch_size": patch, "hidden_act": act,
    }  # fmt: skip


def write_gpt2_tokenizer(folder):
    """GPT-2's kind of tokenizer: bytes, and one reserved token, the last; returns transformers' own."""
    from transformers import GPT2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    pieces = [*bytes_to_unicode().values(), "Ġr", "Ġre", "Ġred", "<|endoftext|>"]
    tokenizer = GPT2Tokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[("Ġ", "r"), ("Ġr", "e"), ("Ġre", "d")]
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def gpt2_settings(tokenizer, **changes):
    from transformers import GPT2Config

    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "n_inner": 40, "layer_norm_epsilon": 1e-4}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPT2Config(vocab_size=len(tokenizer), **ids, **(sizes | changes))


def write_gpt2(folder, **changes):
    """A GPT-2's folder; returns transformers' model and tokenizer."""
    from transformers import GPT2LMHeadModel

    tokenizer = write_gpt2_tokenizer(folder)
    model = randomise(GPT2LMHeadModel(gpt2_settings(tokenizer, **changes)))
    model.save_pretrained(folder)
    return model, tokenizer


def write_vit_gpt2(folder, *, width=16, ending=0.7, seed=0):
    """A captioner's folder: a ViT (24 wide), a GPT-2 that reads it, tokenizer, processor; the model and tokenizer."""
    from transformers import GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

    tokenizer = write_gpt2_tokenizer(folder)
    decoder = GPT2LMHeadModel(gpt2_settings(tokenizer, n_embd=width, add_cross_attention=True))
    model = randomise(VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(**vit_sizes())), decoder=decoder), seed)
    inner, generator = model.decoder.transformer, torch.Generator().manual_seed(seed)
    for block in inner.h:
        block.crossattention.c_proj.weight.data *= 4  # so that texts differ by their picture,
        block.crossattention.q_attn.weight.data *= 4
    inner.wpe.weight.data *= 3  # and words by their place,
    end = torch.randn(width, generator=generator)
    inner.wpe.weight.data += (torch.arange(24.0)[:, None] / 5 - 1) * end  # and every text comes to its end
    inner.wte.weight.data[-1] += ending * end
    model.config.decoder_start_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    write_processor(folder, "ViTImageProcessorPil", size={"height": 16, "width": 16})
    return model, tokenizer
