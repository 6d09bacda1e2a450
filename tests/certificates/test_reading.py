"""What a recorded model becomes: the same function, operation by operation, or a refusal that says which one and where."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.certificates import IntervalPropagation, LinearPropagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.vocabulary import HANDLERS
from wassertight.threats import PointwiseBall
from wassertight.types import UnsupportedLayerError

CPU = torch.device("cpu")
IMAGE, TOKENS, ROW = (2, 4, 6), (5, 4), (6,)


class Of(nn.Module):
    """A function as a module, with layers it may use."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleDict(layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z, *self.layers.values())


def _reads(model: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """The graph's logits are the model's, on data it has not seen, in both precisions."""
    x = torch.rand(3, *shape, dtype=torch.float64)
    if isinstance(model, nn.Module):
        model = model.double().eval()
    graph = read_graph(model, x[:2], dtype=torch.float64, device=CPU)
    with torch.no_grad():
        torch.testing.assert_close(graph.logits(x), model(x), rtol=1e-10, atol=1e-10)
    if isinstance(model, nn.Module):
        model, x = model.float(), x.float()
        graph = read_graph(model, x[:2], dtype=torch.float32, device=CPU)
        with torch.no_grad():
            torch.testing.assert_close(graph.logits(x), model(x), rtol=1e-4, atol=1e-4)


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolutions": (nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.Conv2d(4, 4, (1, 2), groups=2)), IMAGE),
    "dilated": (nn.Conv2d(2, 3, 2, padding=1, dilation=2), IMAGE),
    "same": (nn.Conv2d(2, 3, 3, padding="same"), IMAGE),
    "valid": (nn.Conv2d(2, 3, 3, padding="valid"), IMAGE),
    "one dimension": (nn.Conv1d(5, 3, 3, 2, 1), TOKENS),
    "batch norm": (nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False)), IMAGE),
    "batch norm of rows": (nn.BatchNorm1d(6), ROW),
    "batch norm of tokens": (nn.BatchNorm1d(5), TOKENS),
    "average pooling": (nn.Sequential(nn.AvgPool2d(2, 1, 1), nn.AvgPool2d((1, 2))), IMAGE),
    "max pooling": (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1)), IMAGE),
    "dilated max pooling": (nn.MaxPool2d((2, 3), (1, 2), (1, 1), dilation=(2, 1)), IMAGE),
    "adaptive pooling": (nn.AdaptiveAvgPool2d((2, 3)), IMAGE),
    "padding": (nn.Sequential(nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ConstantPad2d((0, 1, 1, 0), 0.7)), IMAGE),
    "replicated": (nn.Sequential(nn.ReplicationPad2d(1), nn.CircularPad2d(1)), IMAGE),
    "cropped": (nn.ZeroPad2d((-1, 0, -1, -1)), IMAGE),
    "layer norm": (nn.Sequential(nn.LayerNorm(4), nn.LayerNorm([5, 4], elementwise_affine=False)), TOKENS),
    "unflattened": (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 5))), TOKENS),
    "dropout": (nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3), nn.Dropout1d(0.5)), TOKENS),
    "prelu": (nn.Sequential(nn.PReLU(2), nn.PReLU()), IMAGE),
    "activations": (
        nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(), nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(),
                      nn.Softplus(2.0), nn.Tanh(), nn.Sigmoid(), nn.Hardtanh(-0.5, 0.6), nn.ReLU6(), nn.Hardsigmoid(),
                      nn.Hardswish(), nn.Softmax(-1), nn.Identity()), TOKENS),
    "in place": (nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU6(inplace=True)), TOKENS),
    "encoder relu": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), TOKENS),
    "encoder gelu": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu"), TOKENS),
    "encoder relu first": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True), TOKENS),
    "encoder gelu first": (
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True, activation="gelu", bias=False), TOKENS),
    "encoder": (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2), TOKENS),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    model, shape = MODULES[name]
    for part in model.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its fast path for encoders
        _reads(nn.Sequential(model, nn.Flatten()), shape)


