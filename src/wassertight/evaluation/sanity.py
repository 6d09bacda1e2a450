"""Health checks of a model and of what was found, each finding with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wassertight.queries import ModelQueries
from wassertight.records import Flag
from wassertight.types import Model, ModelError, logits_of

_SAMPLES = 64
_FEW = 0.1
_ENOUGH, _MASKED, _SHARES = 4, 0.3, (0.001, 0.01)
_TWO_FACED = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


def check_answers(queries: ModelQueries, x: Tensor, y: Tensor) -> Tensor:
    """Logits of all unmoved samples (n, k), or a ModelError that says what the model did with them."""
    try:
        return queries.clean_logits(x, y)
    except (RuntimeError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(
            f"the model failed on a batch of inputs of shape {tuple(x.shape)} and type {x.dtype}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from error


def model_flags(queries: ModelQueries, x: Tensor, y: Tensor, clean: Tensor, *, gradients: bool) -> list[Flag]:
    """What is odd about the model's answers and gradients on a few samples; its passes are not counted as the attack's.

    Args:
        x, y: inputs (n, *features) and labels (n,).
        clean: logits of x, (n, k).
        gradients: whether gradients will be needed, so that their absence is an error.

    Raises:
        ModelError: gradients are needed and the model has none.
    """
    flags = []
    part, labels, first = x[:_SAMPLES], y[:_SAMPLES], clean[:_SAMPLES]
    again = queries.logits(part)
    if not torch.allclose(again, first, rtol=1e-3, atol=1e-3 * float(first.abs().max().clamp_max(1e30))):
        flags.append(_randomised(queries))
    if bool(((first >= 0) & (first <= 1)).all()) and torch.allclose(
        first.sum(1), torch.ones_like(first[:, 0]), atol=1e-4
    ):
        flags.append(
            Flag(
                name="probabilities",
                message="the outputs look like probabilities (rows sum to one), not logits",
                remedy="return the values before the softmax; saturated probabilities hide gradients from attacks",
            )
        )
    right = float((clean.argmax(1) == y).double().mean())
    if len(x) >= 20 and right < 1.5 / clean.shape[1]:
        flags.append(
            Flag(
                name="near-chance",
                message=f"clean accuracy is {right:.3f} with {clean.shape[1]} classes",
                remedy="check the order of classes, the input scaling and the normalisation",
            )
        )
    return flags + (_gradient_flags(queries.model, queries.device, part, labels) if gradients else [])


def mode_flags(model: Model) -> list[Flag]:
    """Whether layers that act differently in training mode were handed over in it; called before the mode changes."""
    if isinstance(model, nn.Module) and any(m.training and isinstance(m, _TWO_FACED) for m in model.modules()):
        return [
            Flag(
                name="training-mode",
                message="the model was in training mode; it was evaluated in eval mode and put back",
                remedy="call model.eval() if eval mode is what you mean, and read the clean accuracy to be sure",
            )
        ]
    return []


def outcome_flags(attacked: Mapping[str, Tensor], reach: Mapping[str, float]) -> list[Flag]:
    """Signs of masked gradients: samples for which nothing was found, although half the box would be reached.

    Args:
        attacked: per norm, distances (n,) of the clean-correct samples, inf where nothing was found.
        reach: per norm, a displacement no classifier of natural inputs should survive, in pixel units.
    """
    flags = []
    for norm, distances in attacked.items():
        if len(distances) == 0:
            continue
        lost = float((distances > reach[norm]).double().mean())
        if lost > _FEW:
            flags.append(
                Flag(
                    name="nothing-found",
                    message=f"for {100 * lost:.0f}% of the samples no flip was found within {norm} {reach[norm]:g}",
                    remedy="gradients may be masked: look for saturated, rounding or quantising layers, "
                    "and read the attacked value as a weak upper bound",
                )
            )
    return flags


def class_flags(attack: object, classes: int) -> list[Flag]:
    """Whether the model has fewer classes than the attack's loss needs, so that the attack uses the margin instead."""
    least = int(getattr(attack, "least_classes", 2))
    if classes >= least:
        return []
    return [
        Flag(
            name="few-classes",
            message=f"the attack's loss needs {least} classes, the model has {classes}; the margin is used instead",
            remedy="nothing is lost with two classes, where the margin says all; otherwise prefer 'wda++' or 'min-norm'",
        )
    ]


