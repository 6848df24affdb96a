"""Data of any format as Examples: sources, the built-in sets, transforms, loader, inspection."""
