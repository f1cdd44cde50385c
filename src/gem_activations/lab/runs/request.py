"""What a user asks for, in frozen dataclasses that the command line is made from. Nothing here imports a framework."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, Suppress, arg

from ..recipes.pipeline import Maker, Scale
from ..recipes.registry import RECIPES, STUDIES, Study


def _list(things: Mapping[str, Maker | Study]) -> str:
    """Return a list for the help, whose lines tyro leaves apart because they do not begin with a letter."""
    return "".join(f"\n- {name}: {thing.help}" for name, thing in things.items())


_RECIPES = (
    f"What is trained on what: one of these recipes, or a training function of your own as mine.py:train or "
    f"package.module:train (--help after it shows its options).{_list(RECIPES)}"
)
RECIPE = arg(metavar="RECIPE", help=f"What is trained on what: one of these recipes.{_list(RECIPES)}")
"""Of a command that takes no training function."""
_STUDIES = f"Activations and baseline of a study.{_list(STUDIES)}"
_ACTIVATIONS = (
    'Activations to compare: names of the catalog such as gelu gem "egem(eps=1e-4)" "egem(a=0.1sigma)", or your own '
    "as mine.py:Snake, torch.nn.CELU or snake=mine.py:Snake"
)

_MOST = 40
Choice = str | Callable[..., Any]
"""An activation: a string, or a class or factory of modules."""
Arms = Annotated[tuple[str, ...] | None, arg(metavar="A [B ...]", help=_ACTIVATIONS)]
"""Activations on a command line."""


@dataclass(frozen=True, kw_only=True)
class Execution(ABC):
    """How, where and how often the runs of any comparison are executed; None leaves the choice to the experiment."""

    activations: Sequence[Choice] | Mapping[str, Choice] | None = None
    """The activations that are compared, or a mapping of names to them."""
    baseline: str | None = None
    """Activation that the others are compared with; the experiment's, else the first, if not given."""
    seeds: int | None = None
    """Number of runs of each activation; the experiment's if not given."""
    seed_start: int = 0
    """First seed; with 10 and --seeds 10 the runs have the seeds 10 to 19."""
    out: Annotated[Path | str | None, arg(metavar="PATH")] = None
    """Output folder; runs/NAME, with what sets the command apart after it, if not given."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: that of a comparison begun before, else cuda if torch finds it."""
    engine: Literal["local", "ray"] = "local"
    """local: one run after the other in this process. ray: on the machines of a Ray cluster that share the folders."""
    ray_address: str | None = None
    """The Ray cluster, such as auto or HOST:6379; this machine alone if not given."""
    replicas: int = 1
    """Runs that share one GPU of the cluster."""
    until_decided: Annotated[bool, FlagCreatePairsOff] = False
    """Add seeds until each activation is decided, looking by a schedule that keeps false verdicts below 5 %."""
    max_seeds: int | None = None
    """Most seeds of each activation with --until-decided; 40 if not given."""
    retry_failed: Annotated[bool, FlagCreatePairsOff] = False
    """Run failed runs again; those that failed for want of memory, disk or data are run again anyway."""
    allow_changed: Annotated[bool, FlagCreatePairsOff] = False
    """Go on although torch, this package or the experiment's source has changed since the comparison was begun."""
    keep_checkpoints: Annotated[bool, FlagCreatePairsOff] = False
    """Keep the checkpoints of finished runs."""
    track: Sequence[Literal["tensorboard", "wandb", "mlflow"]] = ()
    """Export every run to these trackers, which must be installed."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The output folder."""

    @property
    def most(self) -> int | None:
        """Most seeds of the schedule of looks; None without one."""
        return (self.max_seeds or _MOST) if self.until_decided else None


