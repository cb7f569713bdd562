"""The configs that come with the package, by name."""

import re
from importlib.resources import files
from pathlib import Path

import yaml

from ewnprune.errors import nearest
from ewnprune.files import local_path


def _configs_folder() -> Path:
    """Inside the wheel, or beside the package in a checkout."""
    package = Path(str(files("ewnprune")))
    return next(
        folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()
    )


def shipped_configs() -> list[str]:
    """File names of the configs that come with the package."""
    return sorted(path.name for path in _configs_folder().glob("*.yaml"))


def shipped_config(name: str) -> Path:
    """The path of a config that comes with the package."""
    return _configs_folder() / name


def with_config_paths(words: list[str]) -> list[str]:
    """Replace the name of a shipped config by its path; a file of that name comes first.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is no YAML file.
    """
    found = list(words)
    for i, word in enumerate(words):
        given = re.fullmatch(r"(--config=|-c=?)(.+)", word)
        if given:
            found[i] = given[1] + config_path(given[2], given[1].rstrip("="))
        elif word in ("--config", "-c") and words[i + 1 : i + 2] and words[i + 1][:1] != "-":
            found[i + 1] = config_path(words[i + 1], word)
    return found


def config_path(name: str, option: str = "--config") -> str:
    """The path of a config: a file of that name, or the shipped one.

    Args:
        name: what the user gave.
        option: by which, for errors.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is no YAML file.
    """
    shipped, own = _configs_folder() / name, local_path(name)
    path = shipped if not own.exists() and own.name == name else own
    if not path.is_file():
        meant = nearest(name, shipped_configs()) or ", and"
        raise FileNotFoundError(
            f"{option} {name}: there is no such file{meant} the shipped ones are "
            f"{', '.join(shipped_configs())}"
        )
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{option} {name}: this is no YAML file: {error}") from error
    return str(path)
