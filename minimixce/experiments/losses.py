"""What `--objective` names: a loss over tokens, one from a file of the user's, or a whole step over
sequences of a world.
"""

from pathlib import Path

from .. import checks, objectives, text
from ..model import LanguageModel
from ..storage import files, validate
from ..storage.shapes import FilePath, Loss
from ..training import steps
from . import on_worlds, options
from .options import TrainingOptions


def objective_or_step(
    job_options: TrainingOptions, model: LanguageModel, corpus: text.Corpus
) -> tuple[Loss, None] | tuple[None, on_worlds.Step]:
    """What --objective names, with its ratio bound -> (objective, None) over tokens, (None, step)
    over sequences; one from a file is gradient-checked first.

    job_options: TrainingOptions; model: whose embedding EMO takes its costs from; corpus: whose
    world objectives over sequences ask. Raises ValueError for an objective that is unknown, or
    whose gradient is wrong, and for options that it does not take.
    """
    name = job_options.objective
    ratios = {ratio: getattr(job_options, ratio) for ratio in objectives.RATIOS}
    if name in objectives.names("tokens"):
        # EMO holds the embeddings of its costs fixed within a step; trained from scratch, they are
        # the model's of that step.
        embedding = model.params["wte.weight"]
        return objectives.token_loss(name, cost_embedding=embedding, **ratios), None
    if name in on_worlds.SEQUENCE_OBJECTIVES:
        return None, _sequence_step(job_options, corpus, ratios)
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        names = objectives.names(None if job_options.world else "tokens")
        raise ValueError(
            f"--objective must be one of {', '.join(names)} or FILE.py:NAME, got {name!r}"
        )
    return objective_of_file(Path(path), function, job_options.unchecked), None


def _sequence_step(
    job_options: TrainingOptions, corpus: text.Corpus, ratios: dict[str, float]
) -> on_worlds.Step:
    name = job_options.objective
    if not job_options.world:
        raise ValueError(f"objective {name} needs P itself: give --world")
    unused = {
        "dropout": job_options.dropout,
        "patience": job_options.patience is not None,
        "recompute": job_options.recompute,
        "average": job_options.average != "targets",
    }
    for option, is_given in unused.items():
        if is_given:
            raise ValueError(
                f"{options.flag(option)} is for objectives over tokens; {name} goes without it"
            )
    sampled = on_worlds.of_world(corpus)
    return on_worlds.sequence_step(
        name,
        sampled.world,
        sampled.max_len,
        eta=ratios["eta"],
        samples=job_options.rloo_samples,
        seed=job_options.seed,
    )


def objective_of_file(path: FilePath, name: str, unchecked: bool = False) -> Loss:
    """The function `name` of the Python file `path`, which must be an objective -> that function,
    with one sentence where it fails. Raises ValueError where its dlogits are not the derivative of
    its loss, unless unchecked=True.
    """
    (objective,) = files.load_functions(path, name)
    objective = steps.guarded(objective, f"{name} in {path}", errors=Exception, advice="")
    if not unchecked:
        report = checks.check_objective(objective)
        if not report.ok:
            raise validate.WithTable(
                f"the dlogits of {name} are not the derivative of its loss; if it stops a gradient"
                " on purpose, add --unchecked",
                str(report),
            )
    return objective
