"""The costs of the compact network and of the original one, formatted for readers."""

from __future__ import annotations

from pyrosparse.measure import RegressionQuality, Report
from pyrosparse.recipes.compaction import Compaction
from pyrosparse.reports.summary import Summary, value_name, value_text

Cost = tuple[str, str, str, str]


def costs(summary: Summary) -> list[Cost]:
    """The costs of a run's networks: (quantity, before, after, change), most important first.

    Empty if there is no compact network.

    >>> from pyrosparse.recipes import Compaction
    >>> report = Report("3-2", (23, 14), {"0": (12, 6)}, (300, 260), {1: (2e-3, 1e-3)})
    >>> compaction = Compaction(report, "", "", {"0.input": (2, 4)})
    >>> toy = Summary("Toy", 9, 0, 9, 0.9, 0.3, 23, 20, [], 300, 280, 2.0, None, compaction, 270)
    >>> for row in costs(toy):
    ...     print(*[cell for cell in row if cell], sep=" | ")
    units kept by the gates | 4 | 2 | 50.0 %
    outputs of the layers | 3-2
    parameters | 23 | 14 | 1.6 times fewer
    multiply-accumulates | 12 | 6 | 2.0 times fewer
    bytes of the file | 300 | 270 | 1.1 times fewer
    time of a batch of 1 | 2.000 ms | 1.000 ms | 2.0 times faster
    """
    compaction = summary.compaction
    if compaction is None or compaction.report is None:
        return []
    report = compaction.report
    rows: list[Cost] = []
    if compaction.units:
        kept, of = (sum(pair[side] for pair in compaction.units.values()) for side in (0, 1))
        whole = "-".join(str(size) for _, size in compaction.units.values())
        rows.append(("units kept by the gates", whole, compaction.kept, f"{100 * kept / of:.1f} %"))
    if compaction.active:
        mean = "-".join(f"{units:.0f}" for units in compaction.active.values())
        rows.append(("units active for an average datum", "", mean, ""))
    rows += [
        ("outputs of the layers", "", report.structure, ""),
        _fewer("parameters", *report.parameters),
        _fewer("multiply-accumulates", *report.total_macs),
    ]
    if summary.compact_bytes is not None:
        rows.append(_fewer("bytes of the file", summary.dense_bytes, summary.compact_bytes))
    for size, (before, after) in report.seconds.items():
        times = f"{1e3 * before:.3f} ms", f"{1e3 * after:.3f} ms"
        rows.append((f"time of a batch of {size}", *times, " ".join(speed(before, after))))
    return rows + _quality(report) + _paper(compaction)


def speed(before: float, after: float) -> tuple[str, str]:
    """The ratio of two times, as a factor and a word.

    >>> speed(1.0, 2.0)
    ('2.0 times', 'slower')
    """
    if after > before:
        return f"{after / before:.1f} times", "slower"
    return f"{before / after:.1f} times", "faster"


def _fewer(what: str, before: int, after: int) -> Cost:
    change = f"{before / after:.1f} times fewer" if after and before > after else ""
    return what, f"{before:,}", f"{after:,}", change


def _quality(report: Report) -> list[Cost]:
    if report.quality is None:
        return []
    before, after = report.quality
    if isinstance(before, RegressionQuality):
        scores, others = before.figures(), after.figures()
        return [
            (f"test {value_name(k)}", value_text(k, scores[k]), value_text(k, others[k]), "")
            for k in scores
        ]
    return [
        ("test accuracy", f"{100 * before.accuracy:.2f} %", f"{100 * after.accuracy:.2f} %", ""),
        ("test NLL, nats per datum", f"{before.nll:.4f}", f"{after.nll:.4f}", ""),
        ("test calibration error", f"{before.ece:.4f}", f"{after.ece:.4f}", ""),
    ]


def _paper(compaction: Compaction) -> list[Cost]:
    whole = compaction.report.paper if compaction.report is not None else None
    rows = []
    for counts, of in ((whole, ", the paper's count"), (compaction.counts, " of active units")):
        if counts is not None:
            before, after = counts
            share = f"{100 * after.memory / before.memory:.2f} %"
            rows += [
                _fewer(f"FLOPs{of}", before.flops, after.flops),
                (f"memory{of}", f"{before.memory:,}", f"{after.memory:,}", share),
            ]
    return rows
