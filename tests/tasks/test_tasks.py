"""A task is one file: written in a temporary folder, it is listed, shown, run and reported with no other edit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tokenbench import methods, tasks
from tokenbench.backbones import Backbone
from tokenbench.cli import main
from tokenbench.data import sample
from tokenbench.errors import BadSetting, UnknownName, UsageError
from tokenbench.runs.results import load
from tokenbench.tasks.base import PAIRED
from tokenbench.tasks.classification import Classification

RETRIEVAL = '''
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from tokenbench import data
from tokenbench.tasks.base import Metric, Task


class Found:
    """Features and classes of every image."""

    def __init__(self, features, labels):
        self.features, self.labels = features, labels

    def __len__(self):
        return len(self.labels)

    def save(self, path):
        np.savez(path, features=self.features, labels=self.labels)

    def hits(self, near):
        likeness = self.features @ self.features.T
        np.fill_diagonal(likeness, -np.inf)
        nearest = np.argsort(-likeness, axis=1)[:, :near]
        return (self.labels[nearest] == self.labels[:, None]).any(axis=1)


class Retrieval(Task):
    """Retrieval: whether the nearest other image is of the same class."""

    name = "retrieval"
    metrics: ClassVar = (Metric("recall1", "recall@1", unit="%"), Metric("misses", "misses", better="down", digits=0))
    scored: ClassVar = "recall"
    reads_head: ClassVar = False
    layout: ClassVar = "one folder of images for each class"
    near: int = Field(1, ge=1, description="how many neighbours may be right")

    def open(self, folder, backbone):
        return data.sample() if folder is None else data.open_folder(folder)

    def loader(self, images, backbone, batch, workers, limit):
        return data.loader(images, backbone.config, batch, workers, limit)

    def pixels(self, backbone):
        return data.transform_key(backbone.config)

    def answer(self, model, images, targets, precision, name):
        with torch.inference_mode():
            return torch.nn.functional.normalize(model.run(images).features.mean(1), dim=1).cpu()

    def gather(self, answers, targets):
        return Found(torch.cat(answers).numpy(), torch.cat(targets).numpy())

    def score(self, own, dense, seed):
        hits = own.hits(self.near)
        found = {"recall1": 100 * hits.mean(), "misses": (~hits).sum()}
        return found if dense is None else found | {"diff_dense": 100 * (hits.mean() - dense.hits(self.near).mean())}
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    methods.all_methods()
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))
    monkeypatch.setattr(tasks, "_registry", dict(tasks.all_tasks()))
    file = tmp_path / "retrieval.py"
    file.write_text(RETRIEVAL)
    yield str(file)


def call(*args: str) -> str:
    done = CliRunner().invoke(main, list(args), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_task_is_one_file(plugin: str, tmp_path: Path) -> None:
    assert "Retrieval: whether the nearest other image" in call("list", "--tasks", "--plugin", plugin)
    shown = call("show", "retrieval", "--plugin", plugin)
    assert "recall@1, %" in shown and "how many neighbours may be right" in shown and "less" in shown

    out = tmp_path / "r.jsonl"
    quick = ("--methods", "evit,topk", "--limit", "30", "--rounds", "3", "-b", "1", "-o", str(out), "--plugin", plugin)
    printed = call("run", "--task", "retrieval", *quick)
    assert "recall@1 %" in printed and "misses" in printed and "top-1" not in printed and "retrieval; " in printed
    rows, problems = load(out)
    assert not problems and [(row.task, row.status, row.images) for row in rows] == [("retrieval", "ok", 30)] * 3
    assert all(list(row.metrics) == ["recall1", "misses", *PAIRED] for row in rows)
    (source,) = {tuple(row.conditions.items()) for row in rows}
    assert [name for name, _ in source] == ["task_source"], "whose file it was"
    dense, evit, _ = rows
    saved = np.load(tmp_path / "r.predictions" / f"{evit.id}.npz")
    assert (saved["labels"] == np.array(sample().targets)[[i * 2000 // 30 for i in range(30)]]).all()
    likeness = saved["features"] @ saved["features"].T - 9 * np.eye(30)
    right = saved["labels"][likeness.argmax(1)] == saved["labels"]
    assert evit.recall1 == pytest.approx(100 * right.mean()) and evit.misses == (~right).sum()
    assert evit.diff_dense == pytest.approx(evit.recall1 - dense.recall1) and dense.diff_dense is None

    again = call("run", "--task", "retrieval", *quick, "--json")
    assert [json.loads(line)["id"] for line in again.splitlines()] == [row.id for row in rows]
    call("run", "--task", "retrieval[near=2]", *quick)
    call("run", *quick)
    rows, _ = load(out)
    assert len({row.id for row in rows}) == 9
    assert [row.conditions for row in rows[3:6]] == [{"near": 2, **dict(source)}] * 3 and rows[
        3
    ].recall1 >= dense.recall1

    text = call("report", str(out), "-o", str(tmp_path / "reports"))
    heads = [line for line in text.splitlines() if line.startswith("method")]
    assert [[name in head for name in ("recall@1 %", "top-1 %")] for head in heads] == [[True, False]] * 2 + [
        [False, True]
    ]
    assert "near 2" in text
    page = (tmp_path / "reports" / "index.html").read_text()
    assert '"heading":"recall@1 %"' in page and '"heading":"top-1 %"' in page
    table = (tmp_path / "reports" / "tables" / "results.csv").read_text().splitlines()
    assert {"task", "recall1", "misses", "top1", "conditions.near"} <= set(table[0].split(","))
    assert (tmp_path / "reports" / "figures" / "accuracy_gmac.svg").is_file()


def test_rows_of_a_task_that_is_not_loaded_are_reported(plugin: str, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    quick = ("--methods", "evit", "--limit", "20", "--rounds", "3", "-b", "2", "-o", str(out))
    call("run", "--task", "retrieval", *quick, "--plugin", plugin)
    del tasks._registry["retrieval"]
    assert "recall1" in call("report", str(out), "-o", str(tmp_path / "reports"))


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("clasification", UnknownName, "Unknown task 'clasification'. Did you mean classification?"),
        (
            "classification[a=1]",
            BadSetting,
            "classification has no knob 'a'; it has class_order, labels, restrict_classes. See `tokenbench show ",
        ),
        ("classification,classification", UsageError, "gives 2 settings; run one task at a time."),
        ("", UsageError, "gives 0 settings"),
        ("a b", UsageError, "do not parse at 'a b'"),
    ],
)
def test_what_is_no_task_is_refused(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as raised:
        tasks.parse(text)
    assert says in str(raised.value)


def test_metrics_come_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, tokenbench.tasks as t; t.metrics_of('classification', []); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_classification_declares_all_that_it_measures() -> None:
    task, dense = Classification(), [torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)]
    both = task.gather(dense, [torch.tensor([0, 0])])
    assert set(task.score(both, both, 0)) == set(task.metric_names())
    assert set(task.score(both, None, 0)) <= set(task.metric_names())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise SystemExit(0)", "SystemExit: 0 (retrieval.py:"),
        ("return None", "TypeError: score of task retrieval must give its metrics by name, it gave NoneType"),
        ("return 1.5", "TypeError: score of task retrieval must give its metrics by name, it gave float"),
        ("return {'recal1': 1.0}", "TypeError: score of task retrieval gave 'recal1', which is none of its metrics"),
        ("return {'recall1': 'x'}", "ValueError: could not convert string to float: 'x'"),
    ],
)
def test_scores_that_are_none_cost_their_settings(body: str, reason: str, plugin: str, tmp_path: Path) -> None:
    Path(plugin).write_text(RETRIEVAL.replace("hits = own.hits(self.near)", body))
    args = ("run", "--plugin", plugin, "--task", "retrieval", "--methods", "dense", "--limit", "4", "-b", "2")
    done = CliRunner().invoke(main, [*args, "--rounds", "3", "--json", "-o", str(tmp_path / "r.jsonl")])
    (row,) = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 1 and row["status"] == "failed" and row["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (RETRIEVAL.replace("    metrics: ClassVar", "    other: ClassVar"), "Task 'retrieval' of"),
        (
            RETRIEVAL.replace('(Metric("recall1", "recall@1", unit="%"), Metric("mis', '("recall1", Metric("mis'),
            "metrics",
        ),
        ("from tokenbench.backbones import ViT\nclass Mine(ViT):\n    family = ''\n", "family '' of"),
        ("from tokenbench.backbones import ViT\nclass Mine(ViT):\n    family = 'vit'\n", "exists already"),
    ],
)
def test_plugins_that_declare_nothing_usable_are_refused(
    source: str, says: str, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "families", list(Backbone.families))
    Path(plugin).write_text(source)
    with pytest.raises(UsageError, match=re.escape(says)):
        tasks.load_plugin(plugin)
