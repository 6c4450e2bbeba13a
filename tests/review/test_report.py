"""The report says everything with interval, n and link, fetches nothing, and names nobody."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from rich.console import Console
from synthetic_study import POOL, pictures, score, write_study

from medssl.core.files import read_json, write_json
from medssl.core.score import Score
from medssl.review.page import report
from medssl.review.tables import runs_table
from medssl.tracking.journal import Journal
from medssl.tracking.records import read_runs

VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    inside: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        """Return the elements inside with this tag, or this class when it starts with a dot."""
        fits = name[1:] in self.attributes.get("class", "").split() if name.startswith(".") else self.tag == name
        return [self] * fits + [found for element in self.inside for found in element.all(name)]

    def everything(self) -> list[Element]:
        return [self] + [found for element in self.inside for found in element.everything()]


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].inside.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"unbalanced {tag}"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def by_id(self, name: str) -> Element:
        (found,) = [element for element in self.root.everything() if element.attributes.get("id") == name]
        return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    workspace = tmp_path_factory.mktemp("a study")
    return workspace, write_study(workspace, pictures(12))


@pytest.fixture(scope="module")
def page(study: tuple[Path, dict[str, str]]) -> Page:
    workspace, _ = study
    return Page(report(read_runs(workspace), workspace / "reports" / "report.html", "Chest radiographs"))


def in_files(workspace: Path) -> list[Score]:
    """Return every score that evaluation, audits, curve and fine-tuning wrote, found by its shape."""
    found: list[Score] = []

    def look(data: object) -> None:
        if isinstance(data, dict) and {"low", "metric"} <= set(data):
            found.append(Score(**data))
        elif isinstance(data, dict | list):
            for value in data.values() if isinstance(data, dict) else data:
                look(value)

    for name in ("evaluation", "audits", "curve", "finetune"):
        for path in workspace.glob(f"runs/*/{name}.json"):
            look(read_json(path))
    return found


def test_every_score_stands_with_its_interval_its_n_and_a_link_to_its_run(
    page: Page, study: tuple[Path, dict[str, str]]
) -> None:
    shown = set()
    for element in page.root.all(".score"):
        value, interval, n = (element.all(f".{part}")[0].text for part in ("value", "interval", "n"))
        low, high = interval.split(" to ")
        shown.add((float(value), float(low), float(high), int(n.removeprefix("n = "))))
        (link,) = element.all("a")
        row = page.by_id(link.attributes["href"].removeprefix("#"))
        folder = page.path.parent / unquote(row.all("a")[0].attributes["href"])
        assert (folder / "journal.jsonl").is_file()
    written = {(round(s.value, 3), round(s.low, 3), round(s.high, 3), s.n) for s in in_files(study[0])}
    assert len(written) > 25
    assert {tuple(round(float(x), 3) for x in row) for row in shown} == written


def test_no_score_of_the_run_table_lacks_interval_and_n(page: Page) -> None:
    figures = page.by_id("runs").text
    whole = r"(0\.\d{3}) \[0\.\d{3}, 0\.\d{3}\] n = 118"
    assert set(re.findall(whole, figures)) == {"0.903", "0.871", "0.931", "0.917"}
    assert not re.search(r"\b0\.\d{3}\b", re.sub(whole, "", figures))


def test_the_page_fetches_nothing_from_outside(page: Page) -> None:
    text = page.path.read_text(encoding="utf-8")
    assert set(re.findall(r'[\w:]+="http[^"]*"', text)) <= {
        'xmlns="http://www.w3.org/2000/svg"',
        'xmlns:xlink="http://www.w3.org/1999/xlink"',
    }
    assert "http" not in re.sub(r'xmlns(:\w+)?="http[^"]*"', "", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    for element in page.root.everything():
        assert element.tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "srcset", "href", "xlink:href", "action", "data"):
            address = element.attributes.get(name, "#")
            assert address.startswith(("#", "data:image/png;base64,", "../runs/")), address
    assert not re.search(r"@import|url\((?!#)", text)


def test_links_inside_the_page_lead_somewhere(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.root.everything() if "id" in element.attributes]
    targets = {
        element.attributes["href"][1:] for element in page.root.all("a") if element.attributes["href"].startswith("#")
    }
    assert targets
    assert targets <= set(ids)
    rows = [name for name in ids if re.search(r"-\d{8}-\d{6}-", name)]
    assert len(rows) == len(set(rows)) == 5


def test_the_verdict_opens_the_page_with_its_reasons(page: Page) -> None:
    verdict, journey = page.root.all(".verdict")[0], page.root.all(".journey")[0]
    assert verdict.all("h2")[0].text == "Go"
    assert verdict.all("li")[0].text.startswith("The encoder is better than the random encoder")
    (warnings,) = verdict.all(".warnings")
    assert [item.text for item in warnings.all("li")] == [verdict.all("li")[-1].text]
    assert "frame of the image alone" in warnings.text
    everything = page.root.everything()
    assert everything.index(verdict) < everything.index(journey)


@pytest.mark.parametrize(("decision", "headline"), [("no_go", "No go"), ("undecided", "Undecided")])
def test_each_verdict_has_its_words(tmp_path: Path, decision: str, headline: str) -> None:
    evaluate(tmp_path, {"task": "pneumonia", "verdict": {"decision": decision, "reasons": ["no labels yet"]}})
    page = Page(report(read_runs(tmp_path), tmp_path / "r.html", "t"))
    (verdict,) = page.root.all(".verdict")
    assert verdict.all("h2")[0].text == headline
    assert "No labels yet" in verdict.text


def evaluate(workspace: Path, evaluation: dict[str, object]) -> Journal:
    with Journal.start(workspace, "evaluate", "chest", {}) as journal:
        write_json(journal.folder / "evaluation.json", evaluation)
    return journal


def test_every_part_of_the_study_is_there(page: Page, study: tuple[Path, dict[str, str]]) -> None:
    ids = study[1]
    pool = page.by_id("pool").text
    for words in ("445", "300 dev, 71 val, 74 test", "DX, CR", "Pixel data is truncated", "549 input", POOL["pool"]):
        assert words in pool
    training = page.by_id("pretraining")
    assert [text.text for text in training.all("text") if text.text in ("Loss", "Learning rate")] == [
        "Loss",
        "Learning rate",
    ]
    assert len(training.all("img")) == 3
    transfer = page.by_id("transfer").text
    for words in (
        "Elsewhere: pretrained encoder", "too few labelled patients: 3 normal, 1 pneumonia", "Encoder pretrain-old",
        "31 [14, 77]", "Widest gap of sex: F over M", "Frame alone: warning", "Lead lost", "Recall at 1",
        "draws ± 0.040",
    ):  # fmt: skip
        assert words in transfer
    assert [img.attributes["alt"] for img in page.by_id("transfer").all("img")] == [
        "Attention of the last layer", "Nearest neighbours among other patients", "Embedding map by label",
        "Reliability of the predicted probabilities",
    ]  # fmt: skip
    tuned = page.by_id("finetuning")
    labels = [head.text for head in tuned.all("th") if head.attributes["scope"] == "row"]
    assert labels == [
        "Fine-tuned model, test", "Fine-tuned model, val", "Pretrained encoder, linear probe",
        "Raw pixels, linear probe on components", "AUROC", "Brier score (lower is better)",
    ]  # fmt: skip
    assert "+0.093" in tuned.text
    assert "Fine-tuned model better by" in [text.text for text in tuned.all("text")]
    worklist = page.by_id("worklist")
    assert len(worklist.all("img")) == 1
    assert len(worklist.all("tr")) == 11
    assert (page.path.parent / unquote(worklist.all("a")[0].attributes["href"])).name == "worklist.csv"
    assert "9 files were quarantined" in page.by_id("notes").text
    assert "does not remove the need for labels" in page.root.all(".limits")[0].text
    evaluation = page.by_id(ids["evaluate"])
    assert [a.attributes["href"] for a in evaluation.all("a")[1:]] == [f"#{ids['pretrain']}", f"#{ids['ingest']}"]


def test_names_and_paths_in_parameters_or_other_columns_stay_out(tmp_path: Path) -> None:
    params = {"pool": "/data/DOE^JOHN", "method": {"name": "mae"}}
    with Journal.start(tmp_path, "select", "chest", params) as journal:
        rows = "rank,study,reason,original_uid,path\n1,9f2c,loudest,1.2.840.99,/data/DOE^JOHN/1.dcm\n"
        (journal.folder / "worklist.csv").write_text(rows)
    with pytest.raises(OSError, match="DOE"), Journal.start(tmp_path, "predict", "chest", params):
        raise OSError("/data/DOE^JOHN/1.dcm")
    text = report(read_runs(tmp_path), tmp_path / "r.html", "t").read_text()
    assert "9f2c" in text  # the row itself is shown
    for leak in ("DOE", "1.2.840", str(tmp_path)):
        assert leak not in text


def test_what_runs_say_is_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    with Journal.start(tmp_path, "pretrain", "<b>study</b>", {"method": {"name": "<i>"}}) as journal:
        journal.metrics(1, {"loss": 1.0})
        journal.note("<script>alert(1)</script>")
    named = {"$x$ <b>": vars(score(0.8, 0.1)), "linear": vars(score(float("nan"), 0.0))}
    evaluate(tmp_path, json.loads(json.dumps({"task": "<u>", "systems": {"<s>": named}}).replace("NaN", '"nan"')))
    page = Page(report(read_runs(tmp_path), tmp_path / "r.html", "<i>t</i>"))
    assert not [e for e in page.root.everything() if e.tag in ("script", "i", "u", "s")]
    assert "<script>alert(1)</script>" in page.by_id("notes").text
    assert "n/a" in page.by_id("transfer").text


@pytest.mark.parametrize(
    "lost",
    [
        "pool_info.json",
        "evaluation.json",
        "audits.json",
        "finetune.json",
        "worklist.csv",
        "contact_sheet.png",
        "pictures",
    ],
)
def test_a_lost_or_damaged_file_costs_its_part_only(tmp_path: Path, lost: str) -> None:
    write_study(tmp_path, pictures(3))
    whole = Page(report(read_runs(tmp_path), tmp_path / "whole.html", "t"))
    path = min(tmp_path.glob(f"runs/*/{lost}"))
    path.rename(path.with_name("elsewhere"))
    if lost.endswith("json"):
        path.write_text('{"torn')
    part = Page(report(read_runs(tmp_path), tmp_path / "part.html", "t"))
    assert len(part.root.text) < len(whole.root.text) or len(part.root.all("img")) < len(whole.root.all("img"))
    assert part.by_id("runs").text == whole.by_id("runs").text


def test_an_empty_workspace_has_a_page_too(tmp_path: Path) -> None:
    page = Page(report([], tmp_path / "r.html", "Nothing yet"))
    assert "No verdict yet" in page.root.text
    assert not page.root.all("svg")


def test_the_latest_run_of_each_kind_speaks(tmp_path: Path) -> None:
    old = evaluate(tmp_path, {"task": "effusion", "verdict": {"decision": "go", "reasons": ["old"]}})
    new = evaluate(tmp_path, {"task": "effusion", "verdict": {"decision": "no_go", "reasons": ["new"]}})
    records = {run.id: run for run in read_runs(tmp_path)}
    page = Page(report([records[old.id], records[new.id]], tmp_path / "r.html", "t"))
    (verdict,) = page.root.all(".verdict")
    assert verdict.all("h2")[0].text == "No go"
    assert page.by_id(old.id)


def test_the_terminal_table_shows_scores_with_interval_and_n(study: tuple[Path, dict[str, str]]) -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(runs_table(read_runs(study[0])))
    text = console.export_text()
    assert "linear probe AUROC 0.903 [0.867, 0.939] n = 118" in text
    assert "AUROC 0.931 [0.902, 0.960] n = 118" in text
    assert "verdict go" in text
    assert all(run in text for run in study[1].values())
