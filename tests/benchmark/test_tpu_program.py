"""Programs compiled for a TPU: small ones, written as XLA and libtpu write them, read by hand."""

import pytest

from alexnet_jax.benchmark.chips import CHIPS, find_chip
from alexnet_jax.benchmark.plan import summarize
from alexnet_jax.benchmark.tpu_program import (
    OTHER,
    Code,
    Op,
    count_bundles,
    hbm_bytes,
    read_code,
    read_program,
)
from alexnet_jax.errors import BadInput


@pytest.mark.parametrize(
    ('shape', 'expected'),
    [
        ('f32[]', 4),
        ('f32[3,5]', 60),  # no layout: no padding
        ('bf16[8,200]{1,0:T(8,128)(2,1)}', 8 * 256 * 2),
        ('bf16[8,200]{0,1:T(8,128)(2,1)}', 200 * 128 * 2),  # the 8 is minor: 200 x 128
        ('f32[2,55,55,96]{3,0,2,1:T(2,128)}', 55 * 55 * 2 * 128 * 4),
        ('f32[2,55,55,96]{3,2,1,0:T(8,128)}', 2 * 55 * 56 * 128 * 4),
        ('pred[16]{0:T(512)(128)(4,1)}', 512),
        ('u8[4,227,227,3]{0,3,2,1:T(4,128)(4,1)}', 227 * 227 * 4 * 128),
        ('f32[8,128]{1,0:T(8,128)S(1)}', 0),  # in the vector memory
        ('s32[]{:T(128)S(6)}', 0),
        ('(f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}, /*index=2*/s8[32,128]{1,0})', 4096 + 4096),
        ('token[]', 0),
    ],
)
def test_bytes_of_shapes(shape, expected):
    assert hbm_bytes(shape) == expected


# A gradient that XLA fuses, an all-reduce of it, a transfer to the vector memory, and a pad that
# has no estimate.
HLO = """\
HloModule jit__fun, is_scheduled=true

%fused_computation.1 (param_0: f32[8,128]) -> f32[8,128] {
  %param_0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %multiply.1 = f32[8,128]{1,0:T(8,128)} multiply(%param_0, %param_0), metadata={op_name="jit(_fun)/jvp(AlexNet)/norm1/mul"}
  ROOT %add.2 = f32[8,128]{1,0:T(8,128)} add(%multiply.1, %param_0), metadata={op_name="jit(_fun)/jvp(AlexNet)/norm1/add"}
}

ENTRY %main.59_spmd (param.1: f32[8,128], param.2: f32[8,128]) -> (f32[8,128], f32[]) {
  %param.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %param.2 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%param.2)
  %add_fusion = f32[8,128]{1,0:T(8,128)} fusion(%param.1), kind=kLoop, calls=%fused_computation.1, backend_config={"window_config":{"estimated_cycles":"500","iteration_bounds":["2","3"]}}
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion.2 = (f32[8,128]{1,0:T(8,128)}, f32[]{:T(128)S(6)}) fusion(%add_fusion, /*index=1*/%copy-done), kind=kOutput, calls=%fused_computation.1, metadata={op_name="jit(_fun)/shard_map/transpose(jvp(AlexNet))/conv1/AlexNet._conv/conv1/conv_general_dilated" stack_frame_id=3}, backend_config={"window_config":{"estimated_cycles":"1000","iteration_bounds":["4"]}}
  %get-tuple-element.1 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%fusion.2), index=0
  %pad.3 = f32[16,128]{1,0:T(8,128)} pad(%get-tuple-element.1), padding=0_8x0_0, metadata={op_name="jit(_fun)/transpose(jvp(AlexNet))/pool1/pad"}
  ROOT %all-reduce.4 = f32[8,100]{1,0:T(8,128)} all-reduce(%slice.9), channel_id=1, replica_groups={{0,1}}, to_apply=%region, metadata={op_name="jit(_fun)/shard_map/psum"}
  %slice.9 = f32[8,100]{1,0:T(8,128)} slice(%pad.3), slice={[0:8], [0:100]}
}
"""  # noqa: E501

K = 4096  # bytes of f32[8,128]


def test_a_program():
    code = {'add_fusion': Code(10, 100, 1), 'pad.3': Code(50, 7, 5)}
    ops = {op.name: op for op in read_program(HLO, code, ['conv1', 'norm1', 'pool1'])}
    assert list(ops) == ['add_fusion', 'fusion.2', 'pad.3', 'all-reduce.4', 'slice.9']
    # Named by what is fused in it; 2 x 3 turns of its loop.
    assert ops['add_fusion'] == Op('add_fusion', 'norm1', False, 2 * K, 500, 10 + 600, 0)
    # One operand and one result are in other memories.
    assert ops['fusion.2'] == Op('fusion.2', 'conv1', True, 2 * K, 1000, 0, 0)
    assert ops['pad.3'] == Op('pad.3', 'pool1', True, 3 * K, 0, 50 + 35, 0)
    # Padded in memory, not on the way to the other chip.
    assert ops['all-reduce.4'] == Op('all-reduce.4', OTHER, False, 2 * K, 0, 0, 8 * 100 * 4)


