"""Tables of an evaluation's figures, read from what its run folder holds; the page and the terminal both show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medssl.core.score import Score
from medssl.evaluation.metrics import METRICS
from medssl.evaluation.results import ENCODER, FEW
from medssl.review.findings import Measured, score_of
from medssl.review.words import name, sentence, short, system_name

SYSTEMS = (
    "model",
    ENCODER,
    "random",
    "pixels",
    "frame",
    "corners",
    "thumbnail",
    "scratch",
    "small_resnet",
)  # the order shown
FIGURES = ("linear", "pca", "attentive", "knn", "few", "recall_at_1", "recall_at_5", "map", "nmi", "ari")
DIFFERENCES = ("difference", "reduction", "rise", "gap")  # the last words of metrics that have a sign
COVERED = {"encoder": "Encoder", "baseline": "Baseline", "difference": "Better by", "lost": "Lead lost"}


@dataclass(frozen=True)
class Cell:
    """A score or nothing, and a text that stands below it, or in its place."""

    score: Score | None = None
    text: str = ""

    @property
    def signed(self) -> bool:
        """Whether the score is a difference."""
        return self.score is not None and self.score.metric.rpartition(" ")[2] in DIFFERENCES


@dataclass(frozen=True)
class Row:
    """One line of a table; ``own``: it is to stand out."""

    label: str
    cells: tuple[Cell, ...]
    own: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of figures, each with its interval and n; without rows there is nothing to show."""

    caption: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def is_scored(self) -> bool:
        """Whether a cell holds a score."""
        return any(cell.score for row in self.rows for cell in row.cells)

    def first(self, most: int) -> Grid:
        """Return at most so many of the columns of figures."""
        return replace(self, head=self.head[:most], rows=tuple(replace(r, cells=r.cells[:most]) for r in self.rows))


def systems(measured: Sequence[Measured], differences: Sequence[Measured], data: Mapping[str, Any]) -> Grid:
    """Return a row a system and probe; a difference stands beside the probe that it is taken of."""
    left = {found.name: found.score for found in differences}
    by_probe = data.get("probe_differences") or {}
    metrics = dict.fromkeys(found.score.metric for found in measured)
    rows = []
    for found in measured:
        how = name(found.name) + ("" if len(metrics) == 1 else f", {name(found.score.metric)}")
        few = f"{found.system}_{FEW}"
        better = left.pop(few if found.name == FEW and few in left else found.system, None)
        of_probe = score_of((by_probe.get(found.system) or {}).get(found.name))
        cells = Cell(found.score), Cell(better or of_probe)
        rows.append(Row(f"{sentence(system_name(found.system))}, {how}", cells, found.system == ENCODER))
    rows += [Row(sentence(system_name(who)), (Cell(), Cell(score))) for who, score in left.items()]
    counted = {"dev": data.get("num_train"), "val": data.get("num_val"), "test": data.get("num_test")}
    counts = ", ".join(f"{num:,} {role}" for role, num in counted.items() if isinstance(num, int))
    said = [
        f"Labelled images: {counts}." if counts else "",
        f"Classes: {', '.join(map(str, data['classes']))}." if data.get("classes") else "",
        "Differences are by one paired bootstrap on the same patients; beside what was learnt from few labels stands",
        "the encoder with as few. n counts patients.",
    ]
    return Grid(
        " ".join(filter(None, said)),
        (sentence(" or ".join(map(name, metrics)) or "score"), "Encoder better by"),
        tuple(rows),
    )


def others(data: Mapping[str, Any]) -> Grid:
    """Return a row an encoder that was compared with the judged one."""
    rows = [
        Row(f"Encoder {who}", tuple(Cell(score_of(found.get(part))) for part in ("linear", "knn", "difference")))
        for who, found in data.items()
    ]
    caption = (
        "Probes of other encoders on the same patients; the difference is that of the judged encoder's linear one."
    )
    return Grid(caption, ("Linear probe", "Nearest neighbours", "Encoder better by"), tuple(rows))


