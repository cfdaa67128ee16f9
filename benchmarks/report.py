"""Results for people: a table on the terminal, one in Markdown, a plot, and both put into the documents.

No number stands in README.md or docs/benchmarks.md that did not come from results.json: what is between the markers is
written here, and a test compares.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.consumer import ROOT
from benchmarks.lines import Line, Side
from benchmarks.results import Results
from benchmarks.rows import TITLES
from benchmarks.stage import say

PUBLISHED = ROOT / "docs/benchmarks"
"""results.json and ratios.svg of the run that the documents show."""

BEGIN, END = "<!-- benchmarks: written by scripts/benchmark --publish -->", "<!-- benchmarks: end -->"

MARK = {True: "yes", False: "**no**", None: ""}

HIGHLIGHTS = (
    (1, "128 KiB rows, 8 MiB batches, no compression"),
    (1, "128 KiB rows, 8 MiB batches, its default"),
    (2, "torch DataLoader, 2 workers, its default; 4,096 B rows, batches of 1024"),
    (3, "grain, 2 workers, batched; 4,096 B rows, batches of 1024"),
    (3, "Keras PyDataset, 2 workers; 150,528 B rows, batches of 128"),
    (15, "rows of 4 KiB, batches of 64"),
    (21, "JPEG 500 x 375 to 224 x 224, resized: torchvision, DataLoader, 2 workers"),
    (20, "tokens, line of 125 MB/s, against tf.data service"),
    (16, "batches of 8 MiB, against plain tcp"),
    (12, "first batch of 1,000,000,000 samples: import, connect, wait"),
)
"""The lines that README.md shows, by row and what is compared: against what a user would take instead, on data and on
lines as users have them, missed ones among them; docs/benchmarks.md has all."""


def sentence(line: Line) -> str:
    """A line as progress."""
    if line.ratio is None:
        return f"row {line.row}, {line.what}: {line.why_not}"
    wanted = f", wanted {line.bound}{'' if line.is_met else ': MISSED'}" if line.bound else ""
    return f"row {line.row}, {line.what}: {line.ratio}{wanted}"


def as_text(results: Results) -> str:
    """The table for a terminal."""
    out = [f"{machine(results.machine)}\n"]
    for row, lines in _by_row(results):
        out.append(f"{row:>2}  {TITLES[row]}")
        for line in lines:
            result = str(line.ratio) if line.ratio else line.why_not
            met = {True: "", False: "  MISSED", None: ""}[line.is_met]
            out.append(f"    {line.what:<76} {result:<28} {line.bound or ''!s:<9}{met}")
    return "\n".join(out)


def highlights(results: Results) -> str:
    """README's table: HIGHLIGHTS, and how many of all bounds are met."""
    out = ["| measured | compared | result (min – max) | must reach |", "| --- | --- | --- | --- |"]
    known = {(line.row, line.what): line for line in results.lines}
    for line in (known[place] for place in HIGHLIGHTS if place in known):
        missed = ", missed" if line.is_met is False else ""
        out.append(
            f"| {line.row}. {TITLES[line.row]} | {_against(line)} | {_result(line)} | {line.bound or ''}{missed} |"
        )
    bound = [line for line in results.lines if line.bound is not None and line.ratio is not None]
    met = sum(line.is_met is True for line in bound)
    return "\n".join([*out, "", f"Of all {len(bound)} bounds {met} are met."])


