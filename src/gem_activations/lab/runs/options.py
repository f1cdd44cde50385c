"""The options of the command line that every command that trains takes. Nothing here imports a framework."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from ..recipes.registry import RECIPES
from ..recipes.studies import STUDIES

if TYPE_CHECKING:
    from .request import Request


def _list(makers: dict[str, Any]) -> str:
    return " ".join(f"{name}: {(maker.__doc__ or '').strip()}" for name, maker in makers.items())


_RECIPES = f"What is trained on what. {_list(RECIPES)}"
_STUDIES = f"Activations and baseline of a study. {_list(STUDIES)}"


@dataclass(frozen=True)
class Options:
    """What is trained, how and where; None leaves the choice to the recipe. See `request.Request`."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help=_RECIPES)]
    activations: Annotated[tuple[str, ...] | None, arg(metavar="A [B ...]")] = None
    """Activations to compare, such as gelu gem "egem(eps=1e-4)"; the recipe's where not given."""
    study: Annotated[str | None, arg(metavar="STUDY", help=_STUDIES)] = None
    seeds: int | None = None
    """Number of runs of each activation; the recipe's where not given."""
    epochs: int | None = None
    """Epochs of each run; the recipe's where not given."""
    steps: int | None = None
    """Steps of each run instead, of a recipe that is counted in steps, such as those on text."""
    batch_size: int | None = None
    """Examples of a step; the recipe's where not given."""
    context: int | None = None
    """Tokens of a window of text; the recipe's where not given."""
    micro_batch: int | None = None
    """Examples in memory at a time: the gradients of such parts of a batch are summed; the recipe's where not given."""
    precision: Literal["float32", "bfloat16"] | None = None
    """bfloat16: forward and backward pass under autocast, weights in float32; the recipe's where not given."""
    channels_last: Annotated[bool, FlagCreatePairsOff] = False
    """Keep images and convolutions in that memory format."""
    compiled: Annotated[bool, FlagCreatePairsOff] = False
    """Run the training steps through torch.compile."""
    model: str | None = None
    """Another model of the recipe, such as mlp or cnn; the recipe's own where not given."""
    initialisation: Literal["model", "gain"] | None = None
    """model: initial weights as the model draws them. gain: the weights that read an activation's output are also
    multiplied by its gain over ReLU's; the recipe's choice where not given."""
    scale: Literal["full", "small", "smoke"] = "full"
    """full: as in the literature. small: a form that a CPU trains in minutes. smoke: seconds, to try the code path."""
    out: Path | None = None
    """Output folder; runs/RECIPE, with what sets the command apart after it, where not given."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    data_dir: Path | None = None
    """Folder with the data files; the environment variable GEM_ACTIVATIONS_DATA, else a cache folder, where not given.
    Files that are not there are downloaded to it. For text also any text file, or a folder of text files."""
    engine: Literal["local", "ray"] = "local"
    """local: one run after the other in this process. ray: on the machines of a Ray cluster that share the folders."""
    ray_address: str | None = None
    """The Ray cluster, such as auto or HOST:6379; this machine alone where not given."""
    replicas: int = 1
    """Runs that share one GPU of the cluster."""

    def make_request(self, **more: Any) -> "Request":
        """Give the request for these options, and further ones of a command."""
        from .request import Request

        return Request(**{field.name: getattr(self, field.name) for field in fields(Options)}, **more)
