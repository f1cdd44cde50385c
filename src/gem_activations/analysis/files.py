"""Files that appear whole or not at all: the core's writer, under the name that the certificates use."""

from ..files import write_atomically

__all__ = ["write_atomically"]