def _randomised(queries: ModelQueries) -> Flag:
    """How a randomised model is handled, or a refusal."""
    if queries.cost == 1:
        raise ModelError(
            "two passes over the same inputs give different logits: the model is randomised, and one draw of it is not a "
            "classifier that can be attacked. Fix its randomness, or give draws=20 (--draws 20) to evaluate and attack "
            "the mean logits of 20 draws (EOT)"
        )
    return Flag(
        name="randomised-model",
        message=f"the model is randomised; the mean logits of {queries.cost} draws were evaluated and attacked (EOT)",
        remedy="more draws make the classifier and the gradients steadier; certificates do not apply",
    )


def _gradient_flags(model: Model, device: torch.device | None, x: Tensor, y: Tensor) -> list[Flag]:
    z = (x if device is None else x.to(device)).detach().clone().requires_grad_(True)
    labels = y.to(z.device)
    try:
        with torch.enable_grad():
            out = logits_of(model(z))
            true = out.gather(1, labels.to(out.device)[:, None]).squeeze(1)
            others = out.scatter(1, labels.to(out.device)[:, None], -torch.inf).amax(1)
            height = others - true
            (g,) = torch.autograd.grad(height.sum(), z)
    except RuntimeError as error:
        raise ModelError(
            "the model's output has no gradient in its input (detached, no_grad or a non-differentiable step): "
            f"{str(error).splitlines()[0]}; gradient attacks need one. Certify only, or give a differentiable model"
        ) from error
    flags = []
    flags += _misleading(model, z.detach(), labels, height.detach(), g)
    g = g.flatten(1)
    broken = float((~torch.isfinite(g)).any(1).double().mean())
    if broken > 0:
        flags.append(
            Flag(
                name="non-finite-gradients",
                message=f"the gradient of {100 * broken:.0f}% of the first samples holds NaN or infinite values",
                remedy="look for square roots, logarithms or divisions at zero in the model; such entries were ignored",
            )
        )
    flat = float((g == 0).all(1).double().mean())
    if flat > _FEW:
        flags.append(
            Flag(
                name="zero-gradients",
                message=f"the gradient of {100 * flat:.0f}% of the first samples is exactly zero",
                remedy="the attacked value may be far too high: look for saturated or rounding layers; "
                "evaluate the logits before them",
            )
        )
    return flags


def _misleading(model: Model, x: Tensor, y: Tensor, height: Tensor, g: Tensor) -> list[Flag]:
    """A short sign step up the margin must raise it; where it mostly does not, gradients mask the margin."""
    usable = torch.isfinite(g).flatten(1).all(1) & (g != 0).flatten(1).any(1)
    if int(usable.sum()) < _ENOUGH:
        return []
    rises = torch.zeros_like(usable)
    for share in _SHARES:
        with torch.no_grad():
            out = logits_of(model(x + share * (x.max() - x.min()) * g.sign()))
        picked = out.gather(1, y.to(out.device)[:, None])
        after = out.scatter(1, y.to(out.device)[:, None], -torch.inf).amax(1) - picked.squeeze(1)
        rises |= (after > height).to(rises.device)
    lost = float((~rises[usable]).double().mean())
    if lost <= _MASKED:
        return []
    return [
        Flag(
            name="masked-gradients",
            message=f"for {100 * lost:.0f}% of the first samples short steps along the gradient do not raise the margin",
            remedy="gradients point nowhere useful: add the attack 'square', which needs none, and use --preset strong",
        )
    ]
