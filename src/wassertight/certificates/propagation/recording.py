"""Records what a model's forward does as ATen operations, by `torch.export`, and what can be said about one of them."""

from __future__ import annotations

import logging
import operator
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from wassertight.certificates.propagation.attention import batch_first_attention
from wassertight.types import Model, UnsupportedLayerError, logits_of


class _Function(nn.Module):
    """Any model as a module that returns its logits as a tensor."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.function(z))
        return logits


def record_model(model: Model, examples: Tensor) -> Any:
    """The exported program of a model on examples."""
    module = _Function(model)
    chatter = logging.getLogger("torch")
    level = chatter.level
    try:
        chatter.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad(), batch_first_attention():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (examples,), strict=False)
    except UnsupportedLayerError:
        raise
    except Exception as error:  # torch.export raises errors of many kinds for what it cannot record
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedLayerError(
            f"the model's operations cannot be recorded by torch.export ({type(error).__name__}: {first}); a certificate "
            "needs a forward without branches on values. Run without a certificate (--certificate none) to attack it"
        ) from error
    finally:
        chatter.setLevel(level)


def held_constants(program: Any) -> dict[str, Any]:
    """Parameters, buffers and lifted tensors by the names of their placeholders."""
    signature = program.graph_signature
    held = {**program.state_dict, **program.constants}
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {placeholder: held[target] for placeholder, target in names.items()}


def place_of(recorded: Any) -> str:
    """An operation's name and where in the model it stands, for messages."""
    stack = list((recorded.meta.get("nn_module_stack") or {}).values())
    where, kind = "", ""
    if stack:
        path, cls = stack[-1][0], stack[-1][1]
        path = str(path).removeprefix("L['self'].").removeprefix("L['self']")
        path = path.removeprefix("function").removeprefix(".")
        where, kind = path, str(cls).rsplit(".", 1)[-1].rstrip("'>")
    return f"{word_of(recorded.target)} ({recorded.name}" + (
        f", in layer {where or 'the model'}, {kind})" if kind else ")"
    )


def word_of(target: Any) -> str:
    """The ATen name of an operation."""
    name = getattr(target, "_schema", None)
    text = str(target) if name is None else str(name.name)
    return text.removeprefix("aten::").removeprefix("aten.")


def objection(recorded: Any, places: dict[Any, int], held: dict[str, Any]) -> str | None:
    """What speaks against an in-place operation: a buffer changes, or a value that is read again."""
    schema = getattr(recorded.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return None
    changed = _storage(recorded.args[0])
    if changed.op == "get_attr" or changed.name in held:
        return "a buffer that every pass changes"
    for other in places:
        earlier = places[other] < places[recorded] and _storage(other) is changed
        if earlier and any(places[user] > places[recorded] for user in other.users):
            return "an in-place operation on a value that is read again afterwards"
    return None


def _storage(recorded: Any) -> Any:
    """The node whose memory a node's value may share, itself if none."""
    while recorded.op == "call_function":
        schema = getattr(recorded.target, "_schema", None)
        shared = schema is not None and any(value.alias_info is not None for value in schema.returns)
        if not shared and "dropout" not in word_of(recorded.target) and recorded.target is not operator.getitem:
            break
        recorded = recorded.args[0]
    return recorded
