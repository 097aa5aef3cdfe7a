"""Settings every test shares: four CPU devices, compiled code kept between runs."""

import os
from pathlib import Path

import hypothesis  # noqa: F401  its pytest plugin would import it last, when parsing may fail

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache/attnseg/tests"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

TABLE = "table: "


def pytest_terminal_summary(terminalreporter):
    """Shows what tests note with ``record_property("table: TITLE", ROW)``, also from workers."""
    tables = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, row in getattr(report, "user_properties", ()):
                if name.startswith(TABLE):
                    tables.setdefault(name.removeprefix(TABLE), []).append(tuple(row))
    for title, rows in sorted(tables.items()):
        terminalreporter.section(title)
        rows = sorted(set(rows))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())