@dataclass(frozen=True)
class Request(Execution):
    """A comparison by a recipe of the lab; None leaves the choice to the recipe."""

    recipe: Annotated[Positional[str], arg(metavar="EXPERIMENT", help=_RECIPES)]
    activations: Arms = field(default=None, kw_only=True)
    study: Annotated[str | None, arg(metavar="STUDY", help=_STUDIES)] = None
    epochs: int | None = None
    """Epochs of each run; the recipe's if not given."""
    steps: int | None = None
    """Steps of each run instead, of a recipe that is counted in steps, such as those on text."""
    batch_size: int | None = None
    """Examples of a step; the recipe's if not given."""
    learning_rate: float | None = None
    """Highest learning rate of the schedule; the recipe's if not given."""
    width: int | None = None
    """Width of the model: of its hidden layers, its first channels or its tokens; the recipe's if not given."""
    context: int | None = None
    """Tokens of a window of text; the recipe's if not given."""
    micro_batch: int | None = None
    """Examples in memory at a time: the gradients of such parts of a batch are summed; the recipe's if not given."""
    precision: Literal["float32", "bfloat16"] | None = None
    """bfloat16: forward and backward pass under autocast, weights in float32; the recipe's if not given."""
    channels_last: Annotated[bool, FlagCreatePairsOff] = False
    """Keep images and convolutions in that memory format."""
    compiled: Annotated[bool, FlagCreatePairsOff] = False
    """Run the training steps through torch.compile."""
    input_scale: float | None = None
    """Factor on the standardised pixels of images, such as 0.05; 1 if not given."""
    model: str | None = None
    """Another model of the recipe, such as mlp or cnn; the recipe's own if not given."""
    initialisation: Literal["model", "gain"] | None = None
    """model: initial weights as the model draws them. gain: the weights that read an activation's output are also
    multiplied by its gain over ReLU's; the recipe's choice if not given."""
    resplit: Annotated[bool, FlagCreatePairsOff] = False
    """Draw training, validation and test images anew for each seed, so that verdicts hold beyond one split."""
    scale: Scale = "full"
    """full: as in the literature. short: ResNet-56 on all images for 15 epochs, in bfloat16. small: a form that a CPU
    trains in minutes. smoke: seconds, to try the code path."""
    data_dir: Path | None = None
    """Folder with the data files; the environment variable GEM_ACTIVATIONS_DATA, else a cache folder, if not given.
    Files that are not there are downloaded to it. For text also any text file, or a folder of text files."""
    rates: Path | None = None
    """Folder or file of `gem-act tune`: each activation is trained at the learning rate chosen there."""
    trial: Suppress[float | None] = None
    """Learning rate of one trial of such a search: all arms have it, and the test set is left alone."""

    @property
    def folder(self) -> Path:
        """The output folder."""
        gain, tuned = "gain" if self.initialisation == "gain" else None, "tuned" if self.rates else None
        scaled = None if self.input_scale is None else f"x{self.input_scale:g}"
        parts = (part for part in (self.recipe, self.study, gain, tuned, scaled) if part)
        return Path(self.out or Path("runs") / "-".join(parts))


@dataclass(frozen=True)
class FunctionRequest(Execution):
    """A comparison by a training function of the user's own: the arguments of `compare`, and options of `gem-act`."""

    train: str | Callable[..., Mapping[str, Any]]
    _: KW_ONLY
    metric: str
    """Figure that the activations are compared by, one of those that the function returns."""
    better: Literal["higher", "lower"]
    """Whether a higher or a lower value of it is the better one."""
    margin: float | None = None
    """Differences below it are too small to matter: the margin of equivalence, in the metric's unit."""
    unit: str = ""
    """Unit of the metric, such as % or nats."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Values of the function's own parameters."""

    @property
    def folder(self) -> Path:
        """The output folder."""
        name = self.train if isinstance(self.train, str) else getattr(self.train, "__qualname__", "experiment")
        return Path(self.out or Path("runs") / name.rpartition(os.sep)[2].replace(".py:", "-").replace(":", "-"))
