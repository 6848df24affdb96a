"""Architectures compared on the user's data, at equal cost."""
