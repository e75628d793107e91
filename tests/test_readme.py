"""What README and the pages of the tutorials show is what happens: Python blocks run and print what
stands below them, commands run, links lead somewhere.
"""

import configparser
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm
from minimixce import checks, cli, text
from minimixce.experiments.fixed_points import fixed_point

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(f"tutorials/{name}.md" for name in (
    "installing using measures gradient_checking worlds comparing finetuning synthetic"
    " speed code reproducibility promises"
).split())]  # fmt: skip
FRONT = ("CONTRIBUTING.md", "SECURITY.md", "RELEASING.md", "LICENSING.md")  # beside README
STORY = "The cat sat on the mat. The dog sat on the log.\n"
# first lines of blocks that other tests run: in a file of their own, or with PyTorch or JAX
ELSEWHERE = ("# test_my_layer.py", "# for PyTorch", "# for JAX")


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page):
    """[(kind, body), …] of the fenced blocks of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", read(page), re.M | re.S)


def python_blocks(page):
    """[(code, the text block right below it or None), …]."""
    found = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", read(page), re.M | re.S)
    return [(code, shown or None) for code, shown in found]


def block(page, words):
    """The Python block of a page that contains `words`."""
    (code,) = (code for code, _ in python_blocks(page) if words in code)
    return code


def commands(page):
    """Every line of a page's sh blocks."""
    return [line for kind, body in blocks(page) if kind == "sh" for line in body.splitlines()]


