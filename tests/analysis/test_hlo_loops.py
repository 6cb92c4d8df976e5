"""Trip counts of loops, noted by the compiler or evaluated from the text."""

import jax
import jax.numpy as jnp
import pytest

from vljax.analysis.hlo import executions, parse

LOOP = """\
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %p = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4] get-tuple-element(%p), index=1
  %step = s32[] constant({step})
  %next = s32[] add(%i, %step)
  ROOT %out = (s32[], f32[4]) tuple(%next, %x)
}}

%condition (p.1: (s32[], f32[4])) -> pred[] {{
  %p.1 = (s32[], f32[4]) parameter(0)
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%p.1), index=0
  %n = s32[]{{:T(128)}} constant({limit})
  ROOT %lt = pred[]{{:T(512)}} compare(%i.1, %n), direction={direction}
}}

ENTRY %main (x.1: f32[4]) -> f32[4] {{
  %x.1 = f32[4] parameter(0)
  %zero = s32[] constant({start})
  %copy = s32[] copy(%zero)
  %init = (s32[], f32[4]) tuple(%copy, %x.1)
  %while = (s32[], f32[4]) while(%init), condition=%condition, body=%body{noted}
  ROOT %y = f32[4] get-tuple-element(%while), index=1
}}
"""


@pytest.mark.parametrize(
    ("values", "trips"),
    [
        ({}, 12),
        ({"start": 3}, 9),
        ({"step": 5}, 3),
        ({"direction": "LE"}, 13),
        ({"direction": "GT"}, 0),
        ({"start": 12, "limit": 0, "step": -1, "direction": "GE"}, 13),
        ({"noted": ', backend_config={"known_trip_count":{"n":"7"}}'}, 7),
    ],
)
def test_trip_counts_of_hand_written_loops(values, trips):
    defaults = {"start": 0, "step": 1, "limit": 12, "direction": "LT", "noted": ""}
    runs = executions(parse(LOOP.format(**defaults | values)))
    assert runs.times == {"main": 1, "body": trips, "condition": trips + 1}
    assert runs.unknown == ()


def test_a_loop_that_depends_on_data_counts_once():
    text = LOOP.format(start=0, step=1, limit=12, direction="LT", noted="")
    runs = executions(parse(text.replace("%zero = s32[] constant(0)", "%zero = s32[] custom()")))
    assert runs.unknown == ("while",)
    assert runs.times["body"] == 1


@pytest.mark.parametrize("noted", [True, False])
def test_nested_scans_of_a_compiled_program(noted):
    """On CPU the compiler notes the counts; without them they come from the conditions."""

    def nested(x, w):
        def inner(c, v):
            return jnp.sin(c * v), None

        def outer(c, v):
            return jax.lax.scan(inner, c, v)[0], None

        return jax.lax.scan(outer, x, w)[0]

    text = jax.jit(nested).lower(jnp.ones(1000), jnp.ones((5, 7, 1000))).compile().as_text()
    assert "known_trip_count" in text
    module = parse(text if noted else text.replace("known_trip_count", "not_noted"))
    runs = executions(module)
    sines = {
        runs.times[computation.name]
        for computation, instruction in module.instructions()
        if instruction.opcode == "sine" and computation.name in runs.times
    }
    assert sines == {35}
    assert runs.unknown == ()


def test_instructions_in_a_fusion_are_not_scheduled():
    text = jax.jit(lambda x: jnp.sin(x) * 2 + jnp.cos(x)).lower(jnp.ones(1000)).compile().as_text()
    module = parse(text)
    runs = executions(module)
    fused = {name for i in module.entry.instructions.values() for name in i.called}
    assert fused
    assert runs.scheduled == {module.entry.name}
    assert all(runs.times[name] == 1 for name in fused)
