"""A network of the user's own: found by its path, started by its constructor, and refused where it cannot be averaged."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from fedmed.errors import SettingsError
from fedmed.models.imported import source_digest
from fedmed.models.networks import (
    NetworkOptions,
    build_network,
    initial_weights,
    normalisation_names,
    state_names,
    state_of,
)
from fedmed.seeds import torch_generator
from fedmed.weights import flatten

OWN = """
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self, shape, outputs, **arguments):
        super().__init__()
        self.body = nn.Linear(shape[0], arguments.get("width", 3))
        self.head = nn.Linear(arguments.get("width", 3), outputs)

    def forward(self, rows):
        return self.head(torch.relu(self.body(rows)))

class Normalised(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.normal = nn.BatchNorm1d(shape[0])
        self.register_buffer("places", torch.arange(shape[0]), persistent=False)

    def forward(self, rows):
        return super().forward(self.normal(rows)[:, self.places])

class Frozen(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.body.requires_grad_(False)

class Tied(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs, width=shape[0])
        self.again = self.body

    def forward(self, rows):
        return self.head(self.again(self.body(rows)))

class Recurrent(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.body = nn.LSTM(shape[0], 4, batch_first=True)
        self.head = nn.Linear(4, outputs)

    def forward(self, rows):
        return self.head(self.body(rows[:, None])[0][:, -1])

class Dropping(Base):
    def forward(self, rows):
        return torch.dropout(super().forward(rows), 0.5, self.training)

class Squeezed(Base):
    def forward(self, rows):
        return super().forward(rows).squeeze(1)

class Two(Base):
    def forward(self, rows):
        return super().forward(rows), rows

class Counting(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

class Halved(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.double()

class Cumulative(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.normal = nn.BatchNorm1d(shape[0], momentum=None)

class Lazy(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.head = nn.LazyLinear(outputs)

class Idle(Base):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.spare = nn.Linear(1, 1)

class Detached(Base):
    def forward(self, rows):
        return super().forward(rows).detach()

class Empty(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()

    def forward(self, rows):
        return rows

class Failing(Base):
    def forward(self, rows):
        raise RuntimeError("no rows like these")

not_a_class = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "networks.py").write_text(OWN)
    (package / "broken.py").write_text("import no_such_library")
    (package / "wrong.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "ours"]:
        del sys.modules[name]


def built(name: str, outputs: int = 1, **arguments: object) -> nn.Module:
    options = NetworkOptions.model_validate({"name": f"ours.networks:{name}", "arguments": arguments})
    return build_network((5,), outputs, options)


def test_it_is_called_with_shape_outputs_and_arguments() -> None:
    network = built("Base", 4, width=7)
    assert {name: tuple(tensor.shape) for name, tensor in state_of(network).items()} == {
        "body.bias": (7,),
        "body.weight": (7, 5),
        "head.bias": (4,),
        "head.weight": (4, 7),
    }
    assert torch.func.functional_call(network, initial_weights(network, torch_generator(1)), (torch.ones(2, 5),)).shape == (2, 4)  # fmt: skip


def test_it_starts_where_its_constructor_starts_it_and_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = initial_weights(built("Base"), torch_generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(flatten(initial_weights(built("Base"), torch_generator(1))), flatten(first))
    assert not torch.equal(flatten(initial_weights(built("Base"), torch_generator(2))), flatten(first))
    assert 0 < float(first["body.bias"].abs().max()) <= 1 / 5**0.5  # torch's own start, whose biases are not zero


def test_hospitals_in_threads_start_alike() -> None:
    expected = flatten(initial_weights(built("Base"), torch_generator(1)))
    found: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(flatten(initial_weights(built("Base"), torch_generator(1)))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(torch.equal(start, expected) for start in found)


def test_constants_are_no_part_of_the_state_and_running_statistics_are() -> None:
    network = built("Normalised")
    assert state_names(network).statistics == ("normal.running_mean", "normal.running_var")
    assert normalisation_names(network) == {f"normal.{n}" for n in ("weight", "bias", "running_mean", "running_var")}
    state = initial_weights(network, torch_generator(1))
    assert state["normal.running_var"].tolist() == [1.0] * 5
    rows = torch.arange(10.0).reshape(2, 5)
    torch.func.functional_call(network.train(), state, (rows,))
    assert state["normal.running_mean"].tolist() == pytest.approx([0.25, 0.35, 0.45, 0.55, 0.65])  # 0.1 · mean
    assert state_of(network)["normal.running_mean"].tolist() == [0.0] * 5
    assert network.get_buffer("places").tolist() == [0, 1, 2, 3, 4]


def test_what_it_freezes_travels_and_is_not_trained() -> None:
    names = state_names(built("Frozen"))
    assert names.parameters == ("head.bias", "head.weight")
    assert names.statistics == ("body.bias", "body.weight")


def test_shared_weights_stand_once_in_the_state() -> None:
    network = built("Tied")
    assert list(state_of(network)) == ["body.bias", "body.weight", "head.bias", "head.weight"]
    state = initial_weights(network, torch_generator(1))
    rows = torch.eye(5)
    once = rows @ state["body.weight"].T + state["body.bias"]
    twice = once @ state["body.weight"].T + state["body.bias"]
    expected = twice @ state["head.weight"].T + state["head.bias"]
    assert torch.allclose(torch.func.functional_call(network, state, (rows,)), expected, atol=1e-6)


def test_torchs_own_recurrent_layers_read_the_state_that_is_given() -> None:
    network = built("Recurrent")
    state = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state_of(network).items()}
    state["head.bias"] = torch.tensor([2.0])
    assert torch.func.functional_call(network, state, (torch.ones(1, 5),)).item() == 2.0
    other = initial_weights(network, torch_generator(1))
    assert torch.func.functional_call(network, other, (torch.ones(1, 5),)).item() != 2.0


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere:Net", "there is no module nowhere; install it"),
        ("ours.elsewhere:Net", r"there is no module ours\.elsewhere; install it"),
        ("ours.broken:Net", r"ours\.broken imports no_such_library, which is missing"),
        ("ours.wrong:Net", r"ours\.wrong does not import: ZeroDivisionError"),
        ("ours.networks:Nothing", r"subclass of torch\.nn\.Module, ours\.networks has nothing of that name"),
        ("ours.networks:not_a_class", "has a int"),
        ("pathlib:Path", "has a type"),
    ],
)
def test_a_path_that_names_no_network_is_refused(path: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        build_network((5,), 1, NetworkOptions(name=path))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Squeezed", r"expected a tensor of shape \(2, 1\), got \(2,\); the cohort's target asks for 1 outputs"),
        ("Two", r"expected a tensor of shape \(2, 1\), got tuple"),
        ("Dropping", "draws from torch's global generator"),
        ("Counting", r"seen is torch\.int64.*must be float32; a constant is registered with persistent=False"),
        ("Halved", r"body\.weight is torch\.float64"),
        ("Cumulative", "normal needs a momentum"),
        ("Lazy", r"head\.weight is lazy; give every layer its sizes"),
        ("Idle", r"does not depend on spare\.weight, spare\.bias; leave them out"),
        ("Detached", "has no gradient"),
        ("Empty", "no parameter to train"),
        ("Failing", r"called with zeros of shape \(2, 5\) it failed: RuntimeError: no rows like these"),
    ],
)
def test_a_network_that_cannot_be_trained_together_is_refused(name: str, told: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(SettingsError, match=told):
        built(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_arguments_that_its_constructor_does_not_take_are_named() -> None:
    with pytest.raises(SettingsError, match=r"Normalised\(\(5,\), 1, depth=2\) failed: TypeError: .*'depth'"):
        built("Normalised", depth=2)


def test_the_example_of_the_documents_is_one(module: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (module / "wide.py").write_text(example)
    (options,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    asked = yaml.safe_load(options)["model"]
    assert asked == {"name": "our_networks.wide:Wide", "arguments": {"width": 128}}
    own = NetworkOptions.model_validate({**asked, "name": "ours.wide:Wide"})
    assert state_of(build_network((2, 3), 4, own))["head.weight"].shape == (4, 128)


def test_other_code_has_another_digest(module: Path) -> None:
    first = source_digest("ours.networks:Base")
    assert len(first) == 64
    assert source_digest("ours.networks:Tied") == first
    (module / "networks.py").write_text(OWN + "\n")
    assert source_digest("ours.networks:Base") != first
