"""The data sets of images by their names."""

from pathlib import Path

from ..recipes.pipeline import Subset
from .cifar import load_cifar
from .mnist import load_digits, load_mnist
from .sources import SOURCES
from .splits import WHOLE, Dataset


def load_dataset(name: str, data_dir: Path | None = None, subset: Subset = WHOLE, shrink: int = 1) -> Dataset:
    """Load a data set by its name.

    Args:
        name: "digits", "mnist", "fashion-mnist", "cifar10", "cifar100" or "stl10".
        data_dir: Folder with the files; None for the environment variable GEM_ACTIVATIONS_DATA, else for the user's
            cache folder. Files that are not there are downloaded to it and checked.
        subset: How many examples of each split are used.
        shrink: Side of the squares of a colour image whose mean becomes one pixel.
    Raises: DataError: a file is damaged or foreign, or is neither there nor can be downloaded.
    """
    if name == "digits":
        return load_digits()
    if name in ("mnist", "fashion-mnist"):
        return load_mnist(SOURCES[name], data_dir, subset)
    return load_cifar(name, data_dir, subset, shrink)
