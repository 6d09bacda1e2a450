"""The commands `evaluate`, `attack` and `certify`: what their help teaches, and who carries them out."""

from __future__ import annotations

from wassertight.cli.declaring import from_options
from wassertight.cli.orders import Attack, Certify, Evaluate, Run
from wassertight.errors import InputError


@from_options
def evaluate(order: Evaluate) -> int:
    """Bracket the worst-case accuracy: attack from above, certify from below, audit both.

    Ends with a table, and with a figure (PDF, SVG, PNG) and a page (HTML) in the run directory.

    Interrupt it at any time: the same command again resumes and gives the identical result. --set goes to the attack.

    A smoothing certificate brackets the smoothed classifier: the attack sees the same noise (docs/smoothing.md).
    """
    return _carry_out(order)


@from_options
def attack(order: Attack) -> int:
    """Attack only: an upper bound on the worst-case accuracy. The certified half of the record is null."""
    return _carry_out(order)


@from_options
def certify(order: Certify) -> int:
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
    if order.loss is None:
        return _carry_out(order)
    if (
        order.population
        or order.confidence is not None
        or order.label_cost is not None
        or order.run_dir
        or order.dry_run
    ):
        raise InputError("--loss goes without --population, --confidence, --label-cost, --run-dir and --dry-run")
    from wassertight.cli.studies import loss_bracket

    return loss_bracket(order)


def _carry_out(order: Run) -> int:
    from wassertight.cli.running import carry_out

    return carry_out(order)
