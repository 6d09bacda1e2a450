"""The command line: every command with its examples, what each exit code means, and how errors are shown."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from wassertight import __version__
from wassertight.cli import completing
from wassertight.cli import options as opt
from wassertight.cli.commands import attack, certify, evaluate
from wassertight.cli.doctor import doctor
from wassertight.cli.reporting import leaderboard, report
from wassertight.cli.studies import lipschitz, loss, supports
from wassertight.cli.training import finetune, train
from wassertight.errors import AuditError, WassertightError

EXIT_UNEXPECTED, EXIT_USAGE, EXIT_AUDIT, EXIT_INTERRUPTED = 1, 2, 3, 130

_EXIT_CODES = (
    "Exit codes: 0 done; 2 bad input or usage; 3 the audit found a result that contradicts itself; "
    "130 interrupted (the same command again resumes); 1 unexpected."
)

app = typer.Typer(
    name="wassertight",
    help="Attack, certify and bracket a classifier under Wasserstein distribution shift.",
    epilog="Start here:  [bold]wassertight evaluate[/bold]   (embedded network and data, half a minute)\n\n"
    + _EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  [bold]{line}[/bold]" for line in lines) + "\n\n" + _EXIT_CODES


def _version(wanted: bool) -> bool:
    if wanted:
        print(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    return None


app.command(
    epilog=_examples(
        "wassertight evaluate -m mypackage.nets:build -d test.npz -t W1-Linf@2/255,8/255 -t W2-L2@0.5 --n 1000",
        "wassertight evaluate -t W1-Linf@0.05 --population",
        "wassertight evaluate -t image-W1@0.005,0.01 --certificate wasserstein-smoothing --sigma 0.01 --n-draws 10000",
        "wassertight evaluate -m shared/data/manifest.json#cifar_cnn_a_adv -d cifar10.npz -t W1-Linf@8/255 --json",
    )
)(evaluate)
app.command(
    epilog=_examples(
        "wassertight attack -t W1-Linf@0.05",
        "wassertight attack --method w-pgd -t W2-L2@0.25,0.5 --set steps=100",
        "wassertight attack --method smoothed-frank-wolfe --sigma 0.01 -t image-W1@0.1,0.3",
        "wassertight attack --preset strong -t W1-Linf@0.05 -t L2@0.5",
        "wassertight attack -m mypackage.nets:build -d test.npz -t Linf@8/255 --method pgd --json",
    )
)(attack)
app.command(
    epilog=_examples(
        "wassertight certify -t W1-Linf@0.05",
        "wassertight certify -t W1-Linf@0.01,0.02,0.05 -t W2-Linf@0.01,0.02 -t Linf@0.05",
        "wassertight certify -t W1-Linf@0.02 --n 0 --population --confidence 0.99",
        "wassertight certify -t W1-Linf@0.02 --label-cost 0.1",
        "wassertight certify --method wasserstein-smoothing -t image-W1@0.005,0.01 --sigma 0.01 --n-draws 10000",
        "wassertight certify --loss cross-entropy -t W1-Linf@0.01 -t W2-Linf@0.01",
        "wassertight certify --method interval -m mypackage.nets:build -d test.npz -t Linf@2/255 --json",
    )
)(certify)


app.command(
    epilog=_examples(
        "wassertight train --objective trades --threat Linf@0.1",
        "wassertight train --recipe recipes/mnist-cpu-knapsack.toml --data mnist.npz --seed 1",
        "wassertight train -O pgd+awp -t Linf@8/255 -m preact-resnet-18 -d cifar10.npz --with precision=bf16 -e 30",
    )
)(train)
app.command(
    epilog=_examples(
        "wassertight finetune -m digits-cnn-robust -t W2-Linf@0.1 --perturb 0.02",
        "wassertight finetune -m nets/manifest.json#mnist_cnn_a_adv -d mnist.npz -O knapsack -t W2-Linf@0.3",
    )
)(finetune)


app.command(epilog=_examples("wassertight report runs/demo", "wassertight report runs/demo --json | jq .results"))(
    report
)
app.command(
    epilog=_examples(
        "wassertight leaderboard runs/",
        "wassertight leaderboard old/leaderboard.json runs/ -o site/ --title 'Our networks'",
    )
)(leaderboard)


@app.command("list", epilog=_examples("wassertight list methods", "wassertight list models --json"))
def list_things(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[models|architectures|methods|objectives|threats|data]",
            show_default=False,
            autocompletion=completing.kinds,
        ),
    ] = None,
    as_json: opt.Json = False,
) -> int:
    """List what this installation knows: models, architectures, methods, objectives, threats, data."""
    from wassertight.cli.listing import print_list

    print_list(kind, as_json=as_json)
    return 0


app.command(epilog=_examples("wassertight loss", "wassertight loss -t W2-Linf@0.05 --loss margin --json"))(loss)
app.command(
    epilog=_examples(
        "wassertight lipschitz",
        "wassertight lipschitz --norm L2 --exact --bounds none",
        "wassertight lipschitz -m mypackage.nets:build -d test.npz --norm Linf --json",
    )
)(lipschitz)
app.command(
    epilog=_examples(
        "wassertight doctor", "wassertight doctor -m mypackage.nets:build -d test.npz", "wassertight doctor --json"
    )
)(doctor)
app.command(epilog=_examples("wassertight supports", "wassertight supports -t W2-L2@0.3 --searches 5"))(supports)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors of the user become one line on standard error."""
    try:
        code = app(list(arguments), prog_name="wassertight", standalone_mode=False)
        if code == EXIT_INTERRUPTED:
            return _interrupted()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, EOFError):
        return _interrupted()
    except SystemExit as done:  # --install-completion and --show-completion end so
        return done.code if isinstance(done.code, int) else 0
    except AuditError as error:
        print(f"audit failed: {error}", file=sys.stderr)
        return EXIT_AUDIT
    except WassertightError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_UNEXPECTED
    except Exception as error:
        return _other(error)


def _interrupted() -> int:
    print("interrupted; what was finished is kept - give the same command again to resume", file=sys.stderr)
    return EXIT_INTERRUPTED


def _other(error: Exception) -> int:
    """The command-line parser's exceptions are recognised by what they offer, so that any click will do."""
    name = type(error).__name__
    if name == "Abort":
        return _interrupted()
    if name == "Exit":
        return int(getattr(error, "exit_code", 0))
    if name == "NoArgsIsHelpError":
        print(getattr(error, "message", "") or "wassertight --help lists the commands", file=sys.stderr)
        return EXIT_USAGE
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        path = getattr(context, "command_path", "wassertight")
        print(f"error: {error.format_message()} (see {path} --help)", file=sys.stderr)
        return EXIT_USAGE
    traceback.print_exc()
    print("this is unexpected, please report it with the lines above", file=sys.stderr)
    return EXIT_UNEXPECTED


def main() -> None:
    """Entry point of the `wassertight` command."""
    sys.exit(run(sys.argv[1:]))
