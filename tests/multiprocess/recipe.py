"""The quickstart's tiny model with one layer per tower, for a few steps.

It trains on a mixture; one part of it rejects many of its examples.
"""

import dataclasses

from vljax import config
from vljax.data.sources import Mixture, Part, Phase
from vljax.data.transforms import Decode
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval
from vljax.optim import AdamW
from vljax.optim.schedules import WarmupCosine
from vljax.run import Run

STEPS = 10


def recipe(variant: str = "") -> Run:
    """A checkpoint every five steps, an evaluation in the middle and at the end."""
    run = config.load("configs/quickstart.py:tiny", Run)
    encoders = {
        name: dataclasses.replace(encoder, depth=1) for name, encoder in run.model.encoders.items()
    }
    strict = (Decode(max_pixels=12_000), *run.data.train_transforms[1:])
    parts = {
        "all": Part(Builtin("train"), 3),
        "small": Part(Builtin("train"), 1, transforms=strict),
    }
    source = Mixture(parts, schedule=(Phase(6, {"small": 3}),))
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, source=source, max_rejected_share=1.0),
        model=dataclasses.replace(run.model, nodes={**run.model.nodes, **encoders}),
        # Adam divides by |g| + epsilon; with the usual epsilon, gradients that are zero but for
        # rounding (those of key biases are) would become steps of full size and differ at will.
        optim=AdamW(learning_rate=1e-3, epsilon=1e-3, schedule=WarmupCosine(2)),
        evaluators={"retrieval": Retrieval(Builtin("validation"))},
        final_evaluators={},
        steps=STEPS,
        global_batch=16,
        log_every=1,
        evaluate_every=5,
        checkpoint_every=5,
    )
