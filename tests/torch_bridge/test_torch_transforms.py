"""fastconv.torch under the rest of torch: compile, export, torch.func, autocast, data-parallel training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bridge_helpers import OURS, THEIRS, Seen, layer
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad

import fastconv.torch as ft


class Small(nn.Module):
    """1-D and 2-D, with and without zero padding."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(3, 4, 3, padding="same")
        self.two = nn.Conv2d(4, 5, (1, 3), stride=(1, 2), padding=(0, 1), padding_mode="circular")
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.one(x))
        return self.head(self.two(y[:, :, None]).mean((2, 3)))


def pair() -> tuple[Small, Small]:
    """The same model twice; the first goes through fastconv."""
    theirs = Small()
    ours = Small()
    ours.load_state_dict(theirs.state_dict())
    assert len(ft.convert(ours, all=True, verbose=False)) == 2
    return ours, theirs


def same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


# ---- compile and export


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic: bool) -> None:
    """All but the last stage, which for other layers than ours compiles C++ and takes long."""
    torch.compiler.reset()
    ours, theirs = pair()
    graphs: list[str] = []

    def keep(module: Any, example: Any) -> Any:
        graphs.append(str(module.graph))
        return make_boxed_func(module.forward)

    compiled = torch.compile(ours, backend=aot_autograd(fw_compiler=keep), fullgraph=True, dynamic=dynamic)
    for n, length in ((2, 9), (3, 12)):
        x = torch.randn(n, 3, length)
        y = compiled(x)
        torch.testing.assert_close(y, theirs(x))
        y.sum().backward()
        theirs(x).sum().backward()
    same_gradients(ours, theirs)
    for name in ("conv1d", "conv2d", "conv1d_weight", "conv2d_weight", "conv2d_input"):
        assert any(f"fastconv.{name}.default" in graph for graph in graphs), name
    assert len(graphs) == (2 if dynamic else 4)  # forward and backward, once for all sizes or once for each


def test_compile_with_inductor() -> None:
    torch.compiler.reset()

    def step(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ft.conv1d(x, w, padding="same")

    x, w = torch.randn(2, 3, 9), torch.randn(4, 3, 2)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(step, fullgraph=True)(x, w), step(x, w))


def test_compile_under_patch() -> None:
    torch.compiler.reset()
    _, model = pair()
    x = torch.randn(2, 3, 9)
    with ft.patch():
        graph = []

        def backend(module: Any, example: Any) -> Any:
            graph.append(str(module.graph))
            return module.forward

        torch.testing.assert_close(torch.compile(model, backend=backend, fullgraph=True)(x), model(x))
    assert "fastconv.conv1d" in graph[0]
    assert "fastconv.conv2d" in graph[0]


def test_export() -> None:
    ours, theirs = pair()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(ours, (torch.randn(4, 3, 9),), dynamic_shapes={"x": {0: batch}})
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"fastconv.conv1d.default", "fastconv.conv2d.default"} <= targets
    x = torch.randn(7, 3, 9)
    torch.testing.assert_close(program.module()(x), theirs(x))


# ---- torch.func


