"""ResNet by its definition in float64 NumPy; tests/parity compares it with transformers too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny
from vljax.config import UserError, decode, encode, validate
from vljax.models import presets
from vljax.models.compute import Call, Compute
from vljax.models.encoders import ConvGrid, EfficientNetLite, ResNet

SIZES = {"image_size": 21, "repeats": (2, 1), "stem_width": 4, "groups": 2}
STATISTICS = "batch_stats"


def images(batch, size=21):
    return jnp.asarray(tiny.images(batch, size, size))


def convolution(x, kernel, stride, standardized):
    kernel = np.float64(kernel)
    if standardized:
        mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
        kernel = (kernel - mean) / np.sqrt(variance + 1e-8)
    size = len(kernel)
    pads = ((0, 0), *2 * ((size // 2, size // 2),), (0, 0))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pads), (size, size), (1, 2))
    return np.einsum("bhwcpq,pqco->bhwo", windows[:, ::stride, ::stride], kernel)


def pooled_maxima(x):
    """Of 3 x 3 windows, where pixels outside of the image count as 0."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    return windows[:, ::2, ::2].max((-1, -2))


def by_definition(config, variables, image, *, train):
    """The features before pooling."""
    params, statistics = variables["params"], variables.get(STATISTICS, {})

    def normed(x, path):
        of, stored = functools.reduce(dict.__getitem__, path, params), statistics
        if config.norm == "group":
            grouped = x.reshape(len(x), -1, config.groups, x.shape[-1] // config.groups)
            axes = (1, 3)
        else:
            grouped, axes = x, (0, 1, 2)
            stored = functools.reduce(dict.__getitem__, path, statistics)
        mean, variance = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
        if config.norm == "batch" and not train:
            mean, variance = stored["mean"], stored["variance"]
        y = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        return y * of["scale"] + of["bias"]

    def convolved(x, kernel, stride):
        return convolution(x, kernel, stride, config.standardized_weights)

    def relu(x):
        return np.maximum(x, 0)

    def block(x, name, stride):
        of = params[name]
        names = [f"convolution{i}" for i in range(3 if config.block == "bottleneck" else 2)]
        strided = names[1 if config.block == "bottleneck" else 0]
        y, kept = x, x
        for i, part in enumerate(names):
            s = stride if part == strided else 1
            if config.version == "v2":
                y = relu(normed(y, (name, f"{part}_norm")))
                if i == 0 and "shortcut" in of:
                    kept = convolved(y, of["shortcut"]["kernel"], stride)
                y = convolved(y, of[part]["kernel"], s)
            else:
                y = normed(convolved(y, of[part]["kernel"], s), (name, f"{part}_norm"))
                y = y if part == names[-1] else relu(y)
        if config.version == "v2":
            return kept + y
        if "shortcut" in of:
            kept = normed(convolved(x, of["shortcut"]["kernel"], stride), (name, "shortcut_norm"))
        return relu(kept + y)

    x = (image / 255 - np.array(config.pixel_mean)) / np.array(config.pixel_std)
    x = convolved(x, params["stem"]["kernel"], 2)
    x = pooled_maxima(x if config.version == "v2" else relu(normed(x, ("stem_norm",))))
    for stage, repeats in enumerate(config.repeats):
        for i in range(repeats):
            x = block(x, f"stage{stage}_{i}", 2 if stage and i == 0 else 1)
    return relu(normed(x, ("norm",))) if config.version == "v2" else x


@functools.cache
def variables_of(config):
    module = config.module(Compute(), "tower")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 21, 21, 3), jnp.uint8))
    shapes = jax.tree.map(
        lambda x: getattr(x, "value", x), shapes, is_leaf=lambda x: hasattr(x, "value")
    )
    made = {kind: tiny.randomised(tree, seed) for seed, (kind, tree) in enumerate(shapes.items())}
    if STATISTICS in made:
        made[STATISTICS] = jax.tree.map(lambda x: 0.5 + np.abs(x), made[STATISTICS])
    return made


def encoded(config, *, train=False):
    """The stream, the changed statistics, and the features by definition."""
    variables = variables_of(config)
    image = images(3)
    apply = functools.partial(config.module(Compute(), "tower").apply, mutable=[STATISTICS])
    made, state = jax.jit(apply)(variables, image, None, Call(train=train))
    update = train and not config.stored_statistics
    return made, state, by_definition(config, variables, np.float64(image), train=update)


