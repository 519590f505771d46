"""The benchmark says what is worse, what is missing and what was asked for wrongly; its rows run at tiny sizes."""

import json

import bench
import estimates
import growth
import measure
import peers
import pytest
import table
import torch
from table import Goal, Row

from voxelsam.backbones import VARIANTS
from voxelsam.errors import ConfigError

FACTS = {"machine": "here", "date": "2026-01-01"}


@pytest.fixture
def setting(tmp_path):
    return bench.Setting(bench.Shelf(tmp_path), rounds=1, small=True, rates={"fp32": 1e9, "bf16": 1e9})


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    path = tmp_path / "ratios.json"
    rows = [
        Row("a", "official", 1.0),
        Row("a", "voxelsam", ratios={"speed": 4.0}),
        Row("b", "x", ratios={"memory": 9.0}),
    ]
    table.record(path, rows, FACTS)
    monkeypatch.setattr(bench, "RATIOS", path)
    return path


def alone(monkeypatch, row):
    """A run whose only piece of work gives that row."""
    monkeypatch.setattr(bench, "works", lambda *, long: {row.work: lambda name, setting: [row]})
    monkeypatch.setattr(measure, "matrix_rates", lambda device: {"fp32": 1e9, "bf16": 1e9})
    return bench.main([])


@pytest.mark.parametrize(("speed", "code"), [(4.0, 0), (4.0 * 0.86, 0), (4.0 * 0.84, 1), (8.0, 0)])
def test_a_ratio_that_lost_more_than_15_percent_is_a_line(recorded, monkeypatch, capsys, speed, code):
    row = Row("a", "voxelsam", speed=speed, ratios={"speed": speed})
    assert alone(monkeypatch, row) == code
    said = capsys.readouterr().out
    assert ("WORSE: a | voxelsam | speed" in said) == bool(code)
    assert "1 of 1 ratios are recorded, on here" in said
    if code:
        assert "3.36, which was 4.00 (-16%)" in said


def test_rows_that_were_not_recorded_are_not_compared(recorded, monkeypatch, capsys):
    assert alone(monkeypatch, Row("new", "voxelsam", ratios={"speed": 0.1})) == 0
    assert "0 of 1 ratios are recorded" in capsys.readouterr().out


def test_without_a_record_it_says_how_to_make_one(recorded, monkeypatch, capsys):
    recorded.unlink()
    assert alone(monkeypatch, Row("a", "voxelsam", ratios={"speed": 1.0})) == 0
    assert "--record writes it" in capsys.readouterr().out


def test_recording_a_part_keeps_the_rest(recorded):
    table.record(recorded, [Row("a", "voxelsam", ratios={"speed": 5.0})], FACTS | {"date": "2026-02-02"})
    rows = table.recorded(recorded)
    assert table.ratios(rows) == {"a | voxelsam | speed": 5.0, "b | x | memory": 9.0}
    assert [(row.work, row.date) for row in rows] == [("a", "2026-02-02"), ("b", "2026-01-01")]


