"""Turn what a user asks for into a checked plan, before anything is trained or stored."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ... import catalog
from ...errors import SettingError, StoreError
from ..data.holdings import find_data_dir
from ..recipes.arms import parse_arm
from ..recipes.pipeline import Cnn, Mlp, Recipe, Training
from ..recipes.registry import make_recipe, make_study
from ..statistics.reading import look_again
from ..statistics.sequential import FIRST
from ..store import comparison as store
from ..store.rates import read_rates
from ..training.run import MOST_EPOCHS
from .experiment import Experiment, make_arms, of_function, of_recipe
from .request import Execution, FunctionRequest, Request
from .tracking import check_trackers

_LOG = logging.getLogger(__name__)
_OWN_NAMES = (  # The files of the store and of `report.FILES`.
    *("comparison.json", store.LOOKS, "runs", "plots", "report.html", "report.md", "summary.csv", "summary.tex"),
    *("results.csv", "results.parquet", "epochs.parquet", "depth.parquet", "environment.json"),
)


def resolve(request: Execution) -> Experiment:
    """Return the experiment that a request asks for, all of it checked.

    Raises: GemError: something in the request is wrong.
    """
    if request.seeds is not None and request.seeds < 1:
        raise SettingError(f"--seeds {request.seeds}: give a whole number of at least 1")
    if request.seed_start < 0:
        raise SettingError(f"--seed-start {request.seed_start}: give a whole number from 0 up")
    if request.max_seeds is not None and not request.until_decided:
        raise SettingError(f"--max-seeds {request.max_seeds} belongs to --until-decided; add it, or give --seeds")
    if request.until_decided:
        if request.seeds is not None:
            raise SettingError(f"--seeds {request.seeds}: --until-decided adds seeds by its schedule; give --max-seeds")
        if request.max_seeds is not None and request.max_seeds <= FIRST:
            raise SettingError(f"--max-seeds {request.max_seeds}: give more than the {FIRST} seeds of the first look")
        if request.retry_failed:
            raise SettingError("--retry-failed would change results that --until-decided has looked at; leave it out")
    check_trackers(request.track)
    experiment = of_function(request) if isinstance(request, FunctionRequest) else _resolve_lab(request)
    if request.until_decided and len(experiment.arms) < 2:
        raise SettingError("--until-decided: give an activation to decide on beside the baseline")
    return experiment


def _resolve_lab(request: Execution) -> Experiment:
    assert isinstance(request, Request)
    recipe = resolve_recipe(request)
    find_data_dir(request.data_dir)  # Before anything is made.
    seeds = tuple(range(request.seed_start, request.seed_start + recipe.seeds))
    arms = make_arms(request.activations or recipe.activations)
    known = [name for name in arms if name.partition("(")[0] in catalog.ENTRIES and str(parse_arm(name).base) == name]
    if recipe.initialisation == "gain" and len(known) < len(arms):
        raise SettingError("--initialisation gain needs activations of the catalog, whose gain is known; leave it out")
    return of_recipe(recipe, request.data_dir, seeds, arms)


def resolve_recipe(request: Request) -> Recipe:
    """Return the recipe with the request's choices in it, all of them checked.

    Raises: GemError: a choice that is unknown, out of its range or not one of the recipe's; learning rates of another
        recipe, or damaged.
    """
    recipe = make_recipe(request.recipe, request.model, request.scale)
    if request.study is not None:
        if request.activations is not None:
            raise SettingError(f"--study {request.study} chooses the activations; leave --activations out")
        recipe = make_study(request.study, recipe)
    _check_numbers(request, recipe)
    arms = make_arms(recipe.activations if request.activations is None else request.activations)
    activations = tuple(arms)
    baseline = request.baseline or recipe.baseline
    baseline = baseline if baseline in arms else str(parse_arm(baseline))
    if baseline not in activations:
        if request.baseline is not None:
            raise SettingError(f"--baseline {baseline} is not among the activations; add it to --activations")
        baseline = activations[0]
    recipe = dataclasses.replace(
        recipe,
        activations=activations,
        baseline=baseline,
        seeds=request.seeds or recipe.seeds,
        training=_choose_training(recipe.training, request, recipe),
        model=_choose_model(recipe, request),
        initialisation=request.initialisation or recipe.initialisation,
        input_scale=request.input_scale or recipe.input_scale,
    )
    if request.resplit and (recipe.task != "images" or recipe.data == "stl10"):
        why = "its text has one split" if recipe.task != "images" else "its seeds have the data set's own folds"
        raise SettingError(f"--resplit: {recipe.name} cannot draw splits, {why}; leave it out")
    recipe = dataclasses.replace(recipe, resplit=request.resplit)
    if request.trial is not None:
        training = dataclasses.replace(recipe.training, learning_rate=request.trial)
        recipe = dataclasses.replace(recipe, training=training, scored="validation")
    rates = {} if request.rates is None else read_rates(request.rates, recipe)
    return dataclasses.replace(recipe, rates=rates)


def _check_numbers(request: Request, recipe: Recipe) -> None:
    for name in ("epochs", "steps", "batch_size", "width", "context", "micro_batch"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise SettingError(f"--{name.replace('_', '-')} {value}: give a whole number of at least 1")
    if request.learning_rate is not None and not 0 < request.learning_rate < math.inf:
        raise SettingError(f"--learning-rate {request.learning_rate:g}: give a positive number")
    if request.epochs is not None and request.epochs > MOST_EPOCHS:
        raise SettingError(f"--epochs {request.epochs}: give at most {MOST_EPOCHS:,}")
    if request.input_scale is not None:
        if recipe.task != "images":
            raise SettingError(f"--input-scale: {recipe.name} has no images; leave it out")
        if not 0 < request.input_scale < math.inf:
            raise SettingError(f"--input-scale {request.input_scale:g}: give a positive number")


def _choose_training(training: Training, request: Request, recipe: Recipe) -> Training:
    """Return the training with the request's choices; it refuses those that the recipe does not have."""
    if request.channels_last and recipe.task != "images":
        raise SettingError(f"--channels-last: {recipe.name} has no images; leave it out")
    names = ("epochs", "steps", "batch_size", "learning_rate", "micro_batch", "precision", "channels_last", "compiled")
    chosen = {name: value for name in names if (value := getattr(request, name))}
    if request.steps is not None:
        if request.epochs is not None:
            raise SettingError("--steps and --epochs both set the length of a run; give one of them")
        if training.epoch_steps is None:
            raise SettingError(f"--steps {request.steps}: a run of this recipe is counted in epochs; give --epochs")
        chosen["epochs"] = math.ceil(request.steps / training.epoch_steps)
    return dataclasses.replace(training, **chosen)


