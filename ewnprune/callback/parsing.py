"""The parsers of the commands that train and evaluate, for completion and for the reference."""

from contextlib import suppress

from pytorch_lightning.cli import ArgsType, LightningArgumentParser

from ewnprune.callback import command


def parsers_of_training() -> dict[str, LightningArgumentParser]:
    """The parser of ``fit`` and the others, by the command's name."""
    built: dict[str, LightningArgumentParser] = {}

    class Parsers(command.CommandLine):
        """Ends where the words would be parsed: nothing is made or run."""

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            built.update(self._subcommand_parsers)
            raise SystemExit

    with suppress(SystemExit):
        command.run(["--help"], Parsers)  # of no command, so that all are built
    return built
