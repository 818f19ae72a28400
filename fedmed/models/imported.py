"""A network of the user's own: a torch module named by import path, and what it must keep to.

Its class is called as `Class(shape, outputs, **arguments)` and maps float32 `(rows, *shape)` to `(rows, outputs)`. It
must be installed where the model is trained and where it predicts: what travels is its name, never its code.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from fedmed.errors import SettingsError

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_RECIPE = "fedmed_recipe"
_global_generator = threading.Lock()
"""Constructors draw from torch's global generator; sites work in threads of one process."""


class Recipe(NamedTuple):
    """How an imported network is made again."""

    path: str
    shape: tuple[int, ...]
    outputs: int
    arguments: Mapping[str, Any]


def find_class(path: str) -> type[nn.Module]:
    """The class that an import path `package.module:Class` names.

    Raises:
        SettingsError: if there is no such module, it does not import, or the name is not that of a torch module.
    """
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise SettingsError(
                f"network.name {path}: {module_name} imports {problem.name}, which is missing"
            ) from None
        raise SettingsError(
            f"network.name {path}: there is no module {problem.name}; install it in the environment of every hospital"
            " and of the coordinator, or put its file into"
            " the workspace's folder where one machine plays them all"
        ) from None
    except Exception as problem:  # the user's code may raise anything
        raise SettingsError(f"network.name {path}: {module_name} does not import: {_told(problem)}") from problem
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        what = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise SettingsError(f"network.name {path}: expected a subclass of torch.nn.Module, {module_name} has {what}")
    return found


def source_digest(path: str) -> str:
    """SHA-256 of the source file of an imported network: two runs with other code are other runs.

    Raises:
        SettingsError: as :func:`find_class`, or if the class has no source file.
    """
    try:
        return hashlib.sha256(Path(inspect.getfile(find_class(path))).read_bytes()).hexdigest()
    except (OSError, TypeError):
        raise SettingsError(f"network.name {path}: its source file cannot be read") from None


def build_imported(recipe: Recipe) -> nn.Module:
    """The network, with the values that its own constructor gives it, checked on two rows of zeros.

    Raises:
        SettingsError: if it cannot be made, or does not keep to what :mod:`fedmed.models.imported` says.

    Guarantees:
        torch's global generator is left as it was.
    """
    network = _construct(recipe, seed=0)
    _check_state(network, recipe)
    _check_forward(network, recipe)
    setattr(network, _RECIPE, recipe)
    return network


def recipe_of(network: nn.Module) -> Recipe | None:
    """How the network was made, if it is an imported one."""
    recipe = getattr(network, _RECIPE, None)
    return recipe if isinstance(recipe, Recipe) else None


def own_start(recipe: Recipe, generator: torch.Generator) -> nn.Module:
    """The network once more, as its own constructor starts it with a seed drawn from `generator`."""
    seed = int(torch.randint(2**62, (), generator=generator).item())
    return _construct(recipe, seed)


def _construct(recipe: Recipe, seed: int) -> nn.Module:
    cls = find_class(recipe.path)
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = cls(recipe.shape, recipe.outputs, **recipe.arguments)
        except Exception as problem:  # the user's code may raise anything
            raise SettingsError(f"network.name {recipe.path}: {_call(recipe)} failed: {_told(problem)}") from problem
    return network


def _check_state(network: nn.Module, recipe: Recipe) -> None:
    where = f"network.name {recipe.path}"
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            raise SettingsError(f"{where}: {name} is lazy; give every layer its sizes")
    if not any(parameter.requires_grad for _, parameter in network.named_parameters()):
        raise SettingsError(f"{where}: it has no parameter to train")
    for name, kept in network.state_dict(keep_vars=True).items():
        came = kept.dtype if isinstance(kept, Tensor) else type(kept).__name__
        if name.rpartition(".")[2] != "num_batches_tracked" and came != torch.float32:
            raise SettingsError(
                f"{where}: {name} is {came}, but the state of a model is averaged and must be float32;"
                " a constant is registered with persistent=False"
            )
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats and module.momentum is None:
            raise SettingsError(f"{where}: {name} needs a momentum; a mean over all batches would outlast a round")


def _check_forward(network: nn.Module, recipe: Recipe) -> None:
    where = f"network.name {recipe.path}"
    rows = torch.zeros(2, *recipe.shape)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for training in (True, False):
        network.train(training)
        state: dict[str, Tensor] = {
            name: tensor.detach().clone().requires_grad_(name in trained)
            for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        }
        with _global_generator, torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            try:
                logits = torch.func.functional_call(network, state, (rows,))
            except Exception as problem:  # the user's code may raise anything
                raise SettingsError(
                    f"{where}: called with zeros of shape {tuple(rows.shape)} it failed: {_told(problem)}"
                ) from problem
            drawn = not torch.equal(torch.get_rng_state(), before)
        if not isinstance(logits, Tensor) or logits.shape != (2, recipe.outputs):
            came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise SettingsError(
                f"{where}: for two rows expected a tensor of shape {(2, recipe.outputs)}, got {came}; the cohort's"
                f" target asks for {recipe.outputs} outputs"
            )
        if drawn:
            raise SettingsError(
                f"{where}: its forward draws from torch's global generator (dropout?), so that no run could be"
                " repeated; set its dropout to 0"
            )
        if training:
            values = [state[name] for name in trained]
            try:
                gradients = torch.autograd.grad(logits.sum(), values, allow_unused=True)
            except RuntimeError as problem:
                raise SettingsError(f"{where}: its output has no gradient: {_told(problem)}") from problem
            unused = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
            if unused:
                raise SettingsError(f"{where}: its output does not depend on {', '.join(unused)}; leave them out")


def _call(recipe: Recipe) -> str:
    given = "".join(f", {key}={value!r}" for key, value in recipe.arguments.items())
    return f"{recipe.path.partition(':')[2]}({recipe.shape}, {recipe.outputs}{given})"


def _told(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
