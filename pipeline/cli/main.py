"""wrn-pipe: the command line. Commands import what is heavy when they run, so --help stays quick."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from shlex import join
from typing import Annotated, Any

import typer
from typer import Option

from pipeline.errors import UserError, exit_on_error
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.interruptions import NOTHING_HALF_DONE, stop_at_once
from pipeline.training.processes import wait_briefly

COMMANDS = {
    "repro": "train@cifar10-wrn-40-1-quick-s1",
    "status": "--json",
    "plan": "--paper-table 4 --row WRN-16-8 --dataset cifar100 --seeds 5",
    "estimate": "--paper-table 4 --seeds 5",
    "compare": "--paper-table 4 --dataset cifar10 --format markdown",
    "wanted": "--paper-table 4",
    "show": "cifar10-wrn-40-1-quick-s1",
    "explain": "--paper-table 4 --row WRN-40-1 --dataset cifar10",
    "verify": "--deep cifar10-wrn-40-1-quick-s1",
    "bundle": "--to wrn.zip, and elsewhere: wrn-pipe verify --bundle wrn.zip",
    "export": "cifar10-wrn-40-1-quick-s1 --layout authors --to wrn-40-1.safetensors",
    "stage": "train cifar10-wrn-40-1-quick-s1",
    "net": "'WRN-40-2-B(1,3,1)'",
    "ui": "--port 5001",
    "doctor": "--json",
}
"""Command -> an example of its words. Each is the function of its name in the module of its name."""
GROUPS = ("evidence", "checkpoint", "data", "track", "bench")
"""Of commands; each is the `app` of the module of its name."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Reproduce the tables of a paper and judge them. {PAPER.citation}",
    epilog="Start with: wrn-pipe doctor, then wrn-pipe repro, then wrn-pipe compare --paper-table 4",
)
for name, words in COMMANDS.items():
    function = getattr(import_module(f"pipeline.cli.{name}"), name)
    app.command(epilog=f"Example: wrn-pipe {name} {words}")(function)
for name in GROUPS:
    app.add_typer(import_module(f"pipeline.cli.{name}").app, name=name)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    from pipeline.provenance import commit

    text, root = f"wrn-pipe {version('wrn-pipe')}", Path(__file__).parents[2]
    if (root / ".git").exists():  # else it is installed, or lies in a repository that is not its own
        head, edited = commit(root)
        text += f", commit {head[:12]}{' with edits' if edited is True else ''}"
    typer.echo(text)
    raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, Option("--version", is_eager=True, callback=_version, help="Print the version and a checkout's commit.")
    ] = False,
) -> None:
    pass


def _called(command: Any, words: list[str]) -> tuple[Any, str]:
    """The command that a command line names. The parser does not say which it read when an option lacks its value."""
    path = "wrn-pipe"
    for word in (word for word in words if not word.startswith("-")):
        if (inner := getattr(command, "commands", {}).get(word)) is None:
            break
        command, path = inner, f"{path} {word}"
    return command, path


def _refuse_repeated(command: Any, path: str, words: list[str]) -> None:
    """Raise UserError for an option that takes one value and is given two: the parser would drop the first."""
    given = [word.partition("=")[0] for word in words[: words.index("--") if "--" in words else None]]
    for option in command.params:
        takes_one = not getattr(option, "multiple", True) and not getattr(option, "is_flag", True)
        if takes_one and sum(map(given.count, option.opts)) > 1:
            raise UserError(f"{path}: {option.opts[0]} is given twice and takes one value", f"{path} --help")


def main() -> None:
    """Run the command line: exit code 0 done, 1 a failure or a difference, 2 the user's mistake, 128 + a signal."""
    wait_briefly()  # before a command imports torch, and for all that it starts: DVC's stages, jobs, measurements
    if os.environ.get("COLUMNS") == "0":  # as some terminals say that they do not know
        del os.environ["COLUMNS"]
    words = sys.argv[1:]
    with exit_on_error(), stop_at_once(lambda: NOTHING_HALF_DONE, join(["wrn-pipe", *words])) as interrupted:
        commands = typer.main.get_command(app)
        called, path = _called(commands, words)
        try:
            _refuse_repeated(called, path, words)
            code = commands(standalone_mode=False, prog_name="wrn-pipe")
        except typer.TyperException as mistake:
            what = " ".join(mistake.format_message().split())
            if type(mistake).__name__ == "NoArgsIsHelpError":  # the help has been shown
                raise SystemExit(mistake.exit_code) from None
            if context := getattr(mistake, "ctx", None):
                path = context.command_path
            raise UserError(f"{path}: {what}", f"{path} --help says what it takes") from None
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # by wrn-pipe ... | head: typer says 1, a failure
                raise SystemExit(128 + signal.SIGPIPE) from None
            raise
        except typer.Abort:  # at a question: Ctrl-C, or no more input
            code = 130
        if code == 130 and interrupted():  # typer has made this of it
            raise KeyboardInterrupt
    raise SystemExit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
