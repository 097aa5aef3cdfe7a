"""The house: floors, what is imported, what the README promises."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnseg"
FLOORS = {
    "core": 0, "ops": 0,
    "layers": 1, "data": 1, "objectives": 1, "viz": 1,
    "models": 2,
    "tasks": 3, "weights": 3, "infer": 3,
    "training": 4,
    "recipe": 5, "benchmark": 5,
}  # fmt: skip


def imported(file):
    """Names of the modules a file imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "attnseg" and len(parts) > 1 and parts[1] in FLOORS else None


@pytest.mark.parametrize("name", [f for f in FLOORS if (PACKAGE / f).is_dir()])
def test_nothing_imports_upward_or_sideways(name):
    for file in (PACKAGE / name).rglob("*.py"):
        for module in imported(file):
            other = folder(module)
            if other is None or other == name:
                continue
            same_floor = FLOORS[other] == FLOORS[name]
            # The lowest floor is shared by all; siblings above it know nothing of each other.
            # `core` itself imports nothing of ours but what lies beside it.
            allowed = FLOORS[other] < FLOORS[name] or (name == "ops" and other == "core")
            assert allowed, f"{file.relative_to(ROOT)} imports {module} ({same_floor=})"


def test_programs_and_configurations_import_the_package_only():
    for place in ("launch", "configs"):
        for file in (ROOT / place).glob("*.py"):
            for module in imported(file):
                ours = module.split(".")[0]
                assert ours not in ("launch", "configs", "tests"), f"{file.name}: {module}"


def test_programs_are_short_and_files_not_long():
    for file in (ROOT / "launch").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 80, file.name
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, file.name


def test_no_folder_hides_a_function():
    """Importing ``attnseg.x.y`` sets ``attnseg.x``, which must not be a public function."""
    import attnseg

    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir()}
    assert not folders & {name for name in attnseg.__all__ if callable(getattr(attnseg, name))}


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def test_import_starts_no_device():
    loaded = run_python("import sys, attnseg; print('jax' in sys.modules, attnseg.__version__)")
    assert loaded == "False 0.1.0"


def test_nothing_imports_tensorflow():
    modules = [
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for f in PACKAGE.rglob("*.py")
    ]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += "from jax._src import xla_bridge\n"
    code += "print('tensorflow' in sys.modules, xla_bridge.backends_are_initialized())"
    assert run_python(code) == "False False"


def test_pyproject_describes_tools_only():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings) == {"build-system", "tool"}


def quickstart():
    """The two commands of the README's quickstart."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## Quickstart")[1].split("\n## ")[0]
    blocks = [b.split("\n", 1)[1].strip() for b in section.split("```")[1::2] if b[:2] == "sh"]
    return [line for block in blocks for line in block.splitlines()]


def test_readme_has_exactly_two_quickstart_commands():
    commands = quickstart()
    assert len(commands) == 2
    assert "launch/main.py --config=configs/segformer_b0.py" in commands[0]
    assert "pytest" in commands[1]
    # Continuous integration runs the very same line.
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
