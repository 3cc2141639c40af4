"""Images: labelled ones in folders and in the shipped sample, the loaders that bring them to a model, and pictures."""

from tokenbench.data.folders import for_classes, open_folder, open_training
from tokenbench.data.images import SAMPLE_CLASSES, Images, sample
from tokenbench.data.loading import Loader, loader, resolve, transform_key

__all__ = [
    "SAMPLE_CLASSES",
    "Images",
    "Loader",
    "for_classes",
    "loader",
    "open_folder",
    "open_training",
    "resolve",
    "sample",
    "transform_key",
]
