"""`ewnprune completion`: a script with which the shell completes commands, options and files."""

from argparse import SUPPRESS, ArgumentParser
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import shtab

from ewnprune.cli import command_parsers


def print_completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print the script that completes `ewnprune` in a shell.

    In bash ``ewnprune completion bash > ~/.local/share/bash-completion/completions/ewnprune``, in
    zsh ``ewnprune completion zsh > "${fpath[1]}/_ewnprune"``; then start a new shell. The script
    knows the options of this version: write it anew after an update.

    Args:
        shell: for which shell.
    """
    print(shtab.complete(_whole(command_parsers()), shell))


def _whole(parsers: dict[str, Any]) -> ArgumentParser:
    """One plain parser of all commands, as shtab reads it: names, choices and help of options.

    jsonargparse has a way of its own, and another in each of its releases; its parsers are copied.
    """
    whole = ArgumentParser("ewnprune", add_help=False)
    whole.add_argument("--help", "--version", action="help", help="help, and which version")
    commands = whole.add_subparsers()
    for name, parser in parsers.items():
        told = _first_line(parser.description)
        command = commands.add_parser(name, add_help=False, help=told, description=told)
        for action in parser._actions:
            if action.help == SUPPRESS:
                continue
            # without --name+, which appends: shtab 1.7 makes no names that a shell takes of it
            options = [name for name in action.option_strings if not name.endswith("+")]
            names = options or [action.dest]
            told = _first_line(action.help)
            if action.nargs == 0:
                command.add_argument(*names, help=told, action="store_true")
            else:
                choices = action.choices or _literals(getattr(action, "_typehint", None)) or None
                taking = command.add_argument(*names, help=told, choices=choices)
                if choices is None:
                    taking.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def _literals(hint: Any) -> list[str]:
    """The words that a type allows.

    >>> _literals(Literal["mask", "remove"] | None), _literals(str)
    (['mask', 'remove'], [])
    """
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    among = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return [word for one in among for word in _literals(one)]


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].replace("%", "%%")
