"""Text: the tokenizer that turns captions into ids and back."""

from chiasm.text.tokenizer import BOS, EOT, PAD, UNK, Tokenizer

__all__ = ["BOS", "EOT", "PAD", "UNK", "Tokenizer"]
