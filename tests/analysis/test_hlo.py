"""The parser of HLO text, as XLA prints it on TPU, GPU and CPU."""

import pytest

from vljax.analysis.hlo import Shape, parse

TPU = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0:T(128)})->f32[8]{0}}

%fused (param_0.1: bf16[64,768]) -> bf16[64,768] {
  %param_0.1 = bf16[64,768]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %tanh.2 = bf16[64,768]{1,0:T(8,128)(2,1)S(1)} tanh(%param_0.1), metadata={op_name="a{b}"}
}

ENTRY %main.3 (p0: bf16[64,768], p1: (s32[], pred[3])) -> (bf16[64,768], /*index=1*/u32[]) {
  %p0 = bf16[64,768]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = (s32[]{:T(128)}, pred[3]{0:T(512)(128)(4,1)}) parameter(1)
  %c = s32[2]{0} constant({1, -2})
  %copy-start.1 = (bf16[64,768]{1,0}, bf16[64,768]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%p0)
  %copy-done.1 = bf16[64,768]{1,0:S(1)} copy-done(%copy-start.1)
  %fusion.7 = bf16[64,768]{1,0:T(8,128)(2,1)S(1)} fusion(%copy-done.1), kind=kLoop, calls=%fused, \
metadata={op_name="jit(step)/image/tanh" stack_frame_id=4}, \
backend_config={"flag_configs":[],"window_config":{"estimated_cycles":"1882"}}
  %get = u32[]{:S(2)} get-tuple-element(%copy-start.1), index=2
  ROOT %tuple = (bf16[64,768]{1,0}, /*index=1*/u32[]) tuple(%fusion.7, /*index=1*/%get)
}
"""


def test_parse_a_program_for_tpu():
    module = parse(TPU)
    assert module.entry.name == "main.3"
    assert list(module.computations) == ["fused", "main.3"]
    lines = module.entry.instructions
    assert [i.opcode for i in lines.values()] == [
        *("parameter", "parameter", "constant", "copy-start", "copy-done"),
        *("fusion", "get-tuple-element", "tuple"),
    ]
    assert module.entry.root.operands == ("fusion.7", "get")
    assert lines["p1"].shapes == (Shape("s32", ()), Shape("pred", (3,)))
    assert [shape.space for shape in lines["copy-start.1"].shapes] == [0, 1, 2]
    assert lines["get"].attribute("index") == "2"

    fusion = lines["fusion.7"]
    assert fusion.shapes == (Shape("bf16", (64, 768), 1),)
    assert fusion.operands == ("copy-done.1",)
    assert fusion.called == ("fused",)
    assert fusion.op_name == "jit(step)/image/tanh"
    assert fusion.backend_config["window_config"]["estimated_cycles"] == "1882"
    assert module.computations["fused"].root.name == "tanh.2"
    assert module.computations["fused"].parameters[0].name == "param_0.1"


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (Shape("f32", (3, 5)), 60),
        (Shape("bf16", (7,)), 14),
        (Shape("pred", (7,)), 7),
        (Shape("f8e4m3fn", (7,)), 7),
        (Shape("s4", (7,)), 4),
        (Shape("u32", ()), 4),
        (Shape("token", ()), 0),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert shape.bytes == size


def test_operands_after_their_shapes():
    """As in the text of older versions and of some tools."""
    module = parse(
        "ENTRY main {\n  a = f32[2,3]{1,0} parameter(0)\n"
        "  ROOT b = f32[2,2]{1,0} dot(f32[2,3]{1,0} a, f32[2,3]{1,0} a), "
        "lhs_contracting_dims={1}, rhs_contracting_dims={1}\n}\n".replace(
            "ENTRY main {", "ENTRY main (a: f32[2,3]) -> f32[2,2] {"
        )
    )
    assert module.entry.root.operands == ("a", "a")
    assert module.entry.root.attribute("lhs_contracting_dims") == "1"
    assert module.entry.root.attribute("contracting_dims") is None


def test_a_text_without_an_entry_computation_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("HloModule nothing\n")