def test_the_page_gets_what_was_recorded_and_keeps_its_text(recorded, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", "utf-8")
    rows = [Row("w", "official", 8.0, 2e8), Row("w", "voxelsam", 2.0, 1e8, 4.0, 2.0, 1e-6, ["a goal: met"])]
    table.record(recorded, rows, FACTS | {"torch": "2.9", "rates": {"fp32": 1e11}})
    table.write_page(page, recorded)
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "here; torch 2.9; 1 thread; a matrix product reaches fp32 100 GFLOP/s." in text
    assert "| voxelsam | 2 | 4.00 | 100 | 2.0 | 1.0e-06 |" in text
    assert "- voxelsam: a goal: met" in text


def test_a_row_that_fails_is_named_and_the_others_run(recorded, monkeypatch, capsys):
    def broken(name, setting):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(measure, "matrix_rates", lambda device: {"fp32": 1e9, "bf16": 1e9})
    monkeypatch.setattr(
        bench, "works", lambda *, long: {"x": broken, "y": lambda name, setting: [Row("y", "voxelsam", seconds=1.0)]}
    )
    assert bench.main([]) == 1
    said = capsys.readouterr().out
    assert "FAILED: RuntimeError: no memory left" in said
    assert "| y | voxelsam | 1 |" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--only", "encodr"], "no row has 'encodr' in its name; there are:\n  encoder"),
        (["--only", "ViT-H"], "no row has 'ViT-H' in its name; --long has more"),
        (["--rounds", "0"], "--rounds is at least 1, but 0 came"),
        (["--record", "--small"], "leave out --small"),
    ],
)
def test_what_cannot_be_done_is_said(capsys, given, message):
    with pytest.raises(SystemExit) as stop:
        bench.main(given)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_only_chooses_and_list_names(capsys):
    assert bench.main(["--list", "--only", "training"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == 2
    assert all("training" in name for name in names)


def test_long_adds_the_large_backbones_and_takes_nothing_away():
    short, long = bench.works(long=False), bench.works(long=True)
    assert short.keys() < long.keys()
    assert any("ViT-H, 1024 px" in name for name in long)
    assert not any("ViT-L" in name or "ViT-H" in name for name in short)


def test_without_transformers_its_rows_say_so(setting, monkeypatch):
    monkeypatch.setattr(peers, "no_transformers", lambda: peers.missing("no_such_package", "'voxelsam[parity]'"))
    rows = bench.works(long=False)["encoder, SAM ViT-B, 1024 px"]("encoder", setting)
    left_out = [row for row in rows if row.way.startswith("transformers")]
    assert len(left_out) == 2
    assert all(
        row.seconds is None and "is not installed (pip install 'voxelsam[parity]')" in row.note for row in left_out
    )
    ours = next(row for row in rows if row.way == bench.EXACT)
    assert ours.speed > 0
    assert ours.difference < 1e-5
    assert not any("transformers" in goal for goal in ours.goals)


@pytest.mark.parametrize(
    ("name", "difference"),
    [("encoder, MA-SAM ViT-B, 256 px, 5 slices", 1e-5), ("training step, Med-SA ViT-B, 256 px", 1e-4)],
)
def test_rows_run_at_tiny_sizes_and_agree_with_the_official_code(setting, name, difference):
    rows = bench.works(long=False)[name](name, setting)
    found = {row.way: row for row in rows}
    assert found[bench.EXACT].difference < difference
    assert found[bench.EXACT].ratios["speed"] == found[bench.PLAIN].seconds / found[bench.EXACT].seconds
    assert all(len(table.cells(row)) == len(table.HEAD) for row in rows)
    if "encoder" in name:
        assert 1e-5 < found[bench.WHOLE].difference < 5e-2
        assert "GFLOP/s" in found[bench.WHOLE].note
        assert "of a matrix product" not in found[bench.WHOLE].note


def test_where_int8_is_not_possible_the_row_says_so(setting, monkeypatch):
    def refused(*given, **settings):
        raise ConfigError("this processor cannot multiply in int8")

    monkeypatch.setattr(bench, "predictor", refused)
    wanted = bench.Wanted("sam-tiny", (32, 32), bench.MA_SAM)
    assert bench.in_int8(setting, wanted, torch.zeros(1)) == "skipped: this processor cannot multiply in int8"


def test_a_compiled_encoder_tells_the_compiler_s_time_or_why_there_is_none(setting, monkeypatch):
    """The compiler takes minutes: here it gives the first function back, and does not work for the second."""
    from torch._dynamo.exc import TorchDynamoException

    seen = []

    def compiled(function, **options):
        seen.append(function)
        return function if len(seen) == 1 else broken

    def broken(*given):
        raise TorchDynamoException("no C++ compiler")

    monkeypatch.setattr(torch, "compile", compiled)
    name = "compiled encoder, MA-SAM ViT-B, 256 px, 5 slices"
    assert name not in bench.works(long=False)
    found = {row.way: row for row in bench.works(long=True)[name](name, setting)}
    exact, half = found[f"{bench.EXACT}, compiled"], found[f"{bench.HALF}, compiled"]
    assert exact.difference < 1e-5
    assert exact.note.startswith("the first call took ")
    assert not found[bench.EXACT].note
    assert found[bench.HALF].seconds > 0
    assert half.seconds is None
    assert half.note.startswith("skipped: --compile does not work here (no C++ compiler)")


def test_what_is_kept_of_a_slice_is_halved_and_hardly_changed(setting):
    name = "features kept of a slice, SAM ViT-B, 1024 px"
    whole, half = bench.works(long=False)[name](name, setting)
    tiny = VARIANTS["sam-tiny"]
    numbers = tiny.decoder_dim * (setting.pixels(1024)[0] // tiny.patch) ** 2
    assert (whole.memory, half.memory) == (4 * numbers, 2 * numbers)
    assert half.ratios == {"memory": 2.0}
    assert 1e-6 < half.difference < 3e-4
    assert [goal.split(": ")[1][:3] for goal in half.goals] == ["met", "met"]
    assert whole.note == "held in memory; 0.26 MB in a file"


def test_estimates_are_judged(setting, monkeypatch):
    told = {"seconds": 2.0, "seconds_estimate": 2.7, "memory": 100e6, "memory_estimate": 90e6}
    monkeypatch.setattr(estimates, "measured_and_estimated", lambda shape: told)
    rows = bench.works(long=False)["estimates"]("estimates", setting)
    assert [row.way for row in rows] == list(bench.SHAPES[::2])
    assert rows[0].goals == ["time estimated within 30%: NOT MET (+35%)", "memory estimated within 15%: met (-10%)"]
    assert rows[0].note == "estimated: 2.7 s, 90 MB"
    assert not rows[0].ratios


def test_every_shape_that_is_estimated_exists():
    known = [f"step {name}" for name in estimates.STEPS] + [f"scan {name}" for name in estimates.SCANS]
    assert set(bench.SHAPES) <= set(known)


def test_a_shape_is_measured_and_estimated():
    told = estimates.measured_and_estimated("step tiny 128, 5 slices, blocks again")
    assert told["shape"] == "step tiny 128, 5 slices, blocks again"
    assert 0.1 < told["seconds_estimate"] / told["seconds"] < 10
    assert 0.1 < told["memory_estimate"] / told["memory"] < 10


@pytest.mark.parametrize(
    ("goal", "reached", "said"),
    [
        (Goal("x", "size", 2.1), 2.097152, "≤ 2.1 MB: met (2.10 MB)"),
        (Goal("x", "size", 2.1), 2.2, "≤ 2.1 MB: NOT MET (2.20 MB)"),
        (Goal("x", "speed", 3), 2.99, "≥ 3 × faster: NOT MET (2.99 ×)"),
        (Goal("x", "speed", 3, "y"), 3.0, "≥ 3 × faster than y: met (3.00 ×)"),
        (Goal("x", "difference", 5e-6), 4e-6, "difference ≤ 5.0e-06: met (4.0e-06)"),
        (Goal("x", "difference", 5e-6), 6e-6, "difference ≤ 5.0e-06: NOT MET (6.0e-06)"),
        (Goal("x", "equal", 0.9999), 0.9998, "equal labels ≥ 99.99%: NOT MET (99.9800%)"),
        (Goal("x", "memory", 4), None, "≥ 4 × less memory: not measured"),
    ],
)
def test_goals_are_judged(goal, reached, said):
    assert table.judged(goal, reached) == said


def test_turns_alternate_after_a_first_call_and_medians_count():
    seen = []
    taken = measure.in_turn({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert seen == ["a", "b"] * 4  # a first call, whose memory is watched and whose time does not count
    assert len(taken["a"].seconds) == 3
    assert measure.Taken(seconds=[1.0, 9.0, 2.0]).time == 2.0


def test_the_peak_of_a_call_is_seen_and_not_that_of_the_one_before():
    taken = measure.in_turn({"large": lambda: torch.ones(50_000_000).sum(), "small": lambda: torch.ones(5).sum()}, 1)
    if taken["large"].memory is None:
        pytest.skip("the system does not tell the peak")
    assert 190e6 < taken["large"].memory < 260e6
    assert taken["small"].memory < 30e6


def test_small_amounts_of_memory_are_shown():
    shown = [table.cells(Row("w", "x", memory=memory))[4] for memory in (2_097_152, 9.99e6, 10e6, 136.4e6)]
    assert shown == ["2.10", "9.99", "10", "136"]


def test_tiny_networks_are_not_compared_with_what_was_recorded(recorded, monkeypatch, capsys):
    monkeypatch.setattr(measure, "matrix_rates", lambda device: {"fp32": 1e9, "bf16": 1e9})
    row = Row("a", "voxelsam", ratios={"speed": 0.1})
    monkeypatch.setattr(bench, "works", lambda *, long: {"a": lambda name, setting: [row]})
    assert bench.main(["--small"]) == 0
    assert "WORSE" not in capsys.readouterr().out


def test_operations_leave_out_what_fills_windows_up():
    """2 blocks of 5 × 4 tokens and windows of 3: one of each kind."""
    variant = bench.models.Variant("x", dim=8, depth=2, heads=2, global_blocks=(1,), window=3, decoder_dim=4)
    n, d = 20, 8
    pairs = n**2 + 9**2 + (3 * 1) ** 2 + (2 * 3) ** 2 + 2**2
    expected = 2 * n * d**2 * 24 + 4 * pairs * d + n * (2 * 3 * 256 * d + 2 * d * 4 + 2 * 9 * 4 * 4)
    assert bench.models.encoder_flops(variant, (80, 64)) == expected


def test_a_curve_says_whether_it_grows_as_the_work():
    points = [growth.Point(60, 1.0, 100e6, ideal=12), growth.Point(600, 12.0, 208e6, ideal=120)]
    curve = growth.Curve("slices", points, {"proportion": 1.15, "memory": 0.1, "time": 20})
    assert [(fact.value, fact.bar) for fact in curve.facts()] == [
        (12.0, 20),
        (pytest.approx(1.2), 1.15),
        (pytest.approx(0.2), 0.1),
    ]


def test_a_picture_is_drawn_from_what_was_measured(tmp_path):
    points = [{"at": n, "seconds": n / 10, "memory": 1e6 * n, "ideal": n} for n in (1, 10)]
    told = {"measured": FACTS | {"torch": "2"}, "curves": {n: {"axis": "x", "points": points} for n in growth.CURVES}}
    (tmp_path / "growth.json").write_text(json.dumps(told))
    growth.main(["--draw", "--data", str(tmp_path / "growth.json"), "--picture", str(tmp_path / "growth.png")])
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_without_measurements_there_is_no_picture(tmp_path):
    with pytest.raises(SystemExit, match="without --draw first"):
        growth.main(["--draw", "--data", str(tmp_path / "none.json"), "--picture", str(tmp_path / "growth.png")])