_W = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "above": lambda z: (z > 0.5).to(z) * z,
    "not below": lambda z: (z >= 0.25).to(z) * z,
    "below": lambda z: (z < 0.5).to(z) * z,
    "not above": lambda z: (z <= 0.7).to(z) * z,
    "arithmetic": lambda z: 2 - (z * 3 + 1) / 4 - z.neg() + torch.rsub(z, 1, alpha=2) + torch.add(z, z, alpha=-0.5),
    "constants": lambda z: z + _W[0] * z - _W[1] / 3 + torch.ones(1, 5, 4, dtype=torch.float64),
    "products": lambda z: z * z.exp() / (z.sum(2, keepdim=True) + 1),
    "matrices": lambda z: torch.matmul(z @ _W.to(z), z.transpose(1, 2)) + torch.bmm(z, z.mT),
    "matrix first": lambda z: _W.to(z) @ z.transpose(1, 2),
    "linear": lambda z: functional.linear(z, _W.to(z), _W[0].to(z)),
    "addmm": lambda z: torch.addmm(_W[0].to(z), z[:, 0], _W.to(z)),
    "powers": lambda z: z**2 + (z + 1) ** 0.5 + (z + 1) ** -0.5 + (z + 1) ** -1 + (z + 1).sqrt() + (z + 1).rsqrt(),
    "more powers": lambda z: (z + 1).reciprocal() + z.square() + (z + 1).log() + z.exp() + z.erf() + z.abs(),
    "clamps": lambda z: z.clamp(0.2, 0.8) + z.clamp_min(0.5) + z.clamp_max(0.4) + torch.clamp(z, max=0.3),
    "means": lambda z: z.mean(1) + z.sum((1,)) + z.mean((1, 2), keepdim=True).flatten(1),
    "shapes": lambda z: z.reshape(-1, 2, 10).permute(0, 2, 1).flatten(1).unsqueeze(1).squeeze(1).view(-1, 4, 5),
    "swapped": lambda z: z.transpose(1, 2).swapaxes(1, 2).contiguous().clone().detach(),
    "expanded": lambda z: z[:, :1].expand(-1, 3, -1) + z.mean(1, keepdim=True).expand_as(z[:, :3]),
    "slices": lambda z: z[:, 1:4, ::2] + z.narrow(1, 0, 3)[:, :, :2] + z.select(1, 0)[:, None, :2],
    "indexed": lambda z: z.index_select(2, torch.tensor([3, 0, 0])),
    "split": lambda z: z.split([2, 3], 1)[1] + z.split(3, 1)[0] + torch.chunk(z[:, :, :4], 2, 1)[0] + z.unbind(1)[4][:, None],
    "joined": lambda z: torch.stack((torch.cat((z, z.relu(), torch.ones_like(z)), 2), torch.zeros(1, 5, 12).to(z).expand(len(z), -1, -1)), 1),
    "class token": lambda z: torch.cat((_W[:1].expand(len(z), 1, 4).to(z), z), 1),
    "softmax": lambda z: functional.softmax(z, 1) + z.softmax(-1),
    "log-softmax": lambda z: functional.log_softmax(z, 1) + z.log_softmax(-1),
    "attention": lambda z: functional.scaled_dot_product_attention(z, z + 1, z * z),
    "masked attention": lambda z: functional.scaled_dot_product_attention(z, z, z, torch.eye(5).to(z), scale=0.3),
    "mask that removes nothing": lambda z: functional.scaled_dot_product_attention(z, z, z, torch.ones(5, 5).bool()),
    "heads": lambda z: functional.scaled_dot_product_attention(*[z.unflatten(2, (2, 2)).transpose(1, 2)] * 3),
    "functional": lambda z: functional.leaky_relu(functional.elu(functional.gelu(functional.silu(z)), 0.5)).tanh().sigmoid(),
    "padded": lambda z: functional.pad(functional.pad(z, (1, 0, 0, 2), value=-0.5), (0, 1)),
    "precise": lambda z: z.double().to(torch.float64),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    _reads(lambda z: FUNCTIONS[name](z).flatten(1), TOKENS)


