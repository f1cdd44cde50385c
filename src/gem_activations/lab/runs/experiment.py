"""What the runs of a comparison do: a function of a run, its arms, and what identifies it.

`of_recipe` makes an experiment of a recipe of the lab, `of_function` of a training function of the user's own, which
`load_object` finds in a file or module.
"""

import hashlib
import importlib
import importlib.util
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from ... import __version__, catalog
from ...errors import ActivationNameError, ExperimentError, GemError, SettingError
from ..models import Factory
from ..recipes.arms import Arm, parse_arm
from ..recipes.pipeline import OwnRecipe, Recipe, StoredRecipe
from ..statistics.formatting import mean_text
from ..statistics.metrics import METRICS, Metric
from ..store.comparison import CORE, to_plain
from ..training.group import Group
from ..training.run import NotFiniteError, Run, finite, to_number
from ..training.tasks import load_task
from ..training.trainer import Trainer
from .request import Choice, FunctionRequest

DEFAULT_SEEDS = 5
_ARM = re.compile(r"[A-Za-z_][\w.+-]*")


Figures = Mapping[str, float | None]


class Loaded(NamedTuple):
    """An experiment with its data.

    Attributes:
        train: (run, group) -> figures; the processes of the group train the run together.
        advance: What ranks above zero do instead of it; None if the experiment trains in one process only.
        checksums: SHA-256 of the data by name.
    """

    train: Callable[[Run, Group], Figures]
    advance: Callable[[Run, Group], None] | None
    checksums: dict[str, str]


