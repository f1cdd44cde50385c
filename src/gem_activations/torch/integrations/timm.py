"""The names of the catalog as `act_layer` of timm's models."""

import importlib
import importlib.util
from typing import Any

from ... import catalog
from ...errors import RegistrationError
from ...extras import framework
from .names import CatalogNames, refuse_conflicts

_TABLE = "_ACT_LAYER_DEFAULT"
_FIRST = "_ACT_LAYER_ME"  # Where get_act_layer looks before.


def register_timm() -> tuple[str, ...]:
    """Make every activation string valid as `act_layer` of timm: create_model("resnet18", act_layer="gem(n=2)").

    `act_layer("gem(n=2)")` gives a factory that timm takes without this, through its public interface. timm has no
    interface for new names: this replaces the table that its `get_act_layer` reads. Calling it again changes nothing,
    and checks once more that no other package has taken a name.

    Returns: The bare names that timm has itself, in the catalog's order. They keep timm's meaning; with parentheses, as
        in "leaky_relu(negative_slope=0.2)", they are the catalog's. timm writes names in lower case before it looks.
    Raises: MissingDependencyError: timm, or torchvision, which it needs, is not installed, or timm is older than 1.0;
        RegistrationError: another package has put a name of the catalog into timm's tables, or this version of timm
        keeps its activations in another way.
    """
    with framework("timm", at_least="1.0", install="timm"):
        home = importlib.import_module("timm.layers.create_act")
    table = getattr(home, _TABLE, None)
    if not isinstance(table, dict) or not hasattr(home, "get_act_layer"):
        raise RegistrationError(
            f"this version of timm does not keep its activations in layers.create_act.{_TABLE}, as 1.0 does; give "
            "act_layer=gem_activations.torch.act_layer(...) to its models instead"
        )
    # The file of the module once more, apart from the module: timm keeps no second list of its names.
    spec: Any = importlib.util.find_spec(home.__name__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    refuse_conflicts("timm's table of activations", _names(home), _names(fresh))
    if not isinstance(table, CatalogNames):
        table = CatalogNames(table)
        setattr(home, _TABLE, table)
    return tuple(name for name in catalog.ENTRIES if dict.__contains__(table, name))


def _names(home: Any) -> set[str]:
    return {*getattr(home, _TABLE, ()), *getattr(home, _FIRST, ())}
