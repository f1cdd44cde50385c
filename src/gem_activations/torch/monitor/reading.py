"""The file of a monitor, read back: nothing in it is trusted."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import DataError
from .recording import EDGES, FORMAT, VERSION, LayerCount, Recording, Window

Check = Callable[[Any], bool]


def read_recording(path: str | Path) -> Recording:
    """Read a file that `Recording.save` or `DeadUnitMonitor.save` has written.

    Raises: DataError: the file is missing, truncated, altered or of another format.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no recording of a monitor: it is not text") from error
    if not lines:
        raise DataError(f"{path} is empty; expected what DeadUnitMonitor.save writes")
    heading = _parse(lines[0], f"{path}, line 1")
    if not isinstance(heading, dict) or heading.get("format") != FORMAT:
        raise DataError(f"{path} is no recording of a monitor; expected what DeadUnitMonitor.save writes")
    if heading.get("version") != VERSION:
        raise DataError(f"{path} is of version {heading.get('version')!r}; this gem-activations reads {VERSION}")
    given = {key: value for key, value in heading.items() if key not in ("format", "version")}
    _require(given, _HEADING, f"{path}, line 1")
    places = [f"{path}, line {number}" for number in range(2, len(lines) + 1)]
    windows = tuple(_window(_parse(line, place), place) for line, place in zip(lines[1:], places, strict=True))
    for before, window, place in zip(windows, windows[1:], places[1:], strict=False):
        if window.first_step <= before.last_step:
            raise DataError(f"{place}: the window begins before the one above it ends")
    return Recording(heading["interval"], heading["window"], windows)


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON, or is truncated; save the recording again") from error


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _window(value: Any, where: str) -> Window:
    _require(value, _WINDOW, where)
    if value["last_step"] < value["first_step"]:
        raise DataError(f"{where}: the window ends before it begins")
    layers = tuple(_layer(layer, f"{where}, layer {n}") for n, layer in enumerate(value["layers"], 1))
    return Window(**{**value, "layers": layers, "unseen": tuple(value["unseen"])})


def _layer(value: Any, where: str) -> LayerCount:
    _require(value, _LAYER, where)
    for name in ("never_active", "zero_gradient"):
        units = value[name] or []
        if units != sorted(set(units)) or (units and units[-1] >= value["units"]):
            raise DataError(f"{where}: {name} is no ascending list of units below {value['units']}")
    lists = {key: tuple(held) for key, held in value.items() if isinstance(held, list)}
    return LayerCount(**{**value, **lists})


def _require(value: Any, checks: Mapping[str, Check], where: str) -> None:
    if not isinstance(value, dict) or value.keys() != checks.keys():
        raise DataError(f"{where}: expected an object with {', '.join(checks)}")
    for name, is_right in checks.items():
        if not is_right(value[name]):
            raise DataError(f"{where}: {name} is not what a monitor writes; save the recording again")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_real(value) and 0 <= value <= 1


def _is_units(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


_HEADING: dict[str, Check] = {
    "interval": lambda value: _is_count(value) and value > 0,
    "window": lambda value: _is_count(value) and value > 0,
    "edges": lambda value: value == list(EDGES),
}
_WINDOW: dict[str, Check] = {
    "first_step": _is_count,
    "last_step": _is_count,
    "samples": _is_count,
    "layers": lambda value: isinstance(value, list),
    "unseen": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}
_LAYER: dict[str, Check] = {field.name: _is_count for field in fields(LayerCount)} | {
    "name": _is_text,
    "source": _is_text,
    "activation": _is_text,
    "scale": _or_none(lambda value: _is_real(value) and value > 0),
    "units": lambda value: _is_count(value) and value > 0,
    "never_active": _or_none(_is_units),
    "zero_gradient": _or_none(_is_units),
    "gate_closed": _or_none(_is_share),
    "gate_open": _or_none(_is_share),
    "rms": _or_none(lambda value: _is_real(value) and value >= 0),
    "histogram": lambda value: _is_units(value) and len(value) == len(EDGES) + 1,
}
