"""GEM where there is no floating point: int8 and int16 layers, bit-exact in NumPy and in C.

This room needs NumPy and the standard library alone. `reference` is the exactly rounded result, `table` the 256 bytes
that an int8 runtime looks up, and `integer` the table-free arithmetic, with a report over all of its inputs and the
constants that the C header of `gem-act c` holds.
"""

from .integer import IntegerLayer, Report, integer
from .quantization import Quantization, reference, table

__all__ = ["IntegerLayer", "Quantization", "Report", "integer", "reference", "table"]