@pytest.mark.parametrize(
    ("fields", "train"),
    [
        ({"norm": "batch"}, True),
        ({"norm": "group", "block": "basic"}, False),
        ({"norm": "batch", "version": "v2"}, False),
        ({"norm": "batch", "version": "v2", "block": "basic"}, True),
        ({"norm": "group", "version": "v2", "standardized_weights": True}, True),
        ({"norm": "batch", "stored_statistics": True}, True),
    ],
    ids=str,
)
def test_a_resnet_computes_its_definition(fields, train):
    config = ResNet(**SIZES, **fields)
    made, state, features = encoded(config, train=train)
    size = np.abs(features).max()  # batch norms scale and shift x by factors: two roundings of it
    assert features.shape[1:] == (config.side, config.side, config.width)
    tokens = features.reshape(3, -1, config.width)
    np.testing.assert_allclose(made.tokens, tokens, rtol=0, atol=1e-5 * size)
    np.testing.assert_allclose(made.pooled, tokens.mean(1), rtol=0, atol=1e-5 * size)
    first, moved = variables_of(config).get(STATISTICS, {}), state.get(STATISTICS, {})
    same = jax.tree.map(np.array_equal, first, moved)
    assert set(jax.tree.leaves(same)) <= {not (train and config.updates_state)}
    assert bool(first) == (config.norm == "batch")
    assert config.updates_state == (config.norm == "batch" and not config.stored_statistics)


def test_examples_do_not_depend_on_each_other_with_group_norms():
    config = ResNet(**SIZES, norm="group")
    module, image = config.module(Compute(), "tower"), images(3)
    apply = jax.jit(lambda x: module.apply(variables_of(config), x, None, Call(train=True)).pooled)
    np.testing.assert_allclose(apply(image)[:1], apply(image[:1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [ResNet, EfficientNetLite])
def test_a_grid_has_tokens_with_positions_and_the_same_pooled_vector(kind):
    small = SIZES if kind is ResNet else {"width_factor": 0.25, "depth_factor": 0.25}
    tokens, pooled = {}, {}
    for grid in (None, (2, 3)):
        config = kind(**{**small, "image_size": 75}, grid=grid)
        module, image = config.module(Compute(), "tower"), images(1, 75)
        made = jax.jit(lambda m=module, i=image: m.init_with_output(jax.random.key(0), i))()[0]
        tokens[grid], pooled[grid] = made.tokens, made.pooled
    assert np.array_equal(pooled[None], pooled[2, 3])
    side = int(tokens[None].shape[1] ** 0.5)
    assert tokens[2, 3].shape[1] == 6
    assert made.mask.shape == (1, 6)
    y, x = np.divmod(np.arange(6), 3)
    np.testing.assert_allclose(made.positions[0], np.stack([(y + 0.5) / 2, (x + 0.5) / 3], -1))
    half = -(-side // 2)
    corner = tokens[None].reshape(side, side, -1)[:half, : -(-side // 3)].mean((0, 1))
    np.testing.assert_allclose(tokens[2, 3][0, 0], corner, rtol=1e-6, atol=1e-6)


def test_the_gradient_is_finite_also_in_bfloat16():
    config = ResNet(**SIZES, norm="group", version="v2")
    module = config.module(Compute(jnp.bfloat16), "tower")
    variables, image = variables_of(config), images(2)

    def loss(params):
        made = module.apply({"params": params}, image, None, Call(train=True))
        assert (made.tokens.dtype, made.pooled.dtype) == (jnp.bfloat16, jnp.bfloat16)
        return jnp.sum(jnp.square(made.tokens.astype(jnp.float32)))

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    ("layers", "parameters"), [(18, 11.2), (34, 21.3), (50, 23.5), (101, 42.5), (152, 58.1)]
)
def test_presets_have_the_sizes_of_the_paper(layers, parameters):
    """Millions without the classifier, as torchvision's models have."""
    module = presets.resnet(layers).module(Compute(), "tower")
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6, 1) == parameters


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size: must be at least 1, not 0"),
        ({"repeats": ()}, r"repeats: must have at least 1 block in each stage, not \[\]"),
        ({"repeats": (3, 0)}, r"repeats: must have at least 1 block in each stage, not \[3, 0\]"),
        (
            {"norm": "group", "stem_width": 48},
            "groups: 32 groups do not divide a stem_width of 48; 16 would",
        ),
        (
            {"norm": "group", "stored_statistics": True},
            "stored_statistics: group norms store no statistics; set norm to batch",
        ),
        ({"grid": (0, 3)}, "grid: must have at least 1 row and 1 column, not 0 and 3"),
        ({"norm_momentum": 1.0}, r"norm_momentum: must be in \[0, 1\), not 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        validate(ResNet(**fields))


IMAGES = {
    "vit": tiny.vit,
    "resnet": ResNet,
    "efficientnet_lite": EfficientNetLite,
    "conv_grid": functools.partial(ConvGrid, width=8, image_size=32),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm_epsilon": -1e-6}, "norm_epsilon: must be above 0, not -1e-06"),
        (
            {"pixel_std": (0.5, 0.0, 0.5)},
            r"pixel_std: must be above 0 for each channel, not \[0.5, 0.0, 0.5\]",
        ),
    ],
)
def test_encoders_of_images_refuse_to_divide_by_zero(kind, fields, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(IMAGES[kind](**fields))


def test_an_unknown_number_of_layers_is_named():
    with pytest.raises(UserError, match="no ResNet has 20 layers; there are those of 18, 34, 50"):
        presets.resnet(20)


def test_a_stored_recipe_keeps_the_grid():
    config = ResNet(grid=(7, 5), repeats=(1, 2))
    assert decode(ResNet, encode(config)) == config
