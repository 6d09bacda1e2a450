"""The command `certify`: proved lower bounds alone, and what its help teaches about them."""

from __future__ import annotations

from typing import Annotated

import typer

from wassertight.cli import options as opt
from wassertight.errors import InputError

Method = Annotated[
    str,
    typer.Option(
        "--certificate", "--method", "-c", help="A name from 'wassertight list methods'.", rich_help_panel="Methods"
    ),
]
LossName = Annotated[
    str | None,
    typer.Option(
        "--loss", "-l", help="Bound this expected loss instead of the accuracy: cross-entropy (ce) or margin.",
        rich_help_panel="Methods",
    ),
]  # fmt: skip


def certify(
    model: opt.ModelName = opt.DEFAULT_MODEL,
    data: opt.DataName = opt.DEFAULT_DATA,
    threat: opt.Threats = None,
    n: opt.Count = opt.DEFAULT_N,
    batch_size: opt.BatchSize = 256,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    run_dir: opt.RunDirectory = None,
    bounds: opt.BoundsText = "0,1",
    method: Method = "crown",
    setting: opt.Settings = None,
    sigma: opt.Sigma = None,
    n_draws: opt.NoisyDraws = None,
    alpha: opt.Alpha = None,
    loss: LossName = None,
    population: opt.AroundTheLaw = False,
    confidence: opt.Confidence = None,
    label_cost: opt.LabelCost = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Certify only: a proved lower bound on the worst-case accuracy.

    [bold]What is proved.[/bold] Every sample gets a radius within which no input
    changes the answer. From these radii follows a number that no law of
    inputs within the budget can go below - not only the attacks that
    somebody tried. One pass over the data serves every radius and every
    order W_p of a ground norm, so a whole curve costs what one point does.

    [bold]How to read it.[/bold] "W1-Linf@0.05: certified 52.3" says: move the samples
    by 0.05 on average, single ones further, others less, and at least
    52.3 % are still answered correctly. W2 limits the root mean square of
    the distances, Linf@0.05 (p = inf) every single one.

    [bold]What it does not say.[/bold] Nothing about other norms, about labels that
    change (--label-cost), about data not seen (--population). It may be
    loose: 'wassertight evaluate' shows an attack's bound beside it.

    [bold]Expected losses.[/bold] With --loss the worst-case expected loss is bracketed:
    an attack's value below, the smallest of several proved bounds above.

    [bold]Moving light.[/bold] For threats such as image-W1@0.01 take --method
    wasserstein-smoothing with --sigma: it certifies the most likely answer
    under noise; noisy-votes bounds single answers. More: docs/smoothing.md.

    The attacked half of the record is null. More: docs/certificates.md.
    """
    if loss is not None:
        if population or confidence is not None or label_cost is not None or run_dir is not None:
            raise InputError("--loss goes without --population, --confidence, --label-cost and --run-dir")
        from wassertight.cli.studies import loss_bracket

        return loss_bracket(model, data, threat, n, batch_size, seed, bounds, loss, as_json=as_json, quiet=quiet)
    from wassertight.cli.running import Order, carry_out

    return carry_out(
        Order(
            command="certify",
            model=model,
            data=data,
            threats=tuple(threat or ()),
            n=n or None,
            batch_size=batch_size,
            device=device,
            seed=seed,
            run_dir=run_dir,
            bounds=bounds,
            attack=None,
            certificate=method,
            certificate_settings=(*opt.smoothing_settings(sigma, n_draws, alpha), *(setting or ())),
            population=population,
            confidence=confidence,
            label_cost=label_cost,
            as_json=as_json,
            quiet=quiet,
        )
    )