def run_block(code, names):
    """What a block prints, and as its last line the AssertionError that ends it, if one does."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(code, names)
        except AssertionError as error:
            print(f"AssertionError: {error}")
    return out.getvalue()


def check_printed(printed, shown, tolerance):
    """Same lines, same words; numbers to a relative tolerance, tiny ones only in being tiny."""
    assert len(printed.splitlines()) == len(shown.splitlines()), printed
    for line, expected in zip(printed.splitlines(), shown.splitlines()):
        got, wanted = (re.split(r"(-?\d+\.?\d*(?:e[+-]\d+)?)", text) for text in (line, expected))
        assert got[::2] == wanted[::2], printed
        for a, b in zip(map(float, got[1::2]), map(float, wanted[1::2])):
            assert abs(a) < 1e-8 > abs(b) or a == pytest.approx(b, rel=tolerance), printed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the files that pages speak of; torch's or the package's randomness
    is seeded by them.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("story.txt", "big.txt"):
        Path(name).write_text(STORY * 50)
    Path("webtext").mkdir()
    for split in ("train", "valid", "test"):
        records = (json.dumps({"text": f"{split} {i}. {STORY * 6}"}) for i in range(20))
        Path("webtext", f"webtext.{split}.jsonl").write_text("\n".join(records))
    bpe = text.learn_bpe([STORY], 270)
    config = mm.GPTConfig(bpe.vocab_size, block_size=64, n_layer=1, n_head=2, n_embd=16)
    mm.GPT(config).save("gpt2", boundary=bpe.boundary)
    text.save_tokenizer(bpe, "gpt2")
    Path("my_losses.py").write_text(block("tutorials/using.md", "half_and_half"), "utf-8")
    layer = block("tutorials/gradient_checking.md", "# test_my_layer.py")
    layer = layer.replace("linear_forward", "forward").replace("linear_backward", "backward")
    Path("my_layer.py").write_text(layer, "utf-8")
    return tmp_path


# ---- Python blocks -------------------------------------------------------------------------------

# Python versions carry different documentation, and machines round differently.
TOLERANCES = {"README.md": 0.15, "tutorials/worlds.md": 0.02}


FIRST_STEPS = "range(401)", "range(101)"  # of README's training: a quarter of it shows the same


def test_the_training_of_the_front_page_begins_as_is_shown():
    (training,) = (pair for pair in python_blocks("README.md") if FIRST_STEPS[0] in pair[0])
    printed = run_block(training[0].replace(*FIRST_STEPS), {"__name__": "page"})
    shown = "".join(training[1].splitlines(keepends=True)[:2])
    assert shown.startswith("0 ")
    check_printed(printed, shown, TOLERANCES["README.md"])


@pytest.mark.slow
def test_the_training_of_the_front_page_prints_what_is_shown():
    (training,) = (pair for pair in python_blocks("README.md") if FIRST_STEPS[0] in pair[0])
    printed = run_block(training[0], {"__name__": "page"})
    check_printed(printed, training[1], TOLERANCES["README.md"])


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_python_blocks_run_and_print_what_stands_below_them(page, folder):
    if page == "tutorials/using.md":
        for command in commands(page)[:1]:  # it loads the run that the first command makes
            run_command(command)
    names = {"__name__": "page"}
    for code, shown in python_blocks(page):
        if code.startswith(ELSEWHERE) or FIRST_STEPS[0] in code:
            continue
        printed = run_block(code, names)
        if shown:
            check_printed(printed, shown, TOLERANCES.get(page, 1e-3))


def test_a_wrong_number_or_word_would_be_noticed():
    check_printed("at 1.00 OK 2e-13", "at 1.0004 OK 7e-12", 1e-3)
    for other in ("at 1.00 OK 2e-3", "at 1.01 OK 2e-13", "at 1.00 WRONG 2e-13"):
        with pytest.raises(AssertionError):
            check_printed(other, "at 1.0004 OK 7e-12", 1e-3)


def test_mixce_in_one_minute_is_the_package_s():
    import minimixce as mm

    names = {}
    exec(block("README.md", "def mixce"), names)
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((7, 5)), rng.integers(0, 5, 7)
    loss, dlogits = names["mixce"](logits, targets, eta=0.3)
    expected, expected_dlogits = mm.objectives.mixce(logits, targets, eta=0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    np.testing.assert_allclose(dlogits, expected_dlogits, atol=1e-15)


def test_the_test_file_of_the_page_passes(folder):
    code = block("tutorials/gradient_checking.md", "# test_my_layer.py")
    Path("test_my_layer.py").write_text(code, "utf-8")
    few = "from hypothesis import settings\nsettings.register_profile('few', max_examples=10)\n"
    Path("conftest.py").write_text(f"{few}settings.load_profile('few')\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "minimixce.testing.plugin"]
    done = subprocess.run([*command, "test_my_layer.py"], capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.parity
@pytest.mark.parametrize(("library", "first_line"), [("torch", "PyTorch"), ("jax", "JAX")])
def test_adapters_of_other_libraries(library, first_line):
    pytest.importorskip(library)
    page = "tutorials/gradient_checking.md"
    code = block(page, f"# for {first_line}\n")
    said = run_block(code, {"__name__": "page"})
    assert "x: everywhere 1.5 times the right one" in said
    assert read(page).count('It fails with "x: everywhere 1.5 times the right one".') == 2
    assert run_block(code.replace("3 * x * dy", "2 * x * dy"), {"__name__": "page"}) == ""


def test_the_loss_of_your_own():
    defined = {}
    exec(block("tutorials/using.md", "half_and_half"), defined)
    assert checks.check_objective(defined["half_and_half"]).ok


# ---- commands ------------------------------------------------------------------------------------

SMALL = {
    "train": "--steps 30 --n-embd 16 --block-size 16 --eval-every 15 --warmup 5 --device cpu",
    "compare": "--steps 20 --n-embd 16 --block-size 16 --eval-every 10 --seeds 0,1 --quiet",
    "synthetic": "--vocab 20 --seeds 7 --etas 0.5 --quiet --overwrite",
    "eval": "",
    "sample": "--tokens 50",
    "prepare": "",
    "gradcheck": "",
}
# What is not run by running a page's commands, and where it is run: a line of .ci/run
IN_CI = {
    'pip install -e ".[test]"': 'pip install -q -e ".[test]"',
    "pip install -e .": "pip install -q -e .\n",
    'pip install -e ".[plots]"': "[test]",
    'pip install -e ".[site]"': "[test]",
    "pytest": "&& pytest",
    "python tutorials/build.py": "tutorials/build.py",
}


def run_command(line):
    """Run a line of a page in the current folder, made small; parts that install or take minutes
    must be run by .ci/run.
    """
    for part in line.split(" && "):
        if part in IN_CI:
            assert IN_CI[part] in read(".ci/run"), part
            continue
        program, name, *rest = shlex.split(part)
        assert program == "minimixce", f"nothing runs {part!r}"
        if name == "--version":
            with pytest.raises(SystemExit):
                cli.main([name])
            continue
        small = shlex.split(SMALL[name])
        if "--init" in rest:  # which brings its sizes
            small = shlex.split(SMALL[name].replace("--n-embd 16", ""))
        if "--resume" in rest:
            small = []
        if name == "compare" and "--world" not in rest:
            small += ["--samples", "2", "--tokens", "30"]
        if name == "eval" and "agreement-run" not in rest:
            small += ["--samples", "2", "--tokens", "50"]
        assert cli.main([name, *rest, *small]) == 0, part


@pytest.mark.parametrize(
    "page",
    [
        "tutorials/using.md",
        *(
            pytest.param(page, marks=pytest.mark.slow)
            for page in PAGES
            if commands(page) and page != "tutorials/using.md"
        ),
    ],
)
def test_every_command_runs(page, folder, capsys):
    for line in commands(page):
        run_command(line)


def test_scripts_that_pages_name_are_there_and_extras_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for page in [*PAGES, *FRONT]:
        for script in re.findall(r"python ((?:benchmarks|tutorials|data)/\S+?\.py)", read(page)):
            assert (ROOT / script).is_file(), f"{page}: {script}"
        for extras in re.findall(r'pip install -e "\.\[([\w,]+)\]"', read(page)):
            for extra in extras.split(","):
                assert setup.has_option("options.extras_require", extra), f"{page}: {extra}"


@pytest.mark.slow
def test_what_gradcheck_is_shown_to_print(capsys):
    assert cli.main(["gradcheck", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out.splitlines()
    (shown,) = (
        body for kind, body in blocks("tutorials/gradient_checking.md") if "whole model" in body
    )
    numbers = re.compile(r"\d\.\de-\d+")
    printed = {numbers.sub("#", line) for line in printed}
    for line in shown.splitlines():
        assert line == "…" or numbers.sub("#", line) in printed


@pytest.mark.slow
def test_the_main_job_beats_a_4_gram_model_and_prints_the_lines_that_are_shown(
    capsys, tmp_path, monkeypatch
):
    """MINIMIXCE_MAIN_JOB, if set, is a file with what `minimixce train` has printed: .ci/run has
    just run it.
    """
    printed = os.environ.get("MINIMIXCE_MAIN_JOB")
    if printed:
        printed = Path(printed).read_text(encoding="utf-8")
    else:
        monkeypatch.chdir(tmp_path)
        assert cli.main(["train", "--device", "cpu"]) == 0
        printed = capsys.readouterr().out
    result = re.search(
        r"validation (\S+) nats per character, perplexity \S+ \(a 4-gram model: (\S+),", printed
    )
    assert float(result[1]) < float(result[2])
    (shown,) = (body for kind, body in blocks("README.md") if body.startswith("data "))
    words = dict.fromkeys(line.split()[0] for line in printed.splitlines() if line.split())
    assert [w for w in words if re.search(rf"^{re.escape(w)} ", shown, re.M)] == [
        line.split()[0] for line in shown.splitlines()
    ]


# ---- what README promises ------------------------------------------------------------------------


def test_the_front_page_is_short_and_shows_both_set_up_commands_that_ci_runs():
    assert len(read("README.md").splitlines()) <= 150
    shown, ci = commands("README.md"), read(".ci/run")
    assert 'pip install -e ".[test]" && pytest' in shown
    assert 'pip install -q -e ".[test]" && pytest' in ci
    assert "pip install -e . && minimixce train" in shown
    assert "minimixce train" in ci


def test_the_picture_shows_the_numbers_that_its_words_say(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import over_generalisation

    found = over_generalisation.distributions()
    impossible = found["the world P"] == 0
    assert impossible.sum() == 2
    by_likelihood, by_kls = (found[name] for name in over_generalisation.OBJECTIVES)
    assert [over_generalisation.percent(q) for q in by_likelihood[impossible]] == ["12 %"] * 2
    assert [over_generalisation.percent(q) for q in by_kls[impossible]] == ["0.3 %"] * 2
    text = read("README.md")
    for words in ("gives 12 % each", "gives these 0.3 % each", "24 % of the time", "0.6 % of the"):
        assert words in text
    assert 100 * by_likelihood[impossible].sum() == pytest.approx(24, abs=0.5)
    assert 100 * by_kls[impossible].sum() == pytest.approx(0.6, abs=0.05)
    over_generalisation.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", [*PAGES, *FRONT])
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, link


def test_the_table_of_fixed_points():
    p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    page = read("tutorials/which_objective.md")
    rows = dict(re.findall(r"^\| ([^|]*?) \| (\.\d{3} .*?) \|$", page, re.M))
    shown = {label: [float(cell) for cell in cells.split("|")] for label, cells in rows.items()}
    assert len(shown) == 10
    for label, q in shown.items():
        ratio = float(label.split()[-1]) if label[-1].isdigit() else None
        if name := re.search("mixce|tailr", label):
            expected, _ = fixed_point(name[0], p, ratio)
        else:
            power = p ** (1 / ratio) if ratio else p
            expected = power / power.sum()
        assert q == pytest.approx(expected, abs=6e-4), label
