"""How pictures are prepared for published weights: Hugging Face's and OpenCLIP's settings as ours, and back."""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image

from chiasm.data.transforms import PreprocessConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESCALE = 1 / 255
HALF = (0.5, 0.5, 0.5)
VIT = {
    "size": 224, "do_center_crop": False, "resample": Image.Resampling.BILINEAR, "image_mean": HALF, "image_std": HALF,
}  # fmt: skip
Resize = Literal["crop", "squash"]


def read_processor(processor: dict[str, Any], size: tuple[int, int]) -> PreprocessConfig:
    """What a `preprocessor_config.json` says, for a model of this size; ValueError for what we do not do."""
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not processor.get(step, True):
            raise ValueError(f"{step} is false")
    if abs(processor.get("rescale_factor", RESCALE) - RESCALE) > 1e-9:
        raise ValueError(f"rescale_factor is {processor['rescale_factor']}, not 1/255")
    resized = processor.get("size", {"shortest_edge": min(size)})
    shortest = resized if isinstance(resized, int) else resized.get("shortest_edge")
    cropped = (
        _pair(processor.get("crop_size", shortest)) if processor.get("do_center_crop", shortest is not None) else None
    )
    resize: Resize
    if shortest is not None and cropped == size and shortest == min(size) and size[0] == size[1]:
        resize = "crop"
    elif shortest is None and _pair(resized) == size and cropped in (None, size):
        resize = "squash"
    else:
        raise ValueError(f"pictures resized to {resized} and cropped to {cropped or 'nothing'} for a model of {size}")
    return PreprocessConfig(
        size=size,
        resize=resize,
        interpolation=_interpolation(Image.Resampling(processor.get("resample", Image.Resampling.BICUBIC)).name),
        mean=tuple(processor.get("image_mean", CLIP_MEAN)),
        std=tuple(processor.get("image_std", CLIP_STD)),
        fast_decode=False,
    )


def read_vit_processor(processor: dict[str, Any], size: tuple[int, int]) -> PreprocessConfig:
    """The same of a ViT's, which leaves out other things: it squashes, bilinearly, to values from -1 to 1."""
    told = VIT | processor
    if isinstance(told["size"], int):
        told["size"] = {"height": told["size"], "width": told["size"]}
    return read_processor(told, size)


def read_openclip(settings: dict[str, Any], size: tuple[int, int]) -> PreprocessConfig:
    """What OpenCLIP's "preprocess_cfg" says; ValueError for what we do not do."""
    modes: dict[str, Resize] = {"shortest": "crop", "squash": "squash"}
    mode = settings.get("resize_mode", "shortest")
    if mode not in modes:
        raise ValueError(f"resize_mode is {mode!r}; known: {', '.join(modes)}")
    return PreprocessConfig(
        size=size,
        resize=modes[mode],
        interpolation=_interpolation(settings.get("interpolation", "bicubic")),
        mean=tuple(settings.get("mean", CLIP_MEAN)),
        std=tuple(settings.get("std", CLIP_STD)),
        fast_decode=False,
    )


def describe_processor(config: PreprocessConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` of a `CLIPImageProcessor`; ValueError for what it cannot express."""
    if config.resize == "pad" or config.trim:
        raise ValueError("Hugging Face's layout has no place for preprocess.resize=pad or trim=true")
    height, width = config.size
    crop = config.resize == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": height} if crop else {"height": height, "width": width},
        "resample": int(Image.Resampling[config.interpolation.upper()]),
        "do_center_crop": crop,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": RESCALE,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (size["height"], size["width"]) if isinstance(size, dict) and "height" in size else None


def _interpolation(name: str) -> Any:
    if name.lower() not in ("bicubic", "bilinear"):
        raise ValueError(f"pictures resized by {name.lower()}; known: bicubic, bilinear")
    return name.lower()