def _choose_model(recipe: Recipe, request: Request) -> Any:
    model = recipe.model
    if request.context is not None:
        if not hasattr(model, "context"):
            raise SettingError(f"--context {request.context}: {recipe.name} is no recipe on text; leave it out")
        model = dataclasses.replace(model, context=request.context)
    if request.width is not None:
        width = request.width
        if width % getattr(model, "heads", 1):
            raise SettingError(f"--width {width}: the model has {model.heads} heads, which must divide its width")
        if isinstance(model, Mlp):
            model = dataclasses.replace(model, hidden=(width,) * len(model.hidden))
        elif isinstance(model, Cnn):
            model = dataclasses.replace(model, channels=tuple(width << block for block in range(len(model.channels))))
        else:
            model = dataclasses.replace(model, width=width)
    return model


def find_device(text: str, *, here: bool = True) -> torch.device:
    """Return the device "cpu", "cuda" or "cuda:N"; if it is to be `here`, it must be on this machine.

    Raises: SettingError: the name is unknown, or the device is not there.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingError(f"--device {text}: expected auto, cpu, cuda or cuda:N")
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


def agree_on_plan(
    request: Execution, experiment: Experiment, device: torch.device, checksums: dict[str, str]
) -> store.Plan:
    """Start the comparison of a folder or join the one that is there, and return the plan as it is stored now.

    More activations and seeds extend it: it has those of every request so far.

    Raises: StoreError: the folder belongs to another comparison, or torch, this package or the experiment's source has
        changed while runs are still to be made; what differs is named.
    """
    folder = request.folder
    with _lock(folder):
        stored = store.read_plan(folder)
        wanted = store.Plan(
            recipe=experiment.settings,
            baseline=experiment.baseline,
            device=device.type,
            threads=experiment.threads or torch.get_num_threads(),
            data=checksums,
            activations=tuple(experiment.arms),
            seeds=experiment.seeds,
            versions=experiment.versions,
            max_seeds=request.most,
        )
        if stored is not None:
            wanted = _join(stored, wanted, request)
        if wanted != stored:
            store.write_plan(folder, wanted)
    return wanted


def _join(stored: store.Plan, wanted: store.Plan, request: Execution) -> store.Plan:
    folder = request.folder
    joined = dataclasses.replace(
        wanted,
        activations=tuple(dict.fromkeys(stored.activations + wanted.activations)),
        seeds=tuple(sorted({*stored.seeds, *wanted.seeds})),
        threads=stored.threads,
        baseline=wanted.baseline if request.baseline else stored.baseline,
        extended=stored.extended,
    )
    old, new = _settings(stored), _settings(joined)
    if stored.recipe.name != joined.recipe.name:
        old, new = {"recipe": stored.recipe.name}, {"recipe": joined.recipe.name}  # All else follows.
    differing = _differing(old, new, "there", "now")
    if differing:
        raise StoreError(
            f"{folder} belongs to another comparison, which differs in {', '.join(differing)}; "
            "choose another --out folder, or give the settings that it was made with"
        )
    others = set(wanted.activations) != set(stored.activations) or wanted.seeds[0] != stored.seeds[0]
    if joined.max_seeds is not None and others:
        raise StoreError(
            f"{folder} adds seeds from {stored.seeds[0]} on until {', '.join(stored.activations)} are decided; "
            "give the same --activations and --seed-start, or choose another --out folder"
        )
    if joined.max_seeds is None and len(joined.seeds) > len(stored.seeds) and any(_finished(folder, stored)):
        joined = dataclasses.replace(joined, extended=(*stored.extended, len(stored.seeds)))
    return dataclasses.replace(joined, versions=_join_versions(stored, wanted, request))


def _finished(folder: Path, plan: store.Plan) -> list[bool]:
    return [
        (run := store.read_result(folder, *key)) is not None and run.status == store.FINISHED for key in plan.runs()
    ]


def _join_versions(stored: store.Plan, wanted: store.Plan, request: Execution) -> dict[str, str]:
    """Return the versions that the plan is to hold; a change is refused if it would come between the runs."""
    changed = _differing(stored.versions, wanted.versions, "then", "now")
    if not changed:
        return wanted.versions
    ended = _finished(request.folder, stored)
    if not any(ended):
        return wanted.versions
    if all(ended) and set(wanted.runs()) <= set(stored.runs()):
        return stored.versions  # Nothing is run: the report is made anew.
    what = f"since the comparison in {request.folder} was begun, these have changed: {', '.join(changed)}"
    if not request.allow_changed:
        raise StoreError(f"{what}; choose another --out folder, or give --allow-changed to go on with the new ones")
    _LOG.warning("%s; its runs differ in them", what)
    return wanted.versions


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], *when: str) -> list[str]:
    """Name each setting in which two differ, with both values; one that only one of them has differs too."""

    def short(value: Any) -> Any:
        return f"source {value[:8]}" if isinstance(value, str) and len(value) == 64 else value

    keys = [key for key in dict.fromkeys((*new, *old)) if old.get(key) != new.get(key)]
    return [f"{key} ({short(old.get(key))} {when[0]}, {short(new.get(key))} {when[1]})" for key in keys]


def _settings(plan: store.Plan) -> dict[str, Any]:
    """Return all that must not change within a comparison, one flat entry a setting."""
    flat: dict[str, Any] = {"baseline": plan.baseline, "device": plan.device, "max_seeds": plan.max_seeds}
    flat |= {f"data.{name}": checksum[:12] for name, checksum in plan.data.items()}
    return flat | store.flatten(plan.recipe)


def look(folder: Path) -> tuple[store.Comparison, tuple[str, ...]]:
    """Look at the results of a comparison that adds seeds until its arms are decided, and record it in `looks.json`.

    Return the comparison, with the looks that have all of their runs; and the arms that get more seeds, the baseline
    first, or none if all are decided.

    Raises: StoreError: the results are no longer those that were looked at before.
    """
    comparison = store.load_comparison(folder)
    _, looks, still_open = look_again(comparison)
    with _lock(folder):
        recorded = store.read_looks(folder)
        shared = min(len(recorded), len(looks))
        if recorded[:shared] != looks[:shared]:
            raise StoreError(
                f"{folder / store.LOOKS} records other verdicts than the runs give: results were changed after they "
                "were looked at; choose another --out folder"
            )
        if len(looks) > shared:
            store.write_json(folder / store.LOOKS, looks)
    comparison = dataclasses.replace(comparison, looks=looks)
    return comparison, (comparison.baseline, *still_open) if still_open else ()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / ".comparison.lock")