def external(data: Mapping[str, Any]) -> Grid:
    """Return a row a system in each other pool, or how many labelled patients there are where they are too few."""
    rows = []
    for pool, found in data.items():
        nearest, differences = found.get("knn") or {}, found.get("differences") or {}
        for who, score in _in_order(found.get("systems") or {}):
            cells = tuple(Cell(score_of(one)) for one in (score, nearest.get(who), differences.get(who)))
            rows.append(Row(f"{pool}: {system_name(who)}", cells, who == ENCODER))
        if not found.get("systems"):
            counts = ", ".join(f"{num} {name}".strip() for name, num in (found.get("patients") or {}).items())
            rows.append(Row(pool, (Cell(text=f"too few labelled patients: {counts or 'none'}"), Cell(), Cell())))
    caption = "What was learnt from this pool's dev patients, judged on labelled patients of other pools."
    return Grid(caption, ("Linear probe", "Nearest neighbours", "Encoder better by"), tuple(rows))


def by_system(data: Mapping[str, Mapping[str, Any]], caption: str) -> Grid:
    """Return a row a metric or class, a column a system; ``data``: score by system and row."""
    columns = _in_order(data)
    names = dict.fromkeys(row for _, found in columns for row in found)
    rows = [Row(_metric(row), tuple(Cell(score_of(found.get(row))) for _, found in columns)) for row in names]
    return Grid(caption, tuple(sentence(system_name(who)) for who, _ in columns), tuple(rows))


def metrics(data: Mapping[str, Any]) -> Grid:
    """Return a row a metric, a column a system, each by the probe that decides."""
    found = {who: scores for who, scores in data["metrics"].items() if not who.endswith(f"_{FEW}")}
    by = name(str(data.get("metric") or "score"))
    caption = (
        f"Every metric of this kind of task, by the probe that decides, on the same patients. The gate goes by {by}: "
        "another one, picked after having seen this table, proves less than its interval says."
    )
    return by_system(found, caption)


def by_class(data: Mapping[str, Any]) -> Grid:
    """Return a row a class or finding, a column a system."""
    metric = next((found["metric"] for one in data.values() for found in one.values()), "score")
    return by_system(data, f"{sentence(name(metric))} of each class or finding against the rest.")


def more_metrics(data: Mapping[str, Any]) -> tuple[Grid, ...]:
    """Return every metric of what was learnt from few labels, of other encoders and in other pools."""
    few = {who.removesuffix(f"_{FEW}"): one for who, one in data["metrics"].items() if who.endswith(f"_{FEW}")}
    others = {f"encoder {who}": one["metrics"] for who, one in (data.get("others") or {}).items()}
    made = [by_system(few, "Every metric of what was learnt from few labels, the mean of several draws of them.")]
    made.append(by_system(others, "Every metric of other encoders' linear probes on the same patients."))
    for pool, found in (data.get("external") or {}).items():
        made.append(by_system(found.get("metrics") or {}, f"Every metric on the patients of {pool}."))
    return tuple(grid for grid in made if grid.rows)


def _metric(word: str) -> str:
    lower = word in METRICS and not METRICS[word].higher_is_better
    return f"{name(word)} (lower is better)" if lower else name(word)


def domains(data: Sequence[Mapping[str, Any]]) -> Grid:
    """Return a row a pair of pools: how far the second is from the first."""
    rows = []
    for one in data:
        distance = f"{one['frechet']:.2f}, {one['reference']:.2f} within the first"
        far = "transfer is unlikely to help" if one["is_far"] else ""
        cells = Cell(text=distance), Cell(score_of(one["separable"])), Cell(text=far)
        rows.append(Row(f"From {one['source']} to {one['target']}", cells))
    caption = (
        "Fréchet distance in features of an untrained encoder, in units of the first pool's variance, and how well a "
        "linear classifier tells the two apart."
    )
    return Grid(caption, ("Distance", "Told apart", ""), tuple(rows))


def covered(data: Mapping[str, Any]) -> Grid:
    """Return a row a baseline: the comparison with the border of every image covered."""
    rows = [
        Row(f"Against {system_name(who)}", tuple(Cell(score_of(found.get(part))) for part in COVERED))
        for who, found in _in_order(data)
    ]
    whole = "the border of every image (frame and corners) covered, in training and in testing"
    caption = (
        f"Linear probes with {whole}. All of it, the lead that was lost too, is of the audited images alone "
        "(audit.images): learnt from fewer labels and judged on fewer test patients than the tables above wherever "
        "there are more images."
    )
    if "scratch" in data:
        caption = f"Learnt from few labels with {whole}, on the same draws as without."
    return Grid(caption, tuple(COVERED.values()), tuple(rows))