@dataclass(frozen=True)
class Experiment:
    """What the runs of a comparison do.

    Attributes:
        settings: What identifies it; stored as the plan's `recipe`.
        arms: Name of each activation -> what makes a fresh module.
        threads: CPU threads of torch; None for torch's own choice.
        deterministic: Whether torch's deterministic algorithms are asked for.
        versions: Versions and source hashes, which must stay the same unless the user allows a change.
        load: Loads the data for a device.
        headline: The figure that is shown of a finished run, as a sentence of its figures; "" if it has none.
    """

    name: str
    settings: StoredRecipe
    arms: Mapping[str, Factory]
    baseline: str
    seeds: tuple[int, ...]
    threads: int | None
    deterministic: bool
    versions: dict[str, str]
    load: Callable[[torch.device], Loaded]
    headline: Callable[[Figures], str]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """The wanted runs, seed by seed."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]


def of_recipe(
    recipe: Recipe, data_dir: Path | None, seeds: tuple[int, ...], arms: Mapping[str, Factory] | None = None
) -> Experiment:
    """Return the experiment of a recipe with all of the user's choices in it; its arms may be the user's own."""
    arms = arms or make_arms(recipe.activations)

    def load(device: torch.device) -> Loaded:
        task = load_task(recipe, data_dir).to(device)

        def trainer(run: Run, group: Group) -> Trainer:
            return Trainer(recipe, run.name, run.seed, task, group, arms[run.name])

        return Loaded(
            lambda run, group: trainer(run, group).train(run),
            lambda run, group: trainer(run, group).advance(run),
            task.checksums,
        )

    return Experiment(
        name=recipe.name,
        settings=recipe.pipeline(),
        arms=arms,
        baseline=recipe.baseline,
        seeds=seeds,
        threads=recipe.threads,
        deterministic=True,
        versions={**_versions(), **_hash_files(*arms.values())},
        load=load,
        headline=partial(_say_recipe, METRICS[recipe.metric]),
    )


def of_function(request: FunctionRequest) -> Experiment:
    """Return the experiment of a user's training function, all of the request checked.

    Raises: SettingError: there is no such function, file or activation, or a count or option is out of its range;
        ExperimentError: the function takes no run, or its file cannot be imported; ActivationNameError, SpecError: a
        string that names no activation.
    """
    train = load_object(request.train, "a training function") if isinstance(request.train, str) else request.train
    unknown = request.options.keys() - (parameters := own_parameters(train)).keys()
    if unknown:
        known = ", ".join(parameters) or "none"
        raise SettingError(f"{_name(train)} takes no option {', '.join(sorted(unknown))}; its options are {known}")
    options = {name: parameter.default for name, parameter in parameters.items()} | dict(request.options)
    if not request.metric.strip():
        raise SettingError("--metric: name one of the figures that the training function returns")
    if request.margin is not None and not 0 < request.margin < math.inf:
        raise SettingError(f"--margin {request.margin:g}: give a positive number in the unit of {request.metric}")
    arms = make_arms(request.activations or ())
    calibrated = [name for name, arm in arms.items() if isinstance(arm, Arm) and arm.ratio is not None]
    if calibrated:
        raise SettingError(
            f"{calibrated[0]} is calibrated on a batch of a recipe; in a training function of your own give egem, and "
            "call gem_activations.torch.calibrate_(model, batch)"
        )
    baseline = request.baseline or ("gelu" if "gelu" in arms else next(iter(arms)))
    baseline = baseline if baseline in arms else str(_parse_known(baseline))
    if baseline not in arms:
        raise SettingError(f"--baseline {baseline} is not among the activations; add it to --activations")
    sources = _hash_files(train, *arms.values()) or {"source": _hash_source(train)}
    name, shown = _name(train), to_plain(options)
    settings = OwnRecipe(name, name, request.metric, request.better, request.margin, request.unit, options=shown)
    checked = partial(_train_checked, train, options, request.metric, request.unit)
    return Experiment(
        name=name,
        settings=settings,
        arms=arms,
        baseline=baseline,
        seeds=tuple(range(request.seed_start, request.seed_start + (request.seeds or DEFAULT_SEEDS))),
        threads=None,
        deterministic=False,
        versions={**_versions(), **sources},
        load=lambda _device: Loaded(checked, None, {}),
        headline=lambda figures: (
            ""
            if (value := figures.get(request.metric)) is None
            else f"{request.metric} {value:.4g} {request.unit}".rstrip()
        ),
    )


def load_object(place: str, what: str) -> Any:
    """Import what a place names: `mine.py:train`, `package.module:train` or `package.module.train`.

    A file is imported under its own name, with its folder on the path, as `python mine.py` would have it.

    Raises: SettingError: there is no such file, module or name; ExperimentError: the import raises.
    """
    module_name, _, name = place.rpartition(":") if ":" in place else place.rpartition(".")
    if not module_name or not name:
        raise SettingError(f"{place!r}: expected {what} as mine.py:NAME or package.module:NAME")
    try:
        module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    except GemError:
        raise
    except Exception as error:
        raise ExperimentError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise SettingError(f"{module_name} has no {name}; expected {what} of that name in it")
        found = getattr(found, part)
    return found


def own_parameters(train: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a training function after `run`, each with a default and an annotation.

    Raises: ExperimentError: it is no function, takes no run, or has a parameter without a default.
    Example:
        >>> def train(run, width: int = 64): ...
        >>> own_parameters(train)["width"].default
        64
    """
    if not callable(train):
        raise ExperimentError(f"{train!r} is no function; expected one that takes a run and returns a dict of figures")
    parameters = list(inspect.signature(train).parameters.values())
    if not parameters or parameters[0].name != "run" or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ExperimentError(
            f"{_name(train)} does not take a run; its first parameter must be called run: def {_name(train)}(run): ..."
        )
    own: dict[str, inspect.Parameter] = {}
    for parameter in parameters[1:]:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if parameter.default is inspect.Parameter.empty:
            raise ExperimentError(
                f"the parameter {parameter.name} of {_name(train)} has no default; give it one, as in width: int = 64"
            )
        own[parameter.name] = parameter
    return own


def make_arms(choices: Sequence[Choice] | Mapping[str, Choice]) -> dict[str, Factory]:
    """Return name -> factory of each activation, in their order; a canonical string that is given twice is one arm.

    Args:
        choices: Strings of the catalog, `mine.py:Snake`, `torch.nn.CELU` or `snake=mine.py:Snake`; classes or functions
            that make a module. A mapping gives the names itself.
    Raises: SettingError: none, two of one name, or a name that cannot be one; as `load_object`.
    Example:
        >>> list(make_arms(("gelu", "egem( n=2 )", "egem(a=.1sigma)", nn.CELU, "c=torch.nn.CELU")))
        ['gelu', 'egem(n=2, eps=1e-4)', 'egem(a=0.1sigma)', 'CELU', 'c']
    """
    named = choices.items() if isinstance(choices, Mapping) else ((None, choice) for choice in choices)
    arms: dict[str, Factory] = {}
    for given, choice in named:
        name, factory = _make_arm(choice, given)
        if name in arms:
            if given is None and isinstance(factory, Arm):
                continue
            place = choice if isinstance(choice, str) else "..."
            raise SettingError(f"two activations are called {name}; name one of them, as in other={place}")
        arms[name] = factory
    if not arms:
        raise SettingError("--activations: give at least one activation")
    return arms


