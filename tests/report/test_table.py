"""The table's numbers are the results' own."""

from __future__ import annotations

from openvlt.report.records import load_run, read_json
from openvlt.report.table import results_table, runs_table, seeds_table, stages_table
from tests.helpers.run_folders import evaluation, result


def cells(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def rewards(*values: float) -> str:
    return "step,reward\n" + "".join(f"{step},{value}\n" for step, value in enumerate(values, start=1))


def test_rows_hold_accuracy_interval_levels_length_reward_and_seconds(write_run, three):
    folder = write_run(three, files={"02-grpo1/metrics.csv": rewards(*[0.1] * 2, *[0.9] * 2, *[0.4] * 2)})
    head, rule, base, sft, grpo = cells(results_table(read_json(folder / "results.json"), folder))
    titles = ["stage", "accuracy %", "95 % interval", "n", "L1 %", "tokens", "sampled reward", "seconds"]
    assert head == titles and set("".join(rule)) == {"-", ":"}
    assert base == ["Base", "20.0", "13.3–28.9", "100", "10.0", "12.3", "–", "10"]
    assert sft[2] == "10.0–90.0"  # as written, not computed anew
    assert grpo[0] == "GRPO 1" and grpo[6] == "0.10 -> 0.40"


def test_without_a_folder_there_is_no_reward_column(three):
    head, *_ = cells(results_table({"stages": three}))
    assert "sampled reward" not in head and head[-1] == "seconds"


def test_lines_are_equally_long_and_the_control_stands_apart(three):
    control = result("control-sft2", "sft", evaluation(30), "base")
    text = results_table({"stages": [three[0], control, *three[1:]]})
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert [row[0] for row in cells(text)][2:] == ["Base", "SFT 1", "GRPO 1", "control: no RL", "SFT 2"]


def test_distillation_has_no_row_but_its_time_is_told(three):
    traces = result("traces1", "distill", None, "base")
    table = stages_table(read_stages([three[0], traces, *three[1:]]))
    assert [row[0] for row in table.rows] == ["Base", "SFT 1", "GRPO 1"]
    assert table.note == "Total 40 s, of which 10 s distillation."


def read_stages(results):
    from openvlt.report.records import stages_of

    return stages_of({"stages": results})


def test_an_unfinished_stage_says_so(write_run, three):
    folder = write_run(three[:1], files={"01-sft1/metrics.csv": "step,loss\n1,2.0\n"})
    last = cells(results_table(read_json(folder / "results.json"), folder))[-1]
    assert last[0] == "SFT 1" and last[1] == "–" and last[-1] == "unfinished"


def test_seeds_are_averaged_with_their_range(write_run, three):
    other = [three[0], result("sft1", "sft", evaluation(46)), result("grpo1", "grpo", evaluation(60))]
    files = [{"02-grpo1/metrics.csv": rewards(0.2, 0.4)}, {"02-grpo1/metrics.csv": rewards(0.4, 0.5)}]
    folders = [
        write_run(three, name="a", files=files[0], seed=1),
        write_run(other, name="b", files=files[1], seed=2),
        write_run(three[:2], name="c", seed=5),
    ]
    head, _, base, sft, grpo = cells(seeds_table(folders))
    assert head == ["stage", "runs", "mean %", "range %", "seed 1", "seed 2", "seed 5", "sampled reward"]
    assert base == ["Base", "3", "20.0", "20.0–20.0", "20.0", "20.0", "20.0", "–"]
    assert sft == ["SFT 1", "3", "42.0", "40.0–46.0", "40.0", "46.0", "40.0", "–"]
    assert grpo == ["GRPO 1", "2", "55.0", "50.0–60.0", "50.0", "60.0", "–", "0.30 -> 0.45"]


def test_runs_of_one_seed_are_named_by_their_folders(write_run, three):
    runs = [load_run(write_run(three, name=name)) for name in ("first", "second")]
    assert runs_table(runs).header[4:6] == ("first", "second")
