"""`clip_small.py` trained for longer, on composed scenes and clip art: a model to fine-tune.

Its checkpoint is not part of the project; this recipe makes it in about a quarter of an hour on two
CPU cores. `clip_scenes.py:tiny` takes seconds.
"""

import dataclasses

from clip_small import evaluators
from clip_small import recipe as clip_small

from vljax.recipes import Builtin, Mixture, Part, Retrieval, Run, Scenes, WarmupCosine, choose


def scenes(split: str, examples: int) -> Scenes:
    """Scenes of one or two objects of a split of the built-in pictures."""
    return Scenes(Builtin(split), examples=examples, max_objects=2, size=72)


def recipe(variant: str = "") -> Run:
    """The small CLIP on half scenes, half clip art."""
    tiny = choose(variant, {"": False, "tiny": True})
    run = clip_small(variant)
    steps = run.steps if tiny else 900
    mixture = Mixture(
        {
            "clip_art": Part(Builtin("train"), weight=1.0),
            "scenes": Part(scenes("train", 20_000), weight=1.0),
        }
    )
    validation, test = (Retrieval(scenes(split, 500)) for split in ("validation", "test"))
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, source=mixture),
        optim=dataclasses.replace(run.optim, schedule=WarmupCosine(warmup_steps=steps // 10)),
        evaluators={**evaluators(Builtin("validation")), "scenes": validation},
        final_evaluators={**evaluators(Builtin("test")), "scenes": test},
        steps=steps,
        log_every=max(1, steps // 60),
        evaluate_every=steps // (2 if tiny else 6),
        checkpoint_every=steps // (4 if tiny else 6),
    )
