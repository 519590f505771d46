"""What compares ways to segment whole scans refuses what cannot be segmented so, before anything is computed."""

import drift
import overlap
import pytest


@pytest.mark.parametrize("script", [overlap, drift], ids=["overlap", "drift"])
def test_a_model_that_needs_prompts_is_refused_before_the_others_are_measured(script, learnt, tmp_path, capsys):
    learnt().save(tmp_path / "both")
    learnt(free=False).save(tmp_path / "prompted")
    with pytest.raises(SystemExit) as stop:
        script.main([str(tmp_path / "both"), str(tmp_path / "prompted"), "--cases", str(tmp_path), str(tmp_path)])
    assert stop.value.code == 2
    written = capsys.readouterr()
    assert f"{tmp_path / 'prompted'} was trained with prompts only" in written.err
    assert "prompts.free above 0" in written.err
    assert not written.out


@pytest.mark.parametrize("script", [overlap, drift], ids=["overlap", "drift"])
def test_what_is_no_model_is_refused(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main([str(tmp_path)])
    assert stop.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_run_or_a_bundle_is_found(learnt, tmp_path):
    learnt().save(tmp_path / "run" / "best")
    learnt().save(tmp_path / "bundle")
    found = overlap.models_of([tmp_path / "run", tmp_path / "bundle"])
    assert [trained.description.stack.depth for trained in found.values()] == [3, 3]
    assert list(overlap.ways(found[tmp_path / "bundle"])) == ["overlap 2", "overlap 1", "overlap 0", "single pass"]