@pytest.mark.parametrize(
    "mapped", [(0, None, None), (None, 0, None), (None, None, 0), (1, 0, None), (0, 1, 0)], ids=str
)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("option", ["groups", "same, even kernel"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_vmap(axes: int, mapped: tuple[Any, ...], batched: bool, option: str) -> None:
    tensors, keywords = layer(axes, option, batched=batched, grad=False)
    several = [t if where is None else torch.stack([t, t + 1, 2 * t], where) for t, where in zip(tensors, mapped)]
    ours, theirs = (torch.vmap(lambda *t, f=f: f(*t, **keywords), mapped)(*several) for f in (OURS[axes], THEIRS[axes]))
    torch.testing.assert_close(ours, theirs)


def test_gradients_of_each_example(axes: int) -> None:
    (x, w, b), _ = layer(axes, "groups", grad=False)

    def loss(convolve: Any) -> Any:
        return lambda w, b, x: convolve(x, w, b, groups=2, stride=2).square().sum()

    found, expected = (
        torch.func.vmap(torch.func.grad(loss(f), (0, 1, 2)), (None, None, 0))(w, b, x)
        for f in (OURS[axes], THEIRS[axes])
    )
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs)


def test_jacobians_and_hessians(axes: int) -> None:
    (x, w, b), _ = layer(axes, "stride", grad=False)
    x = x[:1, :, :3] if axes == 1 else x[:1, :, :2, :2]
    for transform in (torch.func.jacrev, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        ours, theirs = (
            transform(lambda w, f=f: f(x, w, b, padding=1).square().mean())(w) for f in (OURS[axes], THEIRS[axes])
        )
        torch.testing.assert_close(ours, theirs)


def test_batches_of_gradients(axes: int) -> None:
    """is_grads_batched, and the vectorized functions of torch.autograd.functional: another vmap than torch.func's."""
    tensors, _ = layer(axes, "groups")

    def run(convolve: Any) -> list[torch.Tensor]:
        y = convolve(*tensors, groups=2, stride=2)
        several = torch.stack([y.detach(), 2 * y.detach(), torch.ones_like(y)])
        found = torch.autograd.grad(y, tensors, several, is_grads_batched=True)
        hessian = torch.autograd.functional.hessian(
            lambda b: convolve(*tensors[:2], b, groups=2).tanh().sum(),
            tensors[2].detach(),
            vectorize=True,
            outer_jacobian_strategy="forward-mode",
        )
        return [*found, hessian]

    for ours, theirs in zip(run(OURS[axes]), run(THEIRS[axes])):
        torch.testing.assert_close(ours, theirs)


def test_a_functional_call(axes: int) -> None:
    module = (ft.Conv1d, ft.Conv2d)[axes - 1](4, 4, 2)
    (x, _, b), _ = layer(axes, "plain", torch.float32, grad=False)
    state = {"weight": torch.ones(4, 4, *(2,) * axes), "bias": b}
    torch.testing.assert_close(torch.func.functional_call(module, state, x), THEIRS[axes](x, *state.values()))


@pytest.mark.parametrize("option", ["stride", "groups"])
def test_forward_mode(axes: int, option: str) -> None:
    tensors, keywords = layer(axes, option, grad=False)
    directions = [torch.randn_like(t) for t in tensors]
    found, expected = (
        torch.func.jvp(lambda *t, f=f: f(*t, **keywords), tuple(tensors), tuple(directions))
        for f in (OURS[axes], THEIRS[axes])
    )
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs)
    with forward_ad.dual_level():  # the same without torch.func; one factor alone has a direction
        dual = forward_ad.make_dual(tensors[1], directions[1])
        ours, theirs = (
            forward_ad.unpack_dual(f(tensors[0], dual, tensors[2], **keywords)).tangent
            for f in (OURS[axes], THEIRS[axes])
        )
        torch.testing.assert_close(ours, theirs)


def test_hessians_forward_over_reverse(axes: int) -> None:
    (x, w, b), _ = layer(axes, "plain", grad=False)
    ours, theirs = (
        torch.func.hessian(lambda b, f=f: f(x, w, b).square().mean())(b) for f in (OURS[axes], THEIRS[axes])
    )
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (
        torch.func.jacfwd(torch.func.grad(lambda x, f=f: f(x, w, b).tanh().sum()))(x[:1].clone())
        for f in (OURS[axes], THEIRS[axes])
    )
    torch.testing.assert_close(ours, theirs)


# ---- autocast


def test_autocast_of_functions_is_float32(axes: int) -> None:
    tensors, _ = layer(axes, "plain", torch.float32)
    tensors[0] = tensors[0].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), Seen() as seen:
        y = OURS[axes](*tensors)
    assert y.dtype == torch.float32
    assert f"conv{axes}d" in seen.names
    y.sum().backward()
    assert [t.grad.dtype for t in tensors] == [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(y, THEIRS[axes](tensors[0].float(), *tensors[1:]))


def test_autocast_of_modules_and_patch_is_torchs(axes: int) -> None:
    (x, w, b), _ = layer(axes, "plain", torch.float32)
    module = (ft.Conv1d, ft.Conv2d)[axes - 1](4, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16), ft.patch(), Seen() as seen:
        assert module(x).dtype == torch.bfloat16
        assert getattr(F, f"conv{axes}d")(x, w, b).dtype == torch.bfloat16
    assert not seen.names


# ---- training


def test_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    ours, theirs = pair()
    x = torch.randn(2, 3, 9)
    checkpoint(ours, x, use_reentrant=False).sum().backward()
    theirs(x).sum().backward()
    same_gradients(ours, theirs)


def test_training_steps_are_torchs() -> None:
    ours, theirs = pair()
    losses: list[list[float]] = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            x = torch.randn(8, 3, 9)
            loss = F.cross_entropy(model(x), (x.mean((1, 2)) > 0).long())
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_channels_last_models_with_torchs_layers_between() -> None:
    def model() -> nn.Sequential:
        torch.manual_seed(2)
        layers = [
            nn.Conv2d(3, 16, 3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, groups=8),
            nn.AdaptiveAvgPool2d(1),
        ]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    ours, theirs = model(), model()
    ft.convert(ours, all=True, verbose=False)
    x = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_two_processes_train_as_one(run_python: Any, tmp_path: Any) -> None:
    """DistributedDataParallel on gloo: the averaged gradients are those of one process with the whole batch."""
    if not torch.distributed.is_available():
        pytest.skip("this torch was built without torch.distributed")
    code = f"""
    import os, torch, torch.distributed as dist
    import fastconv.torch as ft
    from torch import nn

    torch.set_num_threads(1)

    def model():
        torch.manual_seed(0)
        return nn.Sequential(ft.Conv2d(3, 8, 3, padding=1), nn.ReLU(), ft.Conv2d(8, 4, 3, groups=4), nn.Flatten())

    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    rank = 1 if os.fork() == 0 else 0  # before gloo starts its threads
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method="file://{tmp_path / "store"}", rank=rank, world_size=2)
    spread = nn.parallel.DistributedDataParallel(model())
    spread(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    alone = model()
    alone(x).square().mean().backward()
    for a, b in zip(spread.parameters(), alone.parameters()):
        torch.testing.assert_close(a.grad, b.grad)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 1:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    """
    run_python(code, timeout=120)