def details(results: Results) -> str:
    """The whole table, a section a row."""
    out = []
    for row, lines in _by_row(results):
        run = results.rows[row]
        out += [
            f"### {row}. {TITLES[row][0].upper()}{TITLES[row][1:]}\n",
            f"{run['pairs']} rounds, {run['seconds']:.0f} s, {run['date']}, load {run['load'][0]}"
            f"{_elsewhere(run['machine'], results.machine)}.\n",
            "| compared | result (min – max) | must reach | met | feedline | peer | trainer CPU s/GB | loader CPU s/GB "
            "| trainer peak MB | loader peak MB |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for line in lines:
            if line.ratio is None and line.ours is None:
                out.append(f"| {line.what} | {line.why_not} | {line.bound or ''} | | | | | | | |")
                continue
            cells = [
                line.what, _result(line), str(line.bound or ""), MARK[line.is_met],
                _value(line.ours, line.unit), _value(line.peer, line.unit, named=True),
                _both(line, "trainer_cpu_s_per_gb", ".2f"), _both(line, "loader_cpu_s_per_gb", ".2f"),
                _both(line, "trainer_rss_mb", ",.0f"), _both(line, "loader_rss_mb", ",.0f"),
            ]  # fmt: skip
            out.append(f"| {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out).rstrip()


def machine(it: Mapping[str, Any]) -> str:
    """Where it ran, in a sentence."""
    packages = ", ".join(f"{name} {number}" for name, number in it["packages"].items())
    return (
        f"{it['cores']} cores of {it['cpu']}, {it['memory_gb']} GB of memory, Linux {it['kernel']}, Python "
        f"{it['python']}; {packages}."
    )


def _elsewhere(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What was different where a row was measured; nothing, if it was where the latest was."""
    different = [
        f"{name} {there[name]}"
        for name in ("cpu", "cores", "memory_gb", "kernel", "python")
        if there[name] != here[name]
    ]
    packages = [
        f"{name} {number}" for name, number in there["packages"].items() if here["packages"].get(name) != number
    ]
    return (f"; on another machine: {', '.join(different)}" if different else "") + (
        f"; with {', '.join(packages)}" if packages else ""
    )


def plot(results: Results, path: Path) -> None:
    """Every ratio with its range and what it had to reach, by how far it is on the right side of that."""
    try:
        import matplotlib as mpl
    except ImportError:
        say("no plot: matplotlib is not installed")
        return
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "feedline"  # the same results give the same file
    import matplotlib.pyplot as plt

    lines = [
        line for line in results.lines if line.ratio is not None and line.bound is not None and line.ratio.median > 0
    ]
    if not lines:
        return
    figure, axes = plt.subplots(figsize=(9, 1 + 0.24 * len(lines)))
    for place, line in enumerate(reversed(lines)):
        assert line.ratio is not None
        assert line.bound is not None
        # Drawn as so many times what must be reached; where less is better, the other way round.
        must = line.bound.must
        ends = [value / must for value in (line.ratio.least, line.ratio.median, line.ratio.most) if value > 0]
        if line.bound.sign == "<=":
            ends = [1 / end for end in reversed(ends)]
        least, middle, most = ends[0], ends[len(ends) // 2], ends[-1]
        colour = "tab:green" if line.is_met else "tab:red"
        axes.plot([least, most], [place, place], color=colour, alpha=0.5, linewidth=4, solid_capstyle="butt")
        axes.plot([middle], [place], "o", color=colour, markersize=5)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [f"{line.row}  {line.what}" for line in reversed(lines)], fontsize=7)
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlabel("times better than what must be reached (median and range of the rounds)")
    axes.grid(visible=True, axis="x", which="both", alpha=0.25)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def publish(results: Results, rows: Collection[int]) -> None:
    """Put these rows of a run into the documents; what was published of the others stays."""
    published = Results.read(PUBLISHED / "results.json")
    published.take(rows, results)
    published.write(PUBLISHED / "results.json")
    plot(published, PUBLISHED / "ratios.svg")
    for document, text in documents().items():
        document.write_text(text)


def documents() -> dict[Path, str]:
    """The documents as they should be, by the published results."""
    results = Results.read(PUBLISHED / "results.json")
    shown = [results.rows[row] for row, _ in HIGHLIGHTS if row in results.rows]
    # README shows some rows alone: what was installed when another one was measured says nothing of them.
    there = max(shown, key=lambda run: run["date"])["machine"] if shown else results.machine
    texts = {"README.md": (there, highlights(results)), "docs/benchmarks.md": (results.machine, details(results))}
    return {
        ROOT / name: _between(
            ROOT / name, f"{f'On {machine(it)}' if results.rows else 'Nothing was published yet.'}\n\n{text}"
        )
        for name, (it, text) in texts.items()
    }


def _between(document: Path, text: str) -> str:
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{document} has no place for the results; wanted a line {BEGIN} and a line {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _by_row(results: Results) -> Iterator[tuple[int, list[Line]]]:
    for row, value in sorted(results.rows.items()):
        if value["lines"]:
            yield row, value["lines"]


def _result(line: Line) -> str:
    if line.ratio is None:
        return line.why_not
    unit = f" {line.unit}" if line.peer is None else "x"
    spread = "" if line.ratio.least == line.ratio.most else f" ({line.ratio.least:.2g} – {line.ratio.most:.2g})"
    return f"{line.ratio.median:.3g}{unit}{spread}"


def _against(line: Line) -> str:
    return f"{line.what}; {line.peer.name}" if line.peer and line.peer.name not in line.what else line.what


def _value(side: Side | None, unit: str, *, named: bool = False) -> str:
    return "" if side is None else f"{side.value:.3g} {unit}" + (f", {side.name}" if named else "")


def _both(line: Line, what: str, form: str) -> str:
    each = [getattr(side, what) for side in (line.ours, line.peer) if side is not None]
    return " / ".join("–" if value is None else format(value, form) for value in each) if any(each) else ""


if __name__ == "__main__":
    print(json.dumps({str(path): "written" for path, text in documents().items() if path.write_text(text)}, indent=1))
