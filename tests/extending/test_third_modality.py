"""Audio beside images and texts: a transform, an encoder and an objective, and no other change."""

from dataclasses import dataclass

import jax

from tests.extending import tiny
from tests.extending.audio import Audio, Sound
from vljax.models.assembly import Variables
from vljax.objectives.contrastive import softmax_loss
from vljax.objectives.objective import Objective, Result
from vljax.objectives.pair_logits import Tiling, pair_logits
from vljax.recipes import Embedding, SoftmaxContrastive, Transform


@dataclass(frozen=True, kw_only=True)
class Match(Objective, name="test_match"):
    """CLIP's loss of any two embeddings."""

    outputs: tuple[str, str]

    def reads(self):
        return self.outputs

    def __call__(self, ctx, batch, key):
        left, right = (ctx.run(self.outputs)[name] for name in self.outputs)
        logits = pair_logits(left, right, batch["valid"], "cosine", 10.0)
        return Result(softmax_loss(logits, tiling=Tiling(ctx.mesh)).loss, {})


def test_three_modalities_train_together(monkeypatch):
    monkeypatch.setitem(Transform.members, "test_sound", Sound)
    projections = dict.fromkeys(("image", "text", "audio"), "linear")
    nodes = {"image": tiny.IMAGE, "text": tiny.TEXT, "audio": Audio()}
    objectives = {"pictures": SoftmaxContrastive()} | {
        name: Match(outputs=(f"{name}/embedding", "audio/embedding")) for name in ("image", "text")
    }
    run = tiny.prepared({**nodes, "embedding": Embedding(32, projections)}, objectives, Sound())
    params, metrics = tiny.train(run, 12)
    for name in objectives:
        assert metrics[-1][f"{name}/loss"] < 0.7 * metrics[0][f"{name}/loss"], name
    # One modality is encoded without the others.
    specs = {"audio": Audio().roles(3)["inputs"]}
    outputs, _ = jax.eval_shape(run.model.apply, Variables(params[-1], {}), specs)
    assert outputs["audio/embedding"].shape == (3, 32)
    assert "image/embedding" not in outputs