def test_every_word_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some test above reads each operation of the vocabulary; in-place twins and older spellings are aliases."""
    met = set()
    for word, handler in list(HANDLERS.items()):

        def spy(reader, a, k, word=word, handler=handler):  # type: ignore[no-untyped-def]  # fmt: skip
            met.add(word)
            return handler(reader, a, k)

        monkeypatch.setitem(HANDLERS, word, spy)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model, shape in MODULES.values():
            wrapped = nn.Sequential(model, nn.Flatten()).double().eval()
            read_graph(wrapped, torch.rand(2, *shape, dtype=torch.float64), dtype=torch.float64, device=CPU)
    for function in FUNCTIONS.values():
        read_graph(lambda z, f=function: f(z).flatten(1), torch.rand(2, *TOKENS, dtype=torch.float64), dtype=torch.float64, device=CPU)  # type: ignore[misc]  # fmt: skip
    rest = {word for word in HANDLERS if word not in met and not word.endswith("_")}
    known = {"t", "mm", "_softmax", "_log_softmax", "_unsafe_view", "_to_copy", "alias", "lift_fresh_copy", "constant_pad_nd", "clip",
             "swapdims", "split_with_sizes", "new_zeros", "new_ones", "zeros_like", "feature_dropout", "reshape",
             "squeeze", "detach", "contiguous", "narrow", "hardtanh", "relu6"}  # fmt: skip
    assert rest <= known, rest - known


def test_parameters_and_layers_used_twice() -> None:
    shared = nn.Linear(6, 6)
    tied = Of(lambda z, layer: layer(layer(z).relu()) + functional.linear(z, layer.weight.T), layer=shared)
    _reads(tied, ROW)
    table = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
    _reads(lambda z: ((z + table) * table).flatten(1), TOKENS)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention(weights: bool, bias: bool) -> None:
    same = nn.MultiheadAttention(4, 2, batch_first=True, bias=bias)
    _reads(Of(lambda z, a: a(z, z, z, need_weights=weights)[0].flatten(1), a=same), TOKENS)
    apart = nn.MultiheadAttention(4, 2, batch_first=True, bias=bias, kdim=3, vdim=2)
    _reads(Of(lambda z, a: a(z, z[..., :3], z[..., 1:3], need_weights=weights)[0].flatten(1), a=apart), TOKENS)
    mask = torch.randn(5, 5, dtype=torch.float64)
    _reads(Of(lambda z, a: a(z, z, z, attn_mask=mask.to(z), need_weights=weights)[0].flatten(1), a=same), TOKENS)
    _reads(Of(lambda z, a: a(z, z, z)[1].flatten(1), a=same), TOKENS)


def _random() -> Tensor:
    return 1e-9 * torch.randn(6)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "comparison": (lambda z: (z > 1 - z).to(z), r"gt \(gt, in layer 0\.1, Of\).*comparison of two values"),
    "branch": (lambda z: z if bool(z.sum() > 0) else -z, "cannot be recorded.*branches on values"),
    "round": (lambda z: z.round(), "'round' has no bounds"),
    "integers": (lambda z: (255 * z).to(torch.int64).to(z) / 255, "int64"),
    "half": (lambda z: z.half().float(), "float16"),
    "bfloat": (lambda z: z.bfloat16().float(), "bfloat16"),
    "floor division": (lambda z: torch.div(255 * z, 1, rounding_mode="floor"), "rounding_mode='floor'"),
    "random": (lambda z: z + _random(), "randn.*random number"),
    "random like": (lambda z: z + 1e-9 * torch.rand_like(z), "rand_like"),
    "dropout": (lambda z: functional.dropout(z, 0.5, training=True), "dropout.*training mode"),
    "batch mean": (lambda z: z - z.mean(0), "batch dimension"),
    "batch sum": (lambda z: z / z.sum(), "batch dimension"),
    "batch sorted": (lambda z: torch.cat((z, z)), "batch dimension"),
    "batch transposed": (lambda z: z.t().reshape(-1, 6), "batch dimension"),
    "batch broadcast": (lambda z: (z + z.unsqueeze(1)).sum(1), "batch dimension"),
    "batch expanded": (lambda z: z.expand(3, 3, 6).mean(1), "batch dimension"),
    "batch shifted": (lambda z: functional.pad(z, (0, 0, 1, -1)), "batch dimension"),
    "batch softmax": (lambda z: z.softmax(0), "batch dimension"),
    "batch statistics": (lambda z: functional.batch_norm(z, None, None, training=True), "batch.*statistics"),
    "in place": (lambda z: (lambda y: (y[:, :3].mul_(0), y)[1])(2 * z), "mul_.*in-place.*read again"),
    "factors": (lambda z: torch.addmm(torch.ones(6), z, torch.eye(6), beta=2), "addmm.*beta"),
    "cube": (lambda z: z**3, "pow.*power of 3"),
    "index": (lambda z: z.gather(1, z.argmax(1, keepdim=True)), "argmax"),
    "upsampled": (lambda z: functional.interpolate(z[:, None], scale_factor=2)[:, 0], "upsample_nearest1d"),
    "boolean mask": (
        lambda z: functional.scaled_dot_product_attention(*[z[:, None]] * 3, torch.zeros(1, 1, dtype=torch.bool))[:, 0],
        "mask that removes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("n", [1, 3])
def test_refusals_say_what_and_where(name: str, n: int) -> None:
    function, message = REFUSED[name]
    model = nn.Sequential(nn.Sequential(nn.Identity(), Of(function)), nn.Identity()).eval()
    x = (torch.rand(n, 6) * 255).round() / 255
    with pytest.raises(UnsupportedLayerError, match=message):
        read_graph(model, x, dtype=torch.float64, device=CPU)


def test_refusals_reach_the_user() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2)), nn.Flatten())
    model = nn.Sequential(layers, nn.LazyLinear(3))
    x, y, ball = torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), PointwiseBall(radius=0.1, r=2.0)
    model(x)
    for certificate in (LinearPropagation(), IntervalPropagation()):
        with pytest.raises(UnsupportedLayerError, match=r"upsample.*layer 0\.1\.1, Upsample"):
            certificate(model, x, y, ball)
        with pytest.raises(UnsupportedLayerError, match="upsample"):
            certificate(lambda z: model(z), x, y, ball)


def test_ceilings_and_uneven_windows_are_refused() -> None:
    x = torch.rand(2, 2, 5, 5)
    for layer in (
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(3),
    ):
        with pytest.raises(UnsupportedLayerError, match="pool"):
            read_graph(nn.Sequential(layer, nn.Flatten()), x, dtype=torch.float64, device=CPU)


def test_outputs_that_are_no_logits_are_refused() -> None:
    x = torch.rand(2, 2, 3)
    with pytest.raises(UnsupportedLayerError, match=r"features of shape \(2, 3\)"):
        read_graph(lambda z: 2 * z, x, dtype=torch.float64, device=CPU)
    with pytest.raises(UnsupportedLayerError, match="does not depend on its input"):
        read_graph(lambda z: torch.ones(3, 2), x, dtype=torch.float64, device=CPU)


def test_a_model_in_mixed_precision_is_refused() -> None:
    with pytest.raises(UnsupportedLayerError, match="float32 inside"):
        read_graph(lambda z: z.float().exp().double(), torch.rand(2, 3).double(), dtype=torch.float64, device=CPU)


def test_the_model_is_left_as_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(3))

        def forward(self, z: Tensor) -> Tensor:
            self.calls.add_(1)
            return z + self.calls

    counting = Counting()
    with pytest.raises(UnsupportedLayerError, match="buffer that every pass changes"):
        read_graph(counting, torch.rand(2, 3), dtype=torch.float64, device=CPU)
    assert counting.calls.tolist() == [0, 0, 0]

    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.BatchNorm1d(20), nn.Dropout(), nn.Linear(20, 3)).train()
    model[4].weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    held = {name: value.clone() for name, value in model.state_dict().items()}
    state, forward = torch.get_rng_state(), nn.MultiheadAttention.forward
    x, y = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    LinearPropagation(steps=2)(model, x, y, PointwiseBall(radius=0.1, r=2.0))
    assert all(module.training for module in model.modules())
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert nn.MultiheadAttention.forward is forward
