"""The catalogue of mistakes: wrong solutions, made by editing the reference, and what they return.

A student's results are compared with those of the edited references. Mistakes that return the same
on every probe form a class, and only a class can be named. A mistake whose edit does not apply to
a variant, or changes nothing there, is dropped.
"""

import ast
import functools
import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from .compare import SAME, distance
from .mistakes import edit
from .returns import Watched, array_of
from .signatures import Codes, Functions, Inputs, Names, Probe
from .tasks import Assignment, Task

PairKey: TypeAlias = tuple[str, str, int, int]  # the codes of two mistakes, and the form of each


def load_source(text: str, name: str = "submission", given: Names | None = None) -> Names:
    """Run the text of a program -> its names. Raises whatever it raises.

    given: names that are there before, which the text may replace.
    """
    names = (given or {}) | {"__name__": name}
    exec(compile(text, f"{name}.py", "exec"), names)
    return names


def source_of(text: str, functions: Collection[str]) -> str:
    """The part of a program that defines functions of these names, as text."""
    tree = ast.parse(text)
    defined = [node for node in tree.body if getattr(node, "name", None) in functions]
    return "\n\n".join(ast.get_source_segment(text, node) or "" for node in defined) + "\n"


class Missing(AttributeError):
    """A function that a student's file does not define; its name is the text.

    says: a sentence on it with {!r} for the name.
    """

    kind = "missing"

    def __init__(self, name: str, says: str) -> None:
        super().__init__(name)
        self.says = says


class _Attributes:
    """A dict of names as attributes; Missing for one that there is not."""

    def __init__(self, names, missing):
        self.__dict__.update({k: v for k, v in names.items() if not k.startswith("__")})
        self.__dict__["__missing__"] = missing

    def __getattr__(self, name):
        raise Missing(name, self.__missing__)


def functions_of(names: Names, missing: str = "the file defines no function {!r}") -> Functions:
    """A dict of names as an object with attributes; one that is not there raises Missing.

    missing: what to say of it, a sentence with {!r} for the name.
    """
    return _Attributes(names, missing)


class Outcome:
    """What a program returned on one probe: outputs {name: array}, of the calls that succeeded; the
    first error that was raised, or None; and the name of the function whose call raised it.
    """

    def __init__(
        self,
        probe: Probe,
        outputs: dict[str, np.ndarray],
        error: BaseException | None = None,
        called: str = "",
    ) -> None:
        self.probe, self.outputs = probe, outputs
        self.error, self.called = error, called


def run_task(task: Task, functions: Functions, probes: Iterable[Probe]) -> list[Outcome]:
    """Run a task on copies of the probes -> an Outcome for each, with what was raised."""
    return [run_probe(task, anew(functions), probe) for probe in probes]


def anew(functions: Functions) -> Functions:
    """The functions as no earlier check has left them, where they run in a process of their own."""
    start = getattr(functions, "__anew__", None)
    return functions if start is None else start()


def in_place(functions: Functions) -> Functions:
    """The functions, changing their arguments also where they run in a process of their own.

    Otherwise that process has copies. To be called before the first call of a check.
    """
    start = getattr(functions, "__in_place__", None)
    return functions if start is None else start()


def kind_of(error: BaseException | None) -> str:
    """The class of an exception, as text; that of the student's process for one from there.

    "NoneType" for None.
    """
    return getattr(error, "kind", type(error).__name__)


def run_probe(task: Task, functions: Functions, probe: Probe, copy: bool = True) -> Outcome:
    """Run a task on one probe -> Outcome, with what was raised.

    copy: on copies of its arrays, which are contiguous.
    """
    found = Outcome(probe, {})
    watched = Watched(functions)
    with np.errstate(all="ignore"):
        inputs = copied(probe.inputs) if copy else probe.inputs
        for run in task.runs:
            _run_part(run, watched, inputs, found)
    return found


def _run_part(run, watched, inputs, found):
    """Add to an Outcome what one function of a task's run returns before it fails, if it does."""
    try:
        returned = run(watched, inputs)
        for name, value in returned.items() if isinstance(returned, dict) else returned:
            try:
                found.outputs[name] = array_of(watched, name, value)
            except TypeError as error:  # of this output; the others may be right
                _note(found, error, watched)
    except (Exception, SystemExit) as error:
        _note(found, error, watched)


def _note(found, error, watched):
    if found.error is None:
        found.error, found.called = error, watched.__called__


def copied(inputs: Inputs) -> Inputs:
    """Inputs with every array copied."""
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in inputs.items()}


