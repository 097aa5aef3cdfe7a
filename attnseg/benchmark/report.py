"""Tables of a benchmark."""

from __future__ import annotations

import statistics

from attnseg.benchmark.cases import OURS
from attnseg.benchmark.contest import MODES
from attnseg.benchmark.roofline import share

HEADER = (
    "| case | who | parameters (M) | pass | median (ms) | spread (ms) | images/s | "
    "ours / this | compile (s) | memory (MB) | GFLOP | GB | of roofline |"
)


def _ms(seconds: float) -> str:
    """Milliseconds with a tenth, and four digits where that is more."""
    return f"{seconds * 1e3:.1f}" if seconds >= 0.1 else f"{seconds * 1e3:#.4g}"


def _cell(text: str) -> str:
    """Text that stays within its cell."""
    return " ".join(text.split()).replace("|", "/")


def _megabytes(record: dict, mode: str) -> str:
    memory = record.get("facts", {}).get(mode, {}).get("memory")
    if memory:
        return f"{memory / 1e6:.0f}"
    return f"{record['resident'] / 1e6:.0f} (process)" if "resident" in record else ""


def _row(record: dict, ours: dict | None, mode: str, limits: dict[str, float]) -> str:
    seconds = statistics.median(record[mode])
    spread = f"{_ms(min(record[mode]))}-{_ms(max(record[mode]))}"
    facts = record.get("facts", {}).get(mode, {})
    batch, dtype = record["case"]["batch"], record["case"]["dtype"]
    ratio = ""
    if record is not ours and ours and ours.get(mode):
        ratio = f"{seconds / statistics.median(ours[mode]):.2f}"
    # The limits are those of one device, or of a whole CPU that counts as several.
    reached = share(facts, seconds, limits, dtype) if record["case"]["devices"] == 1 else None
    cells = [
        record["title"],
        record["who"] + (f" ({record['note']})" if record.get("note") else ""),
        f"{record['parameters'] / 1e6:.2f}" if record.get("parameters") else "",
        mode,
        _ms(seconds),
        spread,
        f"{batch / seconds:.2f}",
        ratio,
        f"{facts['compile_s']:.1f}" if "compile_s" in facts else "",
        _megabytes(record, mode),
        f"{facts['flops'] / 1e9:.1f}" if facts.get("flops") else "",
        f"{facts['bytes'] / 1e9:.2f}" if facts.get("bytes") else "",
        f"{reached:.0%}" if reached is not None else "",
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(
    records: list[dict], limits: dict[str, float], heading: str, platform: str = "cpu"
) -> str:
    """A heading, what the machine can do, and a row for each contestant and pass.

    ``ours / this`` is our speed over the row's: above 1 we are faster. Memory is XLA's account of
    the program (arguments, results, temporaries) or the framework's peak; "process" is the most
    the whole process held. Where devices share a batch, memory, FLOPs and bytes are those of one.
    On a GPU FLOPs are counted before compilation, and bytes are those of arguments and results.
    """
    lines = [heading, ""]
    rates = ", ".join(
        f"{name.partition('/')[2] or 'copy'} {value / 1e9:.1f} "
        + ("GB/s" if name == "bytes" else "GFLOP/s")
        for name, value in limits.items()
    )
    lines += [f"Measured limits: {rates}.", ""]
    if any(record["case"]["devices"] > 1 for record in records if "error" not in record):
        lines += ["Memory, GFLOP and GB are those of one device.", ""]
    if platform != "cpu":
        lines += ["GFLOP: before compilation. GB: arguments and results. float32 products: TF32."]
        lines += [""]
    lines += [HEADER, "|" + "---|" * HEADER.count(" | ") + "---|"]
    firsts: dict[str, dict] = {}
    for record in records:
        if record["who"] == OURS and "error" not in record:
            firsts[record["title"]] = record
    for record in records:
        if "error" in record:
            lines.append(
                f"| {record['title']} | {record['who']} | | {_cell(record['error'])} |" + " |" * 9
            )
            continue
        ours = firsts.get(record["title"])
        lines += [_row(record, ours, mode, limits) for mode in MODES if record.get(mode)]
    return "\n".join(lines) + "\n"


def memory_table(records: list[dict], heading: str) -> str:
    """A heading and a row for each case and pass: XLA's account of the memory, in megabytes (1e6).

    ``memory`` is arguments, results and temporaries together, ``temporaries`` the part that lives
    during the program only.
    """
    lines = [heading, ""]
    lines += ["| case | parameters (M) | pass | memory (MB) | temporaries (MB) | compile (s) |"]
    lines += ["|---|---|---|---|---|---|"]
    for record in records:
        count = f"{record['parameters'] / 1e6:.2f}" if record["parameters"] else ""
        if "error" in record:
            lines.append(f"| {record['title']} | {count} | {_cell(record['error'])} | | | |")
        for mode, facts in record["facts"].items():
            kinds = (facts.get("memory"), facts.get("temporary"))
            sizes = " | ".join("" if size is None else f"{size / 1e6:,.0f}" for size in kinds)
            seconds = facts["compile_s"]
            lines.append(f"| {record['title']} | {count} | {mode} | {sizes} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"
