"""Lengthwise: grids of sequence models, trained short and evaluated long. Importing this package is cheap."""

__version__ = "0.1.0"
