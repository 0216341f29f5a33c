"""Blocks that lose all their units: the suite, and the count of the operations of a program compiled for a GPU."""

import pytest

from benchmarks import emptied, gpu_programs

HLO = """HloModule jit_step, is_scheduled=true

%region (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %negate = f32[8]{0} negate(%p)
}

%command_buffer (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  %cublas = (f32[8]{0}, s8[128]{0}) custom-call(%p.1), custom_call_target="__cublas$gemm"
  %result = f32[8]{0} get-tuple-element(%cublas), index=0
  ROOT %fusion.1 = f32[8]{0} fusion(%result), kind=kLoop, calls=%fused
}

ENTRY %main (x: f32[8], y: s32[], z: f32[3,0]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %y = s32[] parameter(1)
  %z = f32[3,0]{1,0} parameter(2)
  %copy-start = (f32[8]{0}, f32[8]{0}, u32[]) copy-start(%x)
  %copy-done = f32[8]{0} copy-done(%copy-start)
  %empty = f32[3,0]{1,0} copy(%z)
  %pair = (f32[0]{0}, f32[8]{0}) custom-call(%x)
  %call = f32[8]{0} call(%copy-done), to_apply=%command_buffer
  %wrapped = f32[]{:T(128)} fusion(%call), kind=kInput, calls=%region
  ROOT %fusion.2 = f32[8]{0} fusion(%call, %wrapped), kind=kLoop, calls=%fused
}
"""


def test_operations_of_a_gpu_program_are_counted():
    assert gpu_programs.operations(HLO) == {"copy": 1, "custom-call": 2, "fusion": 3}


@pytest.mark.slow
def test_blocks_are_emptied_or_keep_one_unit():
    """Where a GPU's plugin is not installed, times and sizes are measured alone."""
    [record] = emptied.rows("tiny", emptied.CASES["tiny"])
    dense, one, none = record["steps"].values()
    assert [step["empty_sites"] for step in (dense, one, none)] == [0, 0, 2]
    assert dense["parameters"] > one["parameters"] > none["parameters"]
    header, *rows = emptied.table([record])
    assert [row[3] for row in rows] == ["dense", "one unit", "emptied"]
    assert len(set(map(len, (header, *rows)))) == 1
    assert all(step["gpu_operations"] is None for step in record["steps"].values()) or gpu_programs.available()
