"""Runs a program of ``launch/`` within the test's process, which has compiled before."""

import importlib.util

import pytest
import tiny

from attnseg.recipe import command


def run(name, *arguments):
    """Calls ``launch/NAME.py`` with command line arguments."""
    file = tiny.ROOT / "launch" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"launch_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command.run(module.parser, module.main, [str(argument) for argument in arguments])


def refused(capsys, name, *arguments):
    """The one line in which the program refuses its arguments."""
    with pytest.raises(SystemExit) as ended:
        run(name, *arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]
