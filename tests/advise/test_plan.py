"""The advice as a whole: dataset glance, method and settings, the ready call, the tables behind it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from skill.advise import ApproachQuery, recommend_approach
from skill.advise.look import look
from skill.advise.plan import run_name
from skill.advise.tables import FOLDER, holds, step, table
from skill.errors import DataError, NotFound, SpecError, WorkspaceError
from skill.evaluation import run_eval
from skill.recipes import resolve
from skill.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path)


def ask(ws, task="Extract fields from orders as JSON; prompting still fails", **facts):
    return recommend_approach(ws, ApproachQuery.build(task=task, **facts))


def write(ws, name, rows):
    (ws.root / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def test_a_dataset_is_counted_and_wins_over_the_words(ws):
    path = write(ws, "d.jsonl", [{"prompt": "a", "completion": "b"}] * 700)
    advice = ask(ws, "Extract fields from orders as JSON. I think we have 50 examples.", dataset_path=path)
    assert advice.understood["examples"] == "700 (the dataset)"
    assert advice.tuning.samples.at_hand == 700
    assert advice.tuning.render.arguments["train_path"] == path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, {"examples": 3, "preferences": "paired"}),
        ({"prompt": "p", "completion": "a", "label": True}, {"examples": 3, "preferences": "unpaired"}),
        ({"text": "long text"}, {"raw_text": True}),
        ({"text": "great film", "label": "positive"}, {"examples": 3, "labelled": True}),
        ({"messages": []}, {"examples": 3, "labelled": True}),
    ],
)
def test_columns_tell_the_kind_of_data(ws, row, expected):
    seen = look(ws.root / write(ws, "d.jsonl", [row] * 3))
    assert expected.items() <= seen.items()
    if expected == {"raw_text": True}:
        assert seen["raw_mtokens"] > 0 and "examples" not in seen


def test_preference_data_alone_turns_the_verdict(ws):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2000
    advice = ask(ws, "Improve the assistant", dataset_path=write(ws, "d.jsonl", rows))
    assert (advice.verdict, advice.tuning.objective) == ("preference_tuning", "dpo")


def test_csv_json_and_parquet_are_counted(ws):
    (ws.root / "d.csv").write_text("prompt,completion\na,b\nc,d\n", encoding="utf-8")
    (ws.root / "d.json").write_text(json.dumps({"data": [{"prompt": "a", "completion": "b"}] * 5}), encoding="utf-8")
    assert look(ws.root / "d.csv")["examples"] == 2
    assert look(ws.root / "d.json")["examples"] == 5
    parquet = pytest.importorskip("pyarrow.parquet")
    table_ = pytest.importorskip("pyarrow").table({"prompt": ["a"] * 4, "completion": ["b"] * 4})
    parquet.write_table(table_, ws.root / "d.parquet")
    assert look(ws.root / "d.parquet")["examples"] == 4


@pytest.mark.parametrize(
    ("name", "body"), [("d.jsonl", "not json\n"), ("d.json", "{"), ("d.xyz", "x"), ("d.json", "3"), ("d.parquet", "x")]
)
def test_unreadable_data_is_a_named_error(ws, name, body):
    (ws.root / name).write_text(body, encoding="utf-8")
    with pytest.raises(DataError):
        ask(ws, dataset_path=name)


def test_paths_are_checked(ws):
    with pytest.raises(NotFound):
        ask(ws, dataset_path="missing.jsonl")
    with pytest.raises(WorkspaceError):
        ask(ws, dataset_path="../../etc/passwd")


def test_all_problems_of_a_question_at_once():
    with pytest.raises(SpecError) as caught:
        ApproachQuery.build(task="x", exmples=3, knowledge_update="sometimes", gpu_gib=-1)
    assert "Did you mean 'examples'?" in str(caught.value)
    assert "knowledge_update" in str(caught.value) and "gpu_gib" in str(caught.value)


def test_flat_arguments_of_the_tool():
    query = ApproachQuery.from_signals("x", needs=["tone"], signals=["preferences", "private_data"], examples=5)
    assert (query.needs_tone, query.needs_format, query.has_preferences, query.private_data) == (True, None, True, True)
    assert ApproachQuery.from_signals("x").needs_format is None


@pytest.mark.parametrize(
    ("gpu", "params", "rows", "method"),
    [
        (24, 8, 3000, "lora"),  # 8B at 16 bits is 15 GiB of weights
        (16, 8, 3000, "qlora"),
        (48, 70, 3000, "qlora"),
        (80, 8, 200_000, "lora"),  # 8B whole wants about 130 GiB
        (640, 8, 200_000, "full"),
        (24, 0.5, 200_000, "full"),
        (24, 0.5, 500, "lora"),
        (0, None, 3000, "lora"),
    ],
)
def test_method_follows_memory_and_rows(ws, gpu, params, rows, method):
    plan = ask(ws, examples=rows, gpu_gib=gpu, model_params_b=params).tuning
    assert plan.method == method, plan.method_why


def test_what_does_not_fit_is_said(ws):
    plan = ask(ws, examples=3000, gpu_gib=24, model_params_b=70).tuning
    assert "even 4-bit needs" in plan.method_why
    assert not plan.hardware[0].fits_yours


def test_hardware_carries_hours_for_the_data_at_hand(ws):
    path = write(ws, "d.jsonl", [{"prompt": "a" * 400, "completion": "b" * 400}] * 2000)
    plan = ask(ws, dataset_path=path, gpu_gib=24, model_params_b=8).tuning
    for option in plan.hardware:
        assert option.hours.low < option.hours.value < option.hours.high and "0.42M tokens" in option.hours_for
    unseen = ask(ws, examples=2000, gpu_gib=24, model_params_b=8).tuning.hardware[0]
    epochs = plan.hyperparameters["num_train_epochs"].value
    assert unseen.hours_for == "each 1M tokens trained on"
    assert plan.hardware[0].hours.value == pytest.approx(unseen.hours.value * 0.415 * epochs, rel=0.1)


def test_many_adapters_are_never_full(ws):
    task = "An own style for each of 300 customers on one base model, 60,000 examples each as JSON"
    assert ask(ws, task, gpu_gib=640, model_params_b=1).tuning.method == "lora"


def test_settings_move_as_they_should(ws):
    def rate(**facts):
        return ask(ws, **facts).tuning.hyperparameters["learning_rate"].value

    assert rate(examples=5000, model_params_b=8, gpu_gib=80) == 2e-4
    assert rate(examples=500, model_params_b=8, gpu_gib=80) == pytest.approx(1.6e-4)
    assert rate(examples=5000, model_params_b=70, gpu_gib=80) == 1e-4
    assert rate(examples=200_000, model_params_b=8, gpu_gib=640) == pytest.approx(2.4e-5), "full: a tenth of LoRA's"
    few, many = ask(ws, examples=300).tuning, ask(ws, examples=90_000).tuning
    assert few.hyperparameters["num_train_epochs"].value > many.hyperparameters["num_train_epochs"].value
    assert few.hyperparameters["r"].value < many.hyperparameters["r"].value


def test_every_number_has_its_source(ws):
    plan = ask(ws, examples=3000).tuning
    assert all(choice.why for choice in plan.hyperparameters.values())


def test_the_ready_call_resolves_to_a_run(ws):
    call = ask(ws, examples=3000, model="smollm2-135m-instruct").tuning.render
    given = call.arguments
    spec = resolve(
        given["recipe"],
        {
            "name": given["run_name"],
            "model": {"id": given["model"]},
            "data": {"train": given["train_path"]},
            "method": {"r": given["lora_rank"]},
        },
        given["overrides"],
    )
    assert spec.method.r == given["lora_rank"] and spec.model.id == "smollm2-135m-instruct"


def test_the_cheaper_alternative_is_a_call_on_the_rendered_run(ws):
    advice = ask(ws, examples=3000, model="smollm2-135m-instruct")
    call = advice.cheaper_first.call
    assert (call.tool, call.arguments) == (
        "run_eval",
        {"run_id": advice.tuning.render.arguments["run_name"], "candidate": "base", "few_shot": 4},
    )
    assert set(call.arguments) <= set(inspect.signature(run_eval).parameters)
    unrendered = ask(ws, "Users like or dislike replies; 20k ratings", has_preferences=True)
    assert (unrendered.cheaper_first.call is None) == (unrendered.tuning.render is None)


def test_what_cannot_be_rendered_says_so(ws):
    plan = ask(ws, "Users like or dislike replies; 20k ratings", has_preferences=True).tuning
    assert plan.objective == "kto"
    assert (plan.render is None) == (plan.render_note is not None and plan.render_note.startswith("No recipe"))


def test_a_retrieval_verdict_says_how_to_retrieve(ws):
    advice = ask(ws, "Answers from our wiki, which changes daily")
    assert advice.verdict == "rag" and advice.tuning is None
    assert len(advice.do) >= 3 and advice.cheaper_first and "train" in advice.next_step


def test_stated_facts_win_over_words_and_both_are_shown(ws):
    advice = ask(ws, "Extract orders as JSON, 5,000 pairs", examples=20)
    assert advice.understood["examples"] == '20 (stated); the words say "5,000 pairs"'
    assert advice.verdict == "prompting"


@pytest.mark.parametrize(
    ("task", "name"), [("We want JSON from the orders!", "json-orders"), ("…", "fine-tune"), ("-- -- 7", "7")]
)
def test_run_names_are_valid(ws, task, name):
    assert run_name(task) == name
    assert ws.run(name)


def test_tables_refer_to_what_exists():
    rules, methods, evidence = table("rules"), table("methods"), table("evidence")
    sources = {**rules["sources"], **methods["sources"]}
    known = set(evidence["signals"]) | set(evidence["hints"]) | set(ApproachQuery.model_fields)
    known |= {"preferences", "verifiable", "private", "teacher", "reasoning", "raw_mtokens", "labelled"}
    targets = {*rules["approaches"], "knowledge", "behaviour"}
    for rule in rules["rules"]:
        assert rule["source"] in sources and rule["because"], rule["id"]
        assert set(rule["when"]) | set(rule.get("unless", {})) <= known, rule["id"]
        assert set(rule["add"]) <= targets, rule["id"]
    known |= {"objective", "method", "params_b", "rows", "verdict", "has_demonstrations"}
    for part in ("objectives", "forgetting", "evaluation", "risks", "disagreements", "size_classes"):
        assert all(set(row["when"]) <= known for row in methods[part]), part
    assert len({rule["id"] for rule in rules["rules"]}) == len(rules["rules"])
    for curve in ("fine_tuning", "prompting"):
        values = [y for _, y in sorted(rules["data_curve"][curve].items())]
        assert values == sorted(values, reverse=curve == "prompting"), "data only ever helps training"


def test_conditions():
    assert holds({"a": {"min": 1, "max": 3}, "b": ["x"], "c": None}, {"a": 3, "b": "x"})
    assert not holds({"a": {"min": 1}}, {})
    assert not holds({"c": None}, {"c": False})
    assert step({0: "a", 10: "b"}, 9.9) == "a" and step({5: "a"}, 1) == "a"


def test_tables_lie_inside_the_package():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"evidence", "methods", "rules"}


def test_no_heavy_import():
    code = (
        "import sys, pathlib\nfrom skill.advise import *\nfrom skill.workspace import Workspace\n"
        "recommend_approach(Workspace(pathlib.Path.cwd()), ApproachQuery.build(task='JSON from mails', examples=900))\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_benchmark_prints_one_json_object_last():
    done = subprocess.run(
        [sys.executable, "benchmarks/advice_cases.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(last) == {"n", "approach_acc", "objective_acc", "method_acc"}
    assert last["n"] >= 60
