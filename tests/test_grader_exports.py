"""What is written for others: releases for students, kits for Gradescope, nbgrader and otter."""

import re

import pytest

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment

VARIANTS = [(name, k) for name in NAMES for k in range(assignment(name).variants)]


# ---- releases ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), [*VARIANTS, (release.EXPERIMENT, 0)])
def test_a_release_is_whole_and_says_which_variant_it_is(name, variant, tmp_path):
    paths = release.write(name, tmp_path / "new" / "folder", variant)
    assert all(path.is_file() for path in paths)
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    handout = texts[tmp_path / "new" / "folder" / "README.md"]
    for command in re.findall(rf"minimixce grade {name} \.\s+--local.*", handout):
        assert (f"--variant {variant}" in command) == (variant > 0)
    if name != release.EXPERIMENT:
        assert f", variant {variant};" in handout.splitlines()[2]
        tests = texts[tmp_path / "new" / "folder" / f"test_{name}.py"]
        assert f"\nVARIANT = {variant}\n" in tests
    for path, text in texts.items():
        links = re.findall(r"\]\(([^)\s]+)\)", text) if path.suffix == ".md" else []
        for link in links:
            target = link.partition("#")[0]
            assert re.match(r"https?:", link) or (path.parent / target).exists(), (path.name, link)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_no_line_of_a_solution_is_in_a_release(name, variant, tmp_path):
    secret = {s.strip() for s in release.solution_lines(assignment(name, variant).source(variant))}
    assert len(secret) > 10
    for path in release.write(name, tmp_path, variant):
        if path.name.startswith("test_"):
            continue  # a test may have to say what is right
        text = path.read_text(encoding="utf-8")
        lines = {line.strip(' ",').removesuffix("\\n") for line in text.splitlines()}
        assert not {line for line in secret if len(line) > 25} & lines, path.name


def test_a_release_is_not_written_over_what_is_there(tmp_path):
    (tmp_path / "objectives.py").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has objectives\.py already; choose a new folder"):
        release.write("a1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["objectives.py"]
    with pytest.raises(FileExistsError, match="is a file"):
        release.write("a1", tmp_path / "objectives.py")
    with pytest.raises(ValueError, match="a4 has no variants, got 1"):
        release.write("a4", tmp_path, 1)


def test_commands_in_a_release_keep_what_stands_beside_them_in_its_column():
    line = "    minimixce grade a2 . --local                 all points"
    assert release._with_variant("a2", 3, line).index("all") == line.index("all")
