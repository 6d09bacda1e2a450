"""The body of `wassertight list`: models, methods, threats and data, without loading more than needed."""

from __future__ import annotations

import json
import math
from typing import Any

from wassertight.cli.showing import print_rows
from wassertight.errors import InputError, nearest

KINDS = ("models", "architectures", "methods", "objectives", "threats", "data")

THREATS = (
    ("Linf@8/255", "every sample moves by at most the radius (pointwise; the same as Winf-Linf@8/255)"),
    ("W1-Linf@8/255", "the mean distance moved is at most the radius: few samples may move far"),
    ("W2-Linf@8/255", "the root mean square distance is at most the radius"),
    ("W2-L2@0.5", "the same with Euclidean ground distance; L1 likewise"),
    ("image-W1@0.1", "light moves inside every image: a tenth of it by one pixel; nothing above white"),
    ("image-W1-L1-k7-free@0.1", "the same with Manhattan distance, a 7 x 7 window for attacks, no cap at white"),
    ("W1-image-W1@0.1", "the mean of that distance over the images is at most the radius"),
    ("KL+Linf@0.1,8/255", "weights may change by 0.1 nats of relative entropy, moves within 8/255 are free"),
    (
        "KL+W1-Linf@0.1,8/255",
        "one budget for both: 0.1 nats of re-weighting, or a mean distance of 8/255, or a mixture",
    ),
    ("alpha2+L2@0.01:0.1,0.5", "other divergences: chi2, revKL, alpha<order>, renyi<order>; two budgets at once"),
    ("W1-Linf@1/255,2/255,4/255", "several radii at once; one attack and one certificate serve them all"),
)


def print_list(kind: str | None, *, as_json: bool) -> None:
    """Print one list, or all of them.

    Raises:
        InputError: for an unknown kind, with the nearest one.
    """
    if kind is not None and kind not in KINDS:
        near = nearest(kind, KINDS)
        raise InputError(f"cannot list {kind!r}; did you mean {near!r}? Allowed: {', '.join(KINDS)}")
    kinds = KINDS if kind is None else (kind,)
    tables = {name: _rows(name) for name in kinds}
    if as_json:
        print(
            json.dumps(
                {
                    name: [dict(zip(columns, row, strict=True)) for row in rows]
                    for name, (columns, rows) in tables.items()
                }
            )
        )
        return
    for name, (columns, rows) in tables.items():
        print_rows(name, columns, rows)


def _rows(kind: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    if kind == "models":
        from wassertight.models import MODEL_FORMS, list_models

        return ("name", "description"), [*list_models().items(), *MODEL_FORMS.items()]
    if kind == "architectures":
        from wassertight.models import list_architectures

        return ("name", "description"), list(list_architectures().items())
    if kind == "data":
        from wassertight.data import DATA_FORMS, list_data

        return ("name", "description"), [*list_data().items(), *DATA_FORMS.items()]
    if kind == "threats":
        return ("threat", "what the adversary may do"), list(THREATS)
    columns = ("name", "kind", "norms", "orders", "reference", "description")
    if kind == "objectives":
        from wassertight.training import objective_entries

        return columns, [_method(entry) for entry in objective_entries()]
    from wassertight.evaluation import attack_methods, certificate_methods, foreign_methods, study_methods

    methods = (*attack_methods(), *foreign_methods(), *certificate_methods(), *study_methods())
    return columns, [_method(method) for method in methods]


def _method(method: Any) -> tuple[str, ...]:
    norms = " ".join("Linf" if math.isinf(r) else f"L{r:g}" for r in method.norms)
    return (method.name, method.kind, norms, method.orders, method.reference, method.description)