def test_two_cores_share_the_iterations():
    split = HLO.replace(
        '"iteration_bounds":["2","3"]',
        '"iteration_bounds":["2","3"],"megacore_config":{"megacore_split_dim":"1"}',
    )
    first = read_program(split, {'add_fusion': Code(10, 100, 1)}, ['norm1'])[0]
    assert first.code_cycles == (10 + 600) / 2


def test_both_estimates():
    fast, slow = Op('a', 'x', False, 600.0, 50, 40, 0), Op('b', 'x', False, 100.0, 0, 80, 0)
    # 100 bytes and 10 cycles a second: 600 bytes take 6 s and 40 cycles 4 s; the compiler says 5 s.
    assert fast.modeled_seconds(100, 10) == 6
    assert fast.estimated_seconds(100, 10) == 5
    assert slow.modeled_seconds(100, 10) == 8
    assert slow.estimated_seconds(100, 10) == 8  # the compiler says nothing


CODE = """\
= control target key start
LB: loop body
= control target key end

     0   :  { %6 = vsyncpa [#allocation3], 0  ;;  %s1_s0 = inlined_call_operand.hbm [shape: f32[24]] } /* entry */
   0x1   :  { %s14_s17 = sshll.u32 %s161679_s2, 4 } /* Start region 2 */
   0x2 LB: > { %s45_s30 = sadd.s32 1, %s167694_s26 }
   0x3   : > { %167386 = dma.hbm_to_vmem [thread:$0]  (%p167387_p1), /*hbm=*/%s268_s20 /*
base_bounds: (128, 32)
window_bounds: (64, 4)
iteration_bounds: (8, 2, 1)
strides: (64, 4) */ } /* End region 34 */
   0x4   : > { %281 = sbr.rel (%p278_p5) target = $region37 }
   0x5 PF: > {}
 0x1f6 LB: >> { %1 = vld [vmem:[%s4 + $0x4] sm:$0x3] }
 0x1f7   : > > { %2 = vld [vmem:[%s4 + $0x4] sm:$0x3] }
 0x1f8   :  { %3 = vsyncpa [#allocation5], 0 }
"""  # noqa: E501


def test_bundles(tmp_path):
    expected = Code(once=3, repeated=6, trips=16)
    assert count_bundles(CODE.splitlines(keepends=True)) == expected
    assert (expected.cycles(1), expected.cycles(20)) == (3 + 6 * 16, 3 + 6 * 20)
    (tmp_path / '1795643241168580098-fusion.303-01-final_bundles.txt').write_text(CODE)
    (tmp_path / '1795643241168580098-all-reduce.4-02-final_bundles.txt').write_text('')
    (tmp_path / '1795643241168580098-TLP-hlo.txt').write_text(HLO)
    schedule = '1795643241168580098-fusion.303-00-schedule-analysis_final_bundles.txt'
    (tmp_path / schedule).write_text('Schedule analysis:\n')
    assert read_code(tmp_path) == {'fusion.303': expected, 'all-reduce.4': Code(0, 0, 1)}


def test_summary():
    """On a v5e: 819 GB take a second, and so do 1.5e9 cycles."""
    ops = [
        Op('a', 'conv1', False, 819e9, 3e9, 0, 0),  # 1 and 2 s
        Op('b', 'conv1', True, 0, 0, 3e9, 0),  # 2 and 2 s
        Op('c', OTHER, False, 819e9, 1.5e9, 0, 5e6),  # 1 and 1 s
    ]
    found = summarize(ops, CHIPS['v5e'], examples=400, flops=0.4 * 197e12)  # 0.4 s at the peak
    assert found['hbm_bytes'] == 2 * 819e9
    assert found['sent_bytes'] == 5e6
    for name, seconds in (('model', 4), ('compiler', 5)):
        estimate = found[name]
        assert estimate['seconds'] == pytest.approx(seconds)
        assert estimate['images_per_second_per_chip'] == pytest.approx(400 / seconds)
        assert estimate['utilization'] == pytest.approx(0.4 / seconds)
    assert found['layers'] == {
        'conv1': {'model': [1, 2], 'compiler': [2, 2]},
        OTHER: {'model': [1, 0], 'compiler': [1, 0]},
    }


@pytest.mark.parametrize('topology', ['k80:4', 'v5e', 'v5e:', 'h100:', ':2x2', ''])
def test_only_known_chips_with_a_layout(topology):
    with pytest.raises(BadInput, match='v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, a100:1 to 8'):
        find_chip(topology)
    assert find_chip('v6e:2x4') is CHIPS['v6e']