def same(outcomes: Sequence[Outcome], others: Sequence[Outcome]) -> bool:
    """Whether two lists of Outcome agree in every row of every output of every probe."""
    return all(_same(a, b) for a, b in zip(outcomes, others))


def _same(a, b):
    if (a.error is None) != (b.error is None):
        return False
    if a.error is not None and kind_of(a.error) != kind_of(b.error):
        return False
    if a.outputs.keys() != b.outputs.keys():
        return False
    return all(distance(a.outputs[k], b.outputs[k]) < SAME for k in a.outputs)


class Catalogue:
    """The wrong solutions of one task in one variant, and their results on the probes of a seed.

    reference: the right functions, as attributes; right: their Outcome on each of `probes`.
    """

    def __init__(self, assignment: Assignment, task: Task, variant: int = 0, seed: int = 0) -> None:
        self.task = task
        self.text = assignment.source(variant)
        self.probes = [Probe(*probe) for probe in task.probes(seed)]
        self.names = load_source(self.text, "reference")
        self.reference = functions_of(self.names)
        self.own_text = source_of(self.text, task.functions)  # only this part is edited
        self.right = run_task(task, self.reference, self.probes)
        self.mistakes = {m.code: m for m in assignment.mistakes if m.task == task.number}

    @functools.cached_property
    def singles(self) -> dict[tuple[str, int], list[Outcome]]:
        """Results of one mistake, {(code, form): results}."""
        return self._results(
            ((code, form), (edits,))
            for code, m in self.mistakes.items()
            for form, edits in enumerate(m.edits)
        )

    def _results(self, programs):
        """{key: results} of edited references, those left out that return what is right."""
        found = {}
        for key, all_edits in programs:
            functions = self._edited(all_edits)
            if functions is None:
                continue
            outcomes = run_task(self.task, functions, self.probes)
            if self._shows_a_mistake(outcomes):
                found[key] = outcomes
        return found

    def _edited(self, all_edits):
        """The functions of the reference with edits made to it, None where one does not apply."""
        text = self.own_text
        for edits in all_edits:
            text = text and edit(text, edits)
        return None if text is None else functions_of(load_source(text, "wrong", self.names))

    def _shows_a_mistake(self, outcomes):
        return any(o.error is None for o in outcomes) and not same(outcomes, self.right)

    @functools.cached_property
    def pairs(self) -> dict[PairKey, tuple[Functions, Outcome]]:
        """Two mistakes at once: {(code, code, form, form): (functions, Outcome on probe 0)}.

        There are hundreds, so that the other probes are tried only where that one fits.
        """
        found = {}
        for (a, form_a), (b, form_b) in itertools.combinations(self.singles, 2):
            both = self.mistakes[a].edits[form_a], self.mistakes[b].edits[form_b]
            if a != b and (functions := self._edited(both)) is not None:
                first = run_probe(self.task, functions, self.probes[0])
                found[a, b, form_a, form_b] = functions, first
        return found

    def results_of_pair(self, key: PairKey) -> list[Outcome] | None:
        """The results of a pair on all probes; None where it shows only one of the two, or none."""
        functions, first = self.pairs[key]
        outcomes = [first, *run_task(self.task, functions, self.probes[1:])]
        if not self._shows_a_mistake(outcomes):
            return None
        if any(same(outcomes, single) for single in self.singles.values()):
            return None
        return outcomes

    def codes(self) -> list[str]:
        """The codes that can be named in this variant."""
        return sorted({code for code, _ in self.singles})

    def same_class(self, code: str) -> set[str]:
        """All codes with a form that returns on every probe what a form of `code` returns."""
        mine = [found for (c, _), found in self.singles.items() if c == code]
        return {
            c for (c, _), found in self.singles.items() if any(same(found, one) for one in mine)
        }

    def name(self, outcomes: Sequence[Outcome], pairs: bool = True) -> list[Codes]:
        """The mistakes that explain results -> a list of alternatives, each a tuple of codes.

        One mistake explains them if it returns the same on every probe. Two are tried where no
        single one does, unless pairs=False. Empty where nothing explains them; more than one
        alternative where several do, between which these probes cannot tell.
        """
        found: set[Codes] = {(c,) for (c, _), v in self.singles.items() if same(outcomes, v)}
        if found or not pairs:
            return sorted(found)
        for key, (_, first) in self.pairs.items():
            if _same(outcomes[0], first) and (results := self.results_of_pair(key)) is not None:
                found |= {key[:2]} if same(outcomes, results) else set()
        return sorted(found)
