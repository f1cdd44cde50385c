"""Turn what a user asks for into a checked plan, before anything is trained or stored."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from filelock import FileLock

from ... import catalog
from ...errors import SettingError, StoreError
from ..recipes.pipeline import Initialisation, Recipe, Training
from ..recipes.registry import make_recipe
from ..recipes.studies import make_study
from ..store.comparison import Plan, read_plan, write_plan
from ..store.rates import read_rates

_OWN_NAMES = (  # The files of the store and of `report.FILES`.
    *("comparison.json", "runs", "plots", "report.html", "report.md", "summary.csv", "summary.tex", "results.csv"),
    *("results.parquet", "epochs.parquet", "depth.parquet", "environment.json"),
)


@dataclass(frozen=True)
class Request:
    """What a user asks for; None leaves the choice to the recipe.

    Attributes:
        recipe: Name of a recipe.
        out: Output folder; None for runs/RECIPE, with the study and the controls after it.
        activations: Strings of the catalog; not beside a study.
        study: Name of a study, which chooses activations and baseline.
        seeds: Number of runs of each activation.
        epochs: Epochs of each run.
        steps: Steps of each run, of a recipe whose epochs are so many steps; instead of epochs.
        batch_size: Examples of a step.
        context: Tokens of a window, of a recipe on text.
        micro_batch: Examples of one forward and backward pass.
        precision: "float32" or "bfloat16".
        channels_last: Whether images are kept in that memory format, where the recipe does not have it anyway.
        compiled: Whether training steps run through torch.compile.
        baseline: Activation that the others are compared with; None for the recipe's, or the first activation where
            the recipe's is not among them.
        model: Another model of the recipe, such as "mlp" or "cnn".
        device: "cpu", "cuda" or "cuda:N".
        data_dir: Folder with data files; None for GEM_ACTIVATIONS_DATA, else the user's cache folder.
        scale: "full" as in the literature, "small" for a CPU, "smoke" to try the code path.
        engine: "local": the runs one after the other in this process; "ray": on a Ray cluster, see `engine_ray`.
        ray_address: Address of the cluster, such as "auto" or "HOST:6379"; None for this machine alone.
        replicas: Runs that share a GPU of the cluster.
        initialisation: "model" or "gain"; see `pipeline.Recipe`.
        rates: File or folder of a search over learning rates, see `rates`.
        trial: Learning rate of one trial of such a search: all arms have it, and the test set is left alone.
    """

    recipe: str
    out: Path | None = None
    activations: tuple[str, ...] | None = None
    seeds: int | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    context: int | None = None
    micro_batch: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    channels_last: bool = False
    compiled: bool = False
    baseline: str | None = None
    model: str | None = None
    device: str = "cpu"
    data_dir: Path | None = None
    scale: str = "full"
    engine: str = "local"
    ray_address: str | None = None
    replicas: int = 1
    study: str | None = None
    initialisation: Initialisation | None = None
    rates: Path | None = None
    trial: float | None = None

    @property
    def folder(self) -> Path:
        """The output folder."""
        gain, tuned = "gain" if self.initialisation == "gain" else None, "tuned" if self.rates else None
        parts = (part for part in (self.recipe, self.study, gain, tuned) if part)
        return self.out or Path("runs") / "-".join(parts)


def resolve_recipe(request: Request) -> Recipe:
    """Give the recipe with the request's choices in it, all of them checked.

    Raises: SettingError: an unknown recipe, study or model, a count below 1, an option that the recipe does not have, a
        baseline that is not among the activations, learning rates of something else; StoreError: the file of learning
        rates is damaged; ActivationNameError, SpecError: a string that names no activation.
    """
    recipe = make_recipe(request.recipe, request.model, request.scale)
    if request.study is not None:
        if request.activations is not None:
            raise SettingError(f"--study {request.study} chooses the activations; leave --activations out")
        recipe = make_study(request.study, recipe)
    for name in ("seeds", "epochs", "steps", "batch_size", "context", "micro_batch"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise SettingError(f"--{name.replace('_', '-')} {value}: give a whole number of at least 1")
    given = recipe.activations if request.activations is None else request.activations
    if not given:
        raise SettingError("--activations: give at least one activation")
    activations = tuple(dict.fromkeys(str(catalog.parse(text)) for text in given))
    baseline = str(catalog.parse(request.baseline or recipe.baseline))
    if baseline not in activations:
        if request.baseline is not None:
            raise SettingError(f"--baseline {baseline} is not among the activations; add it to --activations")
        baseline = activations[0]
    recipe = dataclasses.replace(
        recipe,
        activations=activations,
        baseline=baseline,
        seeds=request.seeds or recipe.seeds,
        training=_choose_means(_choose_training(recipe.training, request), request, recipe),
        model=_choose_model(recipe, request.context),
        initialisation=_choose_initialisation(recipe, request.initialisation),
    )
    if request.trial is not None:
        training = dataclasses.replace(recipe.training, learning_rate=request.trial)
        recipe = dataclasses.replace(recipe, training=training, scored="validation")
    rates = {} if request.rates is None else read_rates(request.rates, recipe)
    return dataclasses.replace(recipe, rates=rates)


def _choose_initialisation(recipe: Recipe, name: str | None) -> Initialisation:
    known = {known: known for known in get_args(Initialisation)}
    if name is not None and name not in known:
        raise SettingError(f"--initialisation {name}: expected one of {', '.join(known)}")
    return recipe.initialisation if name is None else known[name]


def _choose_training(training: Training, request: Request) -> Training:
    epochs = request.epochs or training.epochs
    if request.steps is not None:
        if request.epochs is not None:
            raise SettingError("--steps and --epochs both set the length of a run; give one of them")
        if training.epoch_steps is None:
            raise SettingError(f"--steps {request.steps}: a run of this recipe is counted in epochs; give --epochs")
        epochs = math.ceil(request.steps / training.epoch_steps)
    batch_size = request.batch_size or training.batch_size
    return dataclasses.replace(training, epochs=epochs, steps=request.steps or training.steps, batch_size=batch_size)


def _choose_means(training: Training, request: Request, recipe: Recipe) -> Training:
    """Choose how a step is computed. It stays the same step but for rounding, and BatchNorm sees micro-batches."""
    if request.channels_last and recipe.task != "images":
        raise SettingError(f"--channels-last: {recipe.name} has no images; leave it out")
    return dataclasses.replace(
        training,
        micro_batch=request.micro_batch or training.micro_batch,
        precision=request.precision or training.precision,
        channels_last=request.channels_last or training.channels_last,
        compiled=request.compiled or training.compiled,
    )


def _choose_model(recipe: Recipe, context: int | None) -> Any:
    if context is None:
        return recipe.model
    if not hasattr(recipe.model, "context"):
        raise SettingError(f"--context {context}: {recipe.name} is no recipe on text; leave it out")
    return dataclasses.replace(recipe.model, context=context)


def find_device(text: str, *, here: bool = True) -> torch.device:
    """Give the device of a name.

    Args:
        text: "cpu", "cuda" or "cuda:N".
        here: Whether it must be on this machine.
    Raises: SettingError: the name is unknown, or the device is not there.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingError(f"--device {text}: expected cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if here and (device.index or 0) >= there:
        found = f"{there} CUDA device(s)" if device.type == "cuda" else "one device, cpu"
        raise SettingError(f"--device {text} is not there: torch finds {found} on this machine")
    return device


def check_folder(folder: Path) -> None:
    """Refuse an output folder that cannot be written, or that holds files of others under our names.

    Raises: StoreError.
    """
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
        foreign = sorted(names.intersection(_OWN_NAMES))
        # Asked anew: another process may have started the comparison while the names were listed.
        if foreign and not (folder / "comparison.json").exists():
            raise StoreError(
                f"{folder} holds {', '.join(foreign)} of no comparison; choose an empty or new --out folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"cannot write to {folder}: {reason}; choose another --out folder") from error


def agree_on_plan(request: Request, recipe: Recipe, device: torch.device, checksums: dict[str, str]) -> Plan:
    """Start the comparison of a folder or join the one that is there; more activations and seeds extend it.

    Returns: The plan as it is stored now, with the activations and seeds of every request so far.
    Raises: StoreError: the folder belongs to another comparison; the differing settings are named.
    """
    folder = request.folder
    with _lock(folder):
        stored = read_plan(folder)
        wanted = Plan(
            recipe=_plain(recipe.pipeline()),
            baseline=recipe.baseline,
            device=device.type,
            threads=recipe.threads or torch.get_num_threads(),
            data=checksums,
            activations=recipe.activations,
            seeds=recipe.seeds,
        )
        if stored is not None:
            wanted = _join(stored, wanted, request)
        if wanted != stored:
            write_plan(folder, wanted)
    return wanted


def _join(stored: Plan, wanted: Plan, request: Request) -> Plan:
    joined = dataclasses.replace(
        wanted,
        activations=tuple(dict.fromkeys(stored.activations + wanted.activations)),
        seeds=max(stored.seeds, wanted.seeds),
        threads=stored.threads,
        baseline=wanted.baseline if request.baseline else stored.baseline,
    )
    differing = _differences(stored, joined)
    if differing:
        raise StoreError(
            f"{request.folder} belongs to another comparison, which differs in {', '.join(differing)}; "
            "choose another --out folder, or give the settings that it was made with"
        )
    return joined


def _differences(stored: Plan, wanted: Plan) -> list[str]:
    old, new = _settings(stored), _settings(wanted)
    if stored.recipe.get("name") != wanted.recipe["name"]:
        old, new = {"recipe": stored.recipe.get("name")}, {"recipe": wanted.recipe["name"]}  # All else follows.
    keys = dict.fromkeys((*new, *old))  # A setting that was given then and is not given now differs too.
    return [f"{key} ({old.get(key)} there, {new.get(key)} now)" for key in keys if old.get(key) != new.get(key)]


def _settings(plan: Plan) -> dict[str, Any]:
    """Give all that must not change within a comparison, one flat entry a setting."""
    flat: dict[str, Any] = {"baseline": plan.baseline, "device": plan.device}
    flat |= {f"data.{name}": checksum[:12] for name, checksum in plan.data.items()}
    for key, value in plan.recipe.items():
        flat |= {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / ".comparison.lock")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))