def _make_arm(choice: Choice, given: str | None) -> tuple[str, Factory]:
    made, place = choice, repr(choice)
    if isinstance(choice, str):
        name, separator, place = choice.partition("=")
        if separator and _ARM.fullmatch(name):
            given = given or name
        else:
            place = choice
        if ":" not in place and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", place):
            activation = _parse_known(place)
            return given or str(activation), activation
        made = load_object(place, "an activation")
    elif isinstance(choice, nn.Module):
        raise SettingError(
            f"the activation {type(choice).__name__}(...) is a module; give its class, or a function that makes one, "
            "so that each place of a model has its own"
        )
    if not callable(made):
        raise SettingError(
            f"{place} is a {type(made).__name__}, expected a class of modules or a function that makes one"
        )
    own = str(getattr(made, "__qualname__", "")).rpartition("<locals>.")[2]
    if not given and (not own or "<" in own):
        raise SettingError(
            f"{made!r} has no name of its own; give it one, as in activations={{'mine': ...}} or mine=file.py:NAME"
        )
    name = given or own
    if not _ARM.fullmatch(name):
        raise SettingError(f"{name!r} cannot be the name of an activation; use letters, digits, _ . + and -")
    if name in catalog.ENTRIES:
        raise SettingError(f"{name} is an activation of the catalog; name your own differently, as in my_{name}=...")
    return name, cast(Factory, made)


def _parse_known(text: str) -> Arm:
    try:
        return parse_arm(text)
    except ActivationNameError as error:
        raise ActivationNameError(
            f"{error}; an activation of your own is given as mine.py:NAME or package.module:NAME"
        ) from None


def _train_checked(
    train: Callable[..., Any], options: dict[str, Any], metric: str, unit: str, run: Run, _group: Group
) -> Figures:
    """Call a user's function and check what it returns."""
    returned = train(run, **options)
    name = _name(train)
    if not isinstance(returned, Mapping):
        raise ExperimentError(
            f"{name} returned a {type(returned).__name__}, expected a dict of figures with {metric!r} among them"
        )
    if metric not in returned:
        found = ", ".join(map(str, returned)) or "nothing"
        raise ExperimentError(f"{name} returned {found}, and no {metric!r}, by which the activations are compared")
    reserved = [key for key in returned if key in CORE]
    if reserved:
        raise ExperimentError(f"{name} returned a figure called {reserved[0]!r}, which is recorded anyway; rename it")
    figures = {str(key): to_number(str(key), value) for key, value in returned.items()}
    value = figures[metric]
    if not math.isfinite(value):
        raise NotFiniteError(f"the {metric} is {value}")
    if "accuracy" in metric and not unit and value > 1:
        raise ExperimentError(
            f"{name} returned {metric} = {value:g}; an accuracy without a unit is a fraction from 0 to 1: "
            "return a fraction, or give the unit %"
        )
    return {key: finite(figure) for key, figure in figures.items()}


def _say_recipe(metric: Metric, figures: Figures) -> str:
    split = "validation" if figures.get("test_loss") is None else "test"
    field, title = (words.replace("test", split) for words in (metric.field, metric.title))
    value = replace(metric, field=field).of(figures)
    return "" if value is None else f"{title} {mean_text(value, None, metric)} {metric.unit}".rstrip()


def _name(train: Any) -> str:
    return getattr(train, "__qualname__", type(train).__name__).rpartition("<locals>.")[2]


def _versions() -> dict[str, str]:
    return {"torch": str(torch.__version__), "gem-activations": __version__}


def _hash_files(*parts: Any) -> dict[str, str]:
    """Return name -> SHA-256 of the files of the user's own functions and classes, not of installed packages."""
    files: set[Path] = set()
    for part in parts:
        try:
            path = Path(inspect.getfile(inspect.unwrap(part)))
        except (TypeError, OSError):  # Of C, a partial, or typed at a prompt.
            continue
        if path.is_file() and "site-packages" not in path.parts:
            files.add(path)
    hashes = {file.name: hashlib.sha256() for file in files}
    for file in sorted(files):
        hashes[file.name].update(file.read_bytes())  # Two files may have one name.
    return {name: found.hexdigest() for name, found in sorted(hashes.items())}


def _hash_source(train: Any) -> str:
    try:
        source = inspect.getsource(train)  # Of a notebook's cell, too.
    except (OSError, TypeError):
        source = repr(getattr(getattr(train, "__code__", None), "co_code", ""))
    return hashlib.sha256(source.encode()).hexdigest()


def _import_file(path: Path) -> types.ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise SettingError(f"there is no file {path}; name the file of your training function or activation")
    name = path.stem if path.stem.isidentifier() else "experiment"
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> types.ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise SettingError(f"there is no module {name}; for a file write {name}.py:NAME") from error
        raise
