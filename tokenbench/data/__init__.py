"""Images: labelled ones in folders and in the shipped sample, the loaders that bring them to a model, and pictures."""

from tokenbench.data.folders import open_folder, open_training
from tokenbench.data.images import SAMPLE_CLASSES, Images, sample
from tokenbench.data.labels import check_classes, match, restricted, told_of_part
from tokenbench.data.loading import Among, Loader, loader, resolve, transform_key

__all__ = [
    "SAMPLE_CLASSES",
    "Among",
    "Images",
    "Loader",
    "check_classes",
    "loader",
    "match",
    "open_folder",
    "open_training",
    "resolve",
    "restricted",
    "sample",
    "told_of_part",
    "transform_key",
]
