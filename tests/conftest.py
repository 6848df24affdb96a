"""Shapes and types in signatures are enforced in every test (and only there)."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from jaxtyping import install_import_hook

install_import_hook("chiasm", "beartype.beartype")
