"""Contrastive losses by their definition, all logits at once, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def logits(image, text, similarity, scale=1.0, bias=0.0):
    if similarity == "cosine":
        image = image / jnp.sqrt(jnp.sum(image**2, axis=1, keepdims=True))
        text = text / jnp.sqrt(jnp.sum(text**2, axis=1, keepdims=True))
    if similarity == "euclidean":
        distances = jnp.sum((image[:, None] - text[None, :]) ** 2, axis=2)
        return -scale * distances + bias
    return scale * jnp.einsum("id,td->it", image, text) + bias


def softmax(logits, direction):
    """Mean of -log(exp(l_ii) / sum_j exp(l_ij)), over rows, columns or both."""
    asks_image = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))
    asks_text = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=0)))
    both = (asks_image + asks_text) / 2
    return {"image_to_text": asks_image, "text_to_image": asks_text, "both": both}[direction]


def sigmoid(logits):
    """Zhai et al. 2023, eq. 1: -1/|B| sum_ij log 1 / (1 + exp(z_ij (-t x.y - b)))."""
    z = 2 * jnp.eye(len(logits)) - 1
    return jnp.sum(jnp.logaddexp(0, -z * logits)) / len(logits)


@functools.partial(jax.jit, static_argnames=("similarity", "direction"))
def _value_and_gradients(arguments, similarity, direction):
    def loss(image, text, scale, bias):
        pairs = logits(image, text, similarity, scale, bias)
        return softmax(pairs, direction) if direction else sigmoid(pairs)

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*arguments)


def value_and_gradients(image, text, valid, similarity, direction, scale, bias):
    """The loss, and its gradients by both embeddings, scale and bias; sigmoid without direction.

    Examples that are not valid are taken out of the batch.
    """
    with jax.enable_x64():
        arguments = tuple(map(jnp.float64, (image[valid], text[valid], scale, bias)))
        value, gradients = _value_and_gradients(arguments, similarity, direction)
        value, *gradients = map(np.asarray, (value, *gradients))
    for i in range(2):
        whole = np.zeros(image.shape)
        whole[valid] = gradients[i]
        gradients[i] = whole
    return value, *gradients


def distance(ours, truth):
    """Relative L2 error."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    return np.linalg.norm(ours - truth) / np.linalg.norm(truth)
