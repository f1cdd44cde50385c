"""Tables that know the catalog answer alike, however they are asked."""

import pytest
from torch import nn

from gem_activations.errors import SpecError
from gem_activations.torch import GEM, act_layer
from gem_activations.torch.integrations import CatalogNames


def test_get_gives_what_the_table_contains():
    table = CatalogNames(relu=nn.ReLU)
    assert table.get("relu") is nn.ReLU
    assert isinstance(table.get("gem(n=2)")(), GEM)
    assert table.get("nope") is None
    assert table.get("nope", nn.Tanh) is nn.Tanh
    assert list(table) == ["relu"]
    with pytest.raises(SpecError, match="n=0"):
        table.get("gem(n=0)")()


@pytest.mark.parametrize("module", [GEM(2, save="input"), GEM(inplace=True)], ids=repr)
def test_a_printed_module_is_a_name(module):
    assert repr(act_layer(repr(module))()) == repr(module)
    assert repr(CatalogNames()[repr(module)]()) == repr(module)
    assert repr(CatalogNames()[repr(GEM(2).spec)]()) == "GEM(n=2)"
