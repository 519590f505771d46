"""The GPU benchmark runs, profiles and judges; here on the processor, at tiny sizes."""

import json

import gpu
import pytest
import torch

SMALL = ["--device", "cpu", "--small", "--rounds", "1"]


def told(tmp_path, *given):
    path = tmp_path / "gpu.json"
    assert gpu.main([*SMALL, "-o", str(path), *given]) == 0
    return json.loads(path.read_text("utf-8"))


def test_an_encoder_is_compared_and_profiled(tmp_path):
    found = told(tmp_path, "--only", "encoder, MA-SAM ViT-B")
    ours = found["works"]["encoder, MA-SAM ViT-B, 512 px"]["voxelsam fp32"]
    assert ours["difference"] < 1e-5
    assert 0 <= ours["profile"]["gaps"] < 1
    assert 0 < ours["profile"]["matrix_products"] <= 1
    assert sum(one["part"] for one in ours["profile"]["longest"]) <= 1.0001
    assert not found["failed"]
    assert found["goals"]["volume in bf16: 10 times the official loop"] == "not measured"


def test_the_memory_of_a_training_step_is_judged():
    step = {"voxelsam bf16, blocks again": {"peak_with_weights": 17e9}}
    work = "training step, MA-SAM ViT-H, 512 px"
    words = "a training step of ViT-H in 16 GB"
    assert gpu.goals({work: step})[words] == "NOT MET (17.0 GB)"
    step["voxelsam bf16, blocks again"]["peak_with_weights"] = 15.5e9
    assert gpu.goals({work: step})[words] == "met (15.5 GB)"


def test_every_goal_names_work_that_there_is():
    told = {name: {"voxelsam bf16": {"share_of_matrix_product": 0.5, "faster": 11}} for name in gpu.works()}
    assert [said for words, said in gpu.goals(told).items() if "ViT-H in 16 GB" not in words] == [
        "met (0.50)",
        "met (0.50)",
        "met (11.00)",
    ]


def test_when_the_minutes_are_over_the_rest_is_named(tmp_path):
    found = told(tmp_path, "--minutes", "-1")
    assert found["left_out"] == list(gpu.works())


def test_what_does_not_fit_the_memory_is_named_and_the_others_go_on(tmp_path):
    def much():
        raise torch.OutOfMemoryError("CUDA out of memory")

    setting = gpu.Setting(gpu.Shelf(tmp_path), "cpu", 1, True, {})
    ones = torch.ones(2)
    found = gpu.timed(setting, {"official": lambda: ones, "large": much, "small": lambda: 2 * ones})
    assert found["large"] == {"failed": "out of memory"}
    assert found["small"]["difference"] == 1.0
    assert found["small"]["faster"] > 0
    found = gpu.timed(setting, {"official": much, "small": lambda: ones})
    assert set(found["small"]) == {"seconds", "peak"}


def test_goals_of_what_did_not_fit_are_not_measured():
    failed = {
        name: {way: {"failed": "out of memory"} for way in ("voxelsam bf16", "voxelsam bf16, blocks again")}
        for name in gpu.works()
    }
    assert set(gpu.goals(failed).values()) == {"not measured"}


def test_a_profile_without_kernels_says_so():
    assert gpu.profiled(lambda: None, 1.0, "cpu") == {
        "failed": "the profiler saw no kernel: it may need more rights on this machine"
    }


def test_gaps_are_told_of_the_time_without_the_profiler():
    x = torch.ones(300, 300)
    seen = gpu.profiled(lambda: x @ x, 1000.0, "cpu")
    assert seen["gaps"] > 0.99
    assert seen["matrix_products"] + seen["attention"] <= 1.0001
    assert gpu.profiled(lambda: x @ x, 1e-9, "cpu")["gaps"] == 0


def test_kernels_of_attention_are_no_plain_products(monkeypatch):
    monkeypatch.setattr(gpu, "ATTENTION", ("mm",))
    x = torch.ones(300, 300)
    seen = gpu.profiled(lambda: x @ x, 1.0, "cpu")
    assert seen["attention"] > 0.3
    assert seen["matrix_products"] + seen["attention"] <= 1.0001


def test_work_that_fails_is_named(tmp_path, monkeypatch):
    def broken(setting):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "works", lambda: {"x": broken})
    assert gpu.main([*SMALL, "-o", str(tmp_path / "gpu.json")]) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["failed"] == {"x": "RuntimeError: out of memory"}


def test_without_a_gpu_it_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        gpu.main([])
    assert stop.value.code == 2
    assert "--device cpu --small" in capsys.readouterr().err


def test_unknown_work_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main([*SMALL, "--only", "decoder"])
    assert stop.value.code == 2
    assert "no work has 'decoder' in its name; there are:\n  encoder" in capsys.readouterr().err
