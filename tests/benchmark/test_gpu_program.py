"""A program compiled for a GPU: a small one, written as XLA writes it, read by hand."""

import pytest

from alexnet_jax.benchmark.chips import CHIPS
from alexnet_jax.benchmark.gpu_program import read_gpu_program
from alexnet_jax.benchmark.plan import summarize
from alexnet_jax.benchmark.tpu_program import OTHER
from alexnet_jax.errors import RunError

# A convolution forward (with its bias), its two gradients, and a ReLU.
HLO = """\
HloModule jit__fun, is_scheduled=true

ENTRY %main.58_spmd (param.1: bf16[8,55,55,96], param.2: bf16[96,5,5,3]) -> bf16[8,55,55,96] {
  %param.1 = bf16[8,55,55,96]{3,2,1,0} parameter(0)
  %param.2 = bf16[96,5,5,3]{3,2,1,0} parameter(1)
  %cudnn-conv-bias-activation.15 = (bf16[8,55,55,96]{3,2,1,0}, u8[0]{0}) custom-call(%param.1, %param.2), window={size=5x5 pad=2_2x2_2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward", metadata={op_name="jit(_fun)/shard_map/jvp(AlexNet)/conv2/AlexNet._conv/conv2/conv_general_dilated"}
  %get-tuple-element.1 = bf16[8,55,55,96]{3,2,1,0} get-tuple-element(%cudnn-conv-bias-activation.15), index=0
  %loop_maximum_fusion = bf16[8,55,55,96]{3,2,1,0} fusion(%get-tuple-element.1), kind=kLoop, calls=%fused_maximum, metadata={op_name="jit(_fun)/shard_map/jvp(AlexNet)/relu2/jit(relu)/max"}
  %cudnn-conv-bw-filter.9 = (bf16[96,5,5,3]{3,2,1,0}, u8[0]{0}) custom-call(%param.1, %loop_maximum_fusion), custom_call_target="__cudnn$convBackwardFilter", metadata={op_name="jit(_fun)/shard_map/transpose(jvp(AlexNet))/conv2/AlexNet._conv/conv2/conv_general_dilated"}
  ROOT %cudnn-conv-bw-input.4 = (bf16[8,55,55,96]{3,2,1,0}, u8[0]{0}) custom-call(%loop_maximum_fusion, %param.2), custom_call_target="__cudnn$convBackwardInput", metadata={op_name="jit(_fun)/shard_map/transpose(jvp(AlexNet))/conv2/AlexNet._conv/conv2/conv_general_dilated"}
}
"""  # noqa: E501
IMAGES, KERNEL = 8 * 55 * 55 * 96 * 2, 96 * 5 * 5 * 3 * 2  # bytes
LAYERS = ('conv2', 'relu2')


def test_a_program():
    h100 = CHIPS['h100']
    flops = {('conv2', False): int(100e12), ('conv2', True): int(200e12)}
    ops = read_gpu_program(HLO, LAYERS, flops, h100, peak=100e12)
    assert [(op.layer, op.backward) for op in ops] == [
        ('conv2', False), ('relu2', False), ('conv2', True), ('conv2', True)
    ]  # fmt: skip
    assert [op.hbm_bytes for op in ops] == [
        2 * IMAGES + KERNEL, 2 * IMAGES, 2 * IMAGES + KERNEL, 2 * IMAGES + KERNEL
    ]  # fmt: skip
    # Each product takes a second, and the ReLU the time of its bytes.
    seconds = [op.modeled_seconds(h100.bandwidth, h100.clock) for op in ops]
    assert seconds == pytest.approx([1, 2 * IMAGES / 3350e9, 1, 1])
    found = summarize(ops, h100, examples=6, flops=300e12)
    assert 'compiler' not in found
    assert found['model']['images_per_second_per_chip'] == pytest.approx(2, rel=1e-3)
    assert found['layers']['conv2']['model'] == pytest.approx([1, 2])
    assert OTHER not in found['layers']


def test_bytes_count_where_they_take_longer():
    h100 = CHIPS['h100']
    flops = {('conv2', False): 10, ('conv2', True): 20}
    first = read_gpu_program(HLO, LAYERS, flops, h100, peak=100e12)[0]
    expected = (2 * IMAGES + KERNEL) / 3350e9
    assert first.modeled_seconds(h100.bandwidth, h100.clock) == pytest.approx(expected)


def test_a_product_that_is_not_found():
    flops = {('conv2', False): 10, ('fc6', True): 20, ('fc7', True): 0}
    with pytest.raises(RunError, match=r'fc6 \(backward\)'):
        read_gpu_program(HLO, (*LAYERS, 'fc6', 'fc7'), flops, CHIPS['h100'], peak=1e12)
