"""Every error the package raises on purpose, under one base class."""


class GemError(ValueError):
    """Base of every error that a user's input or environment can cause.

    The message says what was wrong, what was expected and what to do. The command line prints it as one line
    and exits with status 2.

    Example:
        >>> from gem_activations import GemError, GemSpec
        >>> try:
        ...     GemSpec(n=0)
        ... except GemError as error:
        ...     print(error)
        n=0: the smoothness order must be a whole number from 1 to 64
    """


class SpecError(GemError):
    """A parameter of an activation is out of its range, or a quantity does not exist for it."""


class ActivationNameError(GemError):
    """A name or string that names no activation of the catalog."""


class TensorError(GemError):
    """A tensor of a dtype, layout or device that the function cannot serve."""


class BackendError(GemError):
    """A backend that was asked for by name and is not available, or cannot serve the tensor."""


class MissingDependencyError(GemError, ImportError):
    """An optional library that the call needs is not installed."""


class QuantizationError(GemError):
    """A scale, zero point or width of an integer layer is out of its range, or no integer arithmetic here serves it."""


class ModelError(GemError):
    """A model does not hold what the call is to change or watch, or cannot be changed as asked."""


class RegistrationError(GemError):
    """Another library's table of activations cannot take the names of the catalog, or holds one of them already."""


class DataError(GemError):
    """A data file is missing, truncated, altered or of another format."""


class StoreError(GemError):
    """An output folder cannot be written, is damaged, or belongs to another comparison."""


class SettingError(GemError):
    """An option of a comparison is out of its range or names something that is not there."""


class ExperimentError(GemError):
    """A training function that a comparison cannot run, or that does not return what it must."""
