"""What the documentation says can be done: commands parse, Python runs, links lead somewhere, keys exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
import yaml

from voxelsam.cli.app import app
from voxelsam.train.recipe import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in blocks(page, "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("voxelsam ")
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_have_the_options_that_the_documentation_names(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0], comments=True)[1:]
    group = typer.main.get_command(app)
    name, command, arguments = group.resolve_command(group.make_context("voxelsam", words[:1]), words)  # type: ignore[attr-defined]
    assert command.make_context(name, arguments).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        parse(yaml.safe_load(block))


def test_python_of_the_tutorial_and_the_readme_runs(
    trained: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = next((phantom / "imagesTs").iterdir())
    shutil.copytree(trained, tmp_path / "run")
    shutil.copy(scan, tmp_path / "ct.nii.gz")
    monkeypatch.chdir(tmp_path)
    for page in (ROOT / "docs/tutorial/first-model.md", ROOT / "README.md"):
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), {})  # noqa: S102
    assert (tmp_path / "mask.nii.gz").is_file()


def test_the_table_of_codes_is_complete() -> None:
    page = (ROOT / "docs/reference/checks.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    used = set(re.findall(r"\b(?:GEO|VAL|LAB|SET|WEI)-\d\d\b", sources))
    assert used <= set(re.findall(r"\| ((?:GEO|VAL|LAB|SET|WEI)-\d\d)", page))