def few_shot(data: Mapping[str, Any]) -> Grid:
    """Return a row a system and probe, a column a number of labelled patients a class."""
    by = {(shot["system"], shot["probe"], int(shot["shots"])): shot for shot in data["measured"]}
    shots = sorted({number for _, _, number in by})
    rows = []
    for part, over, spread in (("score", "", "draw_spread"), ("difference", "encoder over ", "difference_spread")):
        for system, probe in dict.fromkeys((system, probe) for system, probe, _ in by):
            found = [by.get((system, probe, number), {}) for number in shots]
            cells = tuple(Cell(score_of(shot.get(part)), _spread(shot.get(spread))) for shot in found)
            label = f"{sentence(over + system_name(system))}, {name(probe)}"
            if any(cell.score for cell in cells):
                rows.append(Row(label, cells, system == ENCODER))
    caption = (
        f"Mean over {data.get('draws', 'several')} draws of labelled patients. The interval is that of test patients, "
        "of a difference also of draws; “draws ±” is the standard deviation over the draws, what another choice of "
        "patients would change."
    )
    skipped = [f" Not with {number} a class: {why}." for number, why in (data.get("skipped") or {}).items()]
    return Grid(caption + "".join(skipped), tuple(f"{number} a class" for number in shots), tuple(rows))


def _spread(spread: Any) -> str:
    return f"draws ± {spread:.3f}" if isinstance(spread, float) else ""


def structure(data: Mapping[str, Any]) -> Grid:
    """Return a row a system, then a row for each difference to the encoder; a column a figure."""
    figures, differences = _in_order(data["figures"]), _in_order(data.get("differences") or {})
    known = dict.fromkeys(column for _, found in figures for column in found)
    columns = sorted(known, key=lambda column: place(column, FIGURES))
    rows = [
        Row(sentence(over + system_name(who)), tuple(Cell(score_of(found.get(c))) for c in columns), who == ENCODER)
        for over, part in (("", figures), ("encoder over ", differences))
        for who, found in part
    ]
    chance = {c: data["chance"][c] for c in columns if c in (data.get("chance") or {})}
    caption = "No label was seen. How often a nearest image of another patient has the class; clusters against classes."
    if chance:
        caption += f" A random order reaches, exactly: {', '.join(f'{name(c)} {v:.3f}' for c, v in chance.items())}."
    return Grid(caption, tuple(sentence(name(c)) for c in columns), tuple(rows))


def subgroups(data: Mapping[str, Any]) -> Grid:
    """Return a row a value of each group, and below a group its widest gap."""
    rows = []
    for group in dict.fromkeys(row["group"] for row in data["table"]):
        for row in (row for row in data["table"] if row["group"] == group):
            score = score_of(row.get("score"))
            cell = Cell(score) if score else Cell(text=f"{row['num_patients']} patients: {row.get('reason')}")
            rows.append(Row(f"{sentence(group)}: {short(row['value'])}", (cell,)))
        for gap in (gap for gap in data.get("gaps") or () if gap["group"] == group):
            label = f"Widest gap of {group}: {short(gap['best'])} over {short(gap['worst'])}"
            rows.append(Row(label, (Cell(score_of(gap["difference"])),), own=True))
    caption = (
        "The encoder by the probe that decides, within each group. The interval of a gap allows for its having been "
        "picked as the widest; where it leaves out 0, patients are served differently."
    )
    return Grid(caption, (sentence(name(str(data.get("metric") or "score"))),), tuple(rows))


def scores(data: Mapping[str, Any]) -> Grid:
    """Return a row a named score, with its metric."""
    found = {str(key): score_of(value) for key, value in data.items()}
    rows = [Row(sentence(key), (Cell(text=name(s.metric)), Cell(s))) for key, s in found.items() if s]
    return Grid("", ("Metric", "Value"), tuple(rows))


def place(word: str, order: Sequence[str]) -> int:
    """Return where ``word`` stands in ``order``; what is not known comes last, as it was found."""
    return order.index(word) if word in order else len(order)


def _in_order(data: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(data.items(), key=lambda item: place(item[0], SYSTEMS))
