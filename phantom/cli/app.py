"""The command line put together, and the one place where its errors end."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import phantom
from phantom.cli import demo, forward, keys, ping, serve, sidecar, simulate, version
from phantom.cli.failures import EXIT_INTERRUPTED, UsageError, report
from phantom.cli.screen import Screen

__all__ = ["app", "run"]

# What usage errors have in common has no public name in every version of typer that we support.
_CommandLineError: Final[Any] = typer.BadParameter.__bases__[0]


class PhantomGroup(TyperGroup):
    """The command ``phantom``: every failure becomes one line and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line ``args``; leaves by SystemExit in standalone mode, else returns the exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        code = self._guarded(arguments, prog_name, complete_var, windows_expand_args, extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _guarded(
        self,
        arguments: list[str],
        prog_name: str | None,
        complete_var: str | None,
        windows_expand_args: bool,
        extra: dict[str, Any],
    ) -> int:
        screen = Screen(as_json="--json" in arguments)
        try:
            result = super().main(arguments, prog_name, complete_var, False, windows_expand_args, **extra)
        except _CommandLineError as error:
            return report(_usage(error, prog_name), screen)
        except (KeyboardInterrupt, typer.Abort):
            screen.note("interrupted")
            return EXIT_INTERRUPTED
        except Exception as error:  # noqa: BLE001 - nothing gets past here as a traceback
            return report(error, screen)
        return result if isinstance(result, int) else 0


def _usage(error: Any, prog_name: str | None) -> UsageError:
    text = str(error.format_message()).strip().rstrip(".").replace("\n", " ")
    command = error.ctx.command_path if error.ctx is not None else prog_name or "phantom"
    return UsageError.of(f"{text}; '{command} --help' shows how it is used")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"phantom {phantom.__version__}", flush=True)
        raise typer.Exit


app = typer.Typer(
    cls=PhantomGroup,
    name="phantom",
    help="Post-quantum-secure sessions to a pinned peer.",
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 pin mismatch, 4 network, 5 timeout, 6 client identity refused.",
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Post-quantum-secure sessions to a pinned peer."""
    if context.invoked_subcommand is None:
        print(context.get_help(), flush=True)
        raise typer.Exit(2)


app.command("keygen")(keys.keygen)
app.command("pubkey")(keys.pubkey)
app.command("ping")(ping.ping)
app.command("serve")(serve.serve)
app.command("forward")(forward.forward)
app.command("pipe")(forward.pipe)
app.command("sidecar")(sidecar.sidecar)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("version")(version.version)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an old locale must not make output an error
    code = app(arguments, prog_name="phantom", standalone_mode=False)
    return code if isinstance(code, int) else 0
