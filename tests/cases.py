"""The geometries that the tests share: named, fixed, small. A case knows its shapes and makes its own data.

Sizes sit at 1 and around lane multiples (the vectors of this library hold 2 to 16 numbers), so that full vectors, tails
and planes narrower than a vector all occur. The rows named ``suite_*`` are real layers, scaled down.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.backends import reference
from fastconv.geometry import Geometry, conv_geometry, transposed_geometry


@dataclass(frozen=True)
class Case:
    """One convolution, in the words of the public functions."""

    name: str
    size: tuple[int, ...]
    c_in: int = 1
    c_out: int = 1
    k: tuple[int, ...] = (3,)
    n: int = 1
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.k * self.axes if len(self.k) == 1 else self.k

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.n, self.c_in, *self.size)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.c_out, self.c_in // self.groups, *self.kernel)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @functools.cached_property
    def geometry(self) -> Geometry:
        return conv_geometry(self.axes, self.x_shape, self.w_shape, **self.arguments)[0]

    @property
    def y_shape(self) -> tuple[int, ...]:
        g = self.geometry
        return (g.N, g.K, *g.y_shape[-self.axes :])

    def __str__(self) -> str:
        return self.name


def c(name: str, size: Any, c_in: int = 1, c_out: int = 1, k: Any = 3, **more: Any) -> Case:
    size = size if isinstance(size, tuple) else (size,)
    return Case(name, size, c_in, c_out, k if isinstance(k, tuple) else (k,), **more)


LANES = (1, 7, 8, 9, 15, 16, 17, 31, 33)

# Output widths and channel counts around every vector length.
LANE_CASES = [
    *(c(f"width_{q}", q + 2, 2, 3, 3) for q in LANES),
    *(c(f"plane_width_{q}", (4, q), 2, 3, 3, padding=1) for q in LANES),
    *(c(f"out_channels_{k}", 9, 3, k, 3, n=2) for k in (7, 8, 9, 15, 16, 17, 33)),
    *(c(f"in_channels_{k}", (5, 6), k, 4, 3) for k in (7, 8, 16, 17, 33)),
    *(c(f"batch_{n}", (6, 5), 2, 3, 3, n=n) for n in (2, 8, 15, 16, 17, 33)),
    *(c(f"pointwise_{q}", (3, q), 17, 9, 1, n=2) for q in (1, 5, 16, 33)),
    *(c(f"depthwise_{k}", (7, 9), k, k, 3, padding=1, groups=k) for k in (1, 7, 8, 17, 33)),
]

SHAPE_CASES_1D = [
    c("one_number", 1, 1, 1, 1),
    c("kernel_is_input", 5, 2, 3, 5),
    c("kernel_is_padded_input", 5, 2, 3, 9, padding=2),
    c("padding_beyond_kernel", 4, 2, 2, 2, padding=5),
    c("padding_beyond_kernel_strided", 4, 2, 2, 2, padding=5, stride=3),
    c("even_kernel", 20, 3, 4, 4, padding=2),
    c("even_kernel_same", 21, 3, 4, 4, padding="same"),
    c("dilated_same", 21, 3, 4, 4, padding="same", dilation=3),
    c("before_only", 10, 2, 3, 3, padding=((2, 0),)),
    c("after_only", 10, 2, 3, 3, padding=((0, 5),)),
    c("asymmetric_strided", 19, 2, 3, 4, padding=((3, 1),), stride=2),
    *(c(f"stride_{s}", 41, 3, 5, 4, n=2, stride=s, padding=1) for s in (2, 3, 4, 5)),
    c("stride_beyond_kernel", 40, 2, 3, 2, stride=5),
    c("stride_beyond_input", 6, 2, 3, 2, stride=40),
    c("stride_leaves_a_rest", 24, 2, 3, 3, stride=5),
    *(c(f"dilation_{d}", 40, 3, 4, 3, n=2, dilation=d, padding=d) for d in (2, 3, 7)),
    c("dilation_and_stride", 50, 3, 4, 4, dilation=3, stride=2, padding=4),
    c("stride_shares_factor_with_dilation", 50, 3, 4, 3, dilation=4, stride=6, padding=3),
    c("pointwise_1d", 33, 9, 17, 1, n=2),
    c("pointwise_1d_strided", 33, 9, 17, 1, n=2, stride=3),
    *(c(f"pointwise_to_{k}", 200, 19, k, 1, n=2) for k in (1, 2, 3, 4, 7)),
    c("pointwise_from_2", 1100, 2, 21, 1, n=2),
    c("pointwise_groups_of_few", (7, 19), 40, 6, 1, n=2, groups=2),
    c("pointwise_1d_padded", 33, 3, 4, 1, padding=2),
    c("long_filter", 90, 1, 1, 47, padding=23),
    c("long_filter_even", 200, 2, 2, 64),
    c("longer_filter_than_vector_rows", 300, 1, 3, 129, padding=64),
    c("depthwise_long", 64, 6, 6, 31, padding=15, groups=6),
    c("depthwise_rows_past_their_ends", 1300, 1, 2, 5, padding=2, dilation=150),
    *(c(f"depthwise_row_{q}", q, 2, 2, 4, padding=3, groups=2, n=2) for q in (23, 61, 133)),
    c("depthwise_strided", 37, 5, 5, 4, stride=2, groups=5, padding=1),
    c("depthwise_multiplier", 21, 4, 12, 3, groups=4),
    c("groups_2", 30, 8, 6, 3, groups=2, n=2, padding=1),
    c("groups_3_one_in", 30, 3, 9, 5, groups=3, stride=2),
    c("groups_one_out", 30, 12, 3, 5, groups=3, stride=2),
    c("long_reduction", 17, 64, 5, 9, n=2, padding=4),
    c("images_that_follow_each_other", 56, 2, 1, 31, n=4, padding=30, dilation=2),
    c("signal_to_many", 5000, 1, 13, 16, n=2, stride=8, padding=5),
    c("signal_groups_dilated", 277, 4, 14, 5, padding=8, dilation=4, groups=2),
    c("signal_strides_not_of_the_dilation", 790, 2, 5, 4, padding=3, stride=3, dilation=2),
    *(c(f"depthwise_row_weight_{k}", 1200 + k, 2, 4, k, padding=k - 1, dilation=2, groups=2) for k in (5, 6, 19)),
    c("many_outputs", 700, 2, 3, 3, padding=1),
    c("weight_gradient_boxes_of_a_row", 520, 5, 25, 3, padding=1),
    c("weight_gradient_box_halves", 203, 33, 24, 1, stride=2),
    c("weight_gradient_taps_in_lanes", 900, 1, 13, 20, n=2, stride=3, padding=4),
    c("weight_gradient_inputs_in_lanes", 300, 21, 2, 4, n=2, stride=2, dilation=3, padding=5),
    *(c(f"winograd_row_{k}", 19 + k, 9, 17, k, n=2, padding=k // 2) for k in (2, 3, 4, 5, 6, 7)),
    c("winograd_row_blocks", 1700, 8, 17, 3),
    c("winograd_row_sum_in_parts", 400, 263, 8, 3, padding=1),
    c("winograd_row_dilated", 61, 9, 8, 3, n=2, padding=3, dilation=5),
    c("winograd_row_far_dilated", 300, 8, 9, 5, padding=100, dilation=64),
    c("winograd_row_groups", 40, 18, 20, 3, padding=1, groups=2),
    c("winograd_row_stride_2", 131, 17, 9, 3, n=2, stride=2),
    c("winograd_row_stride_2_blocks", 3700, 8, 17, 3, stride=2, padding=1),
]

SHAPE_CASES_2D = [
    c("one_pixel", (1, 1), 1, 1, 1),
    c("matrix_times_vectors", (1, 1), 37, 13, 1, n=3),
    c("matrix_times_vectors_in_groups", (1, 1), 70, 6, 1, n=2, groups=2),
    c("matrix_times_long_vectors", (1, 1), 1037, 9, 1, n=4),
    c("one_pixel_padded", (1, 1), 3, 5, 3, padding=1),
    c("kernel_is_plane", (5, 4), 3, 6, (5, 4), n=2),
    c("kernel_is_plane_in_groups", (3, 4), 6, 4, (3, 4), n=3, groups=2),
    c("kernel_is_plane_dilated", (5, 7), 2, 3, 3, n=2, dilation=(2, 3)),
    c("kernel_as_high_as_the_image", (5, 40), 3, 8, (5, 3), n=2, stride=(3, 2), padding=(0, 1)),
    c("kernel_as_wide_as_the_image", (40, 5), 3, 8, (3, 5), n=2, stride=(2, 3), padding=(1, 0)),
    c("kernel_is_padded_plane", (4, 3), 2, 3, (8, 7), padding=2),
    c("plane_padding_beyond_kernel", (3, 4), 2, 3, 2, padding=4),
    c("row_kernel", (6, 19), 3, 4, (1, 7), padding=(0, 3)),
    c("column_kernel", (19, 6), 3, 4, (7, 1), padding=(3, 0)),
    c("column_kernel_strided", (19, 7), 3, 4, (5, 1), stride=(2, 1)),
    c("even_plane_kernel", (9, 10), 3, 4, 4, padding=2),
    c("even_plane_same", (9, 10), 3, 4, (2, 4), padding="same"),
    c("same_dilated", (9, 10), 3, 4, (3, 2), padding="same", dilation=(2, 3)),
    c("asymmetric_plane", (9, 10), 2, 3, 3, padding=((0, 2), (3, 1))),
    c("asymmetric_plane_strided", (9, 10), 2, 3, 3, padding=((2, 0), (0, 3)), stride=(2, 3)),
    *(c(f"plane_stride_{s}", (17, 19), 3, 5, 3, stride=s, padding=1) for s in (2, 3, 4, 5)),
    c("plane_strides_differ", (17, 33), 3, 5, (4, 3), stride=(3, 1), padding=(1, 2), n=2),
    c("plane_strides_differ_the_other_way", (17, 33), 3, 5, (4, 3), stride=(1, 4), padding=(1, 2)),
    c("plane_stride_beyond_kernel", (16, 23), 2, 3, 2, stride=5, padding=1),
    *(c(f"plane_dilation_{d}", (15, 18), 3, 4, 3, dilation=d, padding=d) for d in (2, 3, 5)),
    c("dilations_differ", (15, 40), 2, 3, (2, 3), dilation=(4, 7), stride=(2, 3), padding=(1, 5)),
    c("kernel_5", (14, 14), 2, 7, 5, n=3, padding=2),
    c("kernel_7_strided", (23, 25), 3, 10, 7, stride=2, padding=3),
    c("kernel_11", (13, 13), 1, 2, 11, padding=5),
    c("depthwise_5", (12, 13), 6, 6, 5, padding=2, groups=6, n=2),
    c("depthwise_7x7", (14, 31), 3, 3, 7, padding=3, groups=3),
    c("depthwise_plane_strided", (14, 36), 6, 6, 3, padding=1, groups=6, stride=2),
    c("depthwise_small_plane_strided", (15, 15), 6, 6, 3, padding=1, groups=6, stride=2),
    c("depthwise_dilated", (15, 15), 6, 6, 3, padding=2, groups=6, dilation=2),
    c("depthwise_plane_multiplier", (8, 9), 3, 9, 3, padding=1, groups=3),
    c("depthwise_plane_sums", (14, 21), 2, 74, 3, padding=1, groups=2, n=2),
    c("depthwise_plane_sums_cropped", (9, 17), 1, 6, 3, padding=(2, 0)),
    c("depthwise_strided_multiplier", (16, 35), 2, 4, 5, padding=2, groups=2, stride=2),
    *(c(f"depthwise_rows_{p}", (p, 10), 2, 2, 3, padding=1, groups=2) for p in (1, 2, 3, 8, 13)),
    *(c(f"depthwise_kernel_{r}", (11, 18), 2, 2, (r, 3), padding=1, groups=2) for r in (2, 4, 6)),
    *(c(f"depthwise_halves_{p}", (9, 30 + p), 2, 2, 3, padding=p, stride=2, groups=2) for p in (0, 1, 2)),
    c("depthwise_7_strided", (21, 40), 1, 1, 7, padding=3, stride=2, n=2),
    c("depthwise_blocks_of_rows", (70, 130), 1, 1, 3, padding=1),
    c("depthwise_blocks_of_columns", (4, 1100), 1, 1, 3, padding=1),
    *(c(f"depthwise_in_place_{p}", (23, 37), 3, 3, 3, padding=p, groups=3, n=2) for p in (0, 1, 2)),
    *(c(f"depthwise_in_place_sums_{p}", (13, 37), 2, 40, 3, padding=p, groups=2, n=2) for p in (0, 1, 2)),
    c("depthwise_in_place_sums_of_few_rows", (3, 17), 1, 14, 3, padding=1),
    c("depthwise_in_place_sides_differ", (5, 18), 2, 2, 3, padding=((2, 0), (0, 2)), groups=2),
    *(c(f"depthwise_vectors_{q}", (11, q), 2, 2, k, padding=k // 2, groups=2) for q, k in ((20, 5), (44, 7), (9, 7))),
    c("depthwise_rows_dilated", (23, 20), 2, 2, 3, padding=4, dilation=(4, 3), groups=2),
    c("groups_plane", (9, 9), 8, 12, 3, groups=4, n=2, padding=1),
    c("groups_plane_strided", (9, 11), 6, 4, (3, 2), groups=2, n=2, stride=2),
    c("winograd_size", (18, 19), 16, 18, 3, padding=1),
    c("winograd_batch", (8, 9), 17, 16, 3, padding=1, n=5),
    c("batch_strided", (9, 11), 3, 5, 3, n=19, stride=2, padding=1),
    c("batch_groups_dilated", (10, 9), 4, 6, (3, 2), n=17, groups=2, dilation=(2, 3), padding=(3, 1)),
    c("batch_rows_and_columns_left_out", (10, 13), 5, 3, 7, n=16),
    c("batch_padding_beyond_kernel", (3, 4), 2, 3, 2, n=16, padding=4),
    c("batch_taps_in_parts", (4, 5), 37, 11, 2, n=33, padding=1),
    c("weight_gradient_boxes_of_rows", (23, 25), 8, 17, 3, padding=1),
    c("weight_gradient_boxes_of_images", (7, 7), 12, 33, 3, n=11, padding=1),
    c("weight_gradient_images_halved", (9, 8), 7, 16, 2, n=4),
    c("weight_gradient_inputs_plane", (19, 18), 17, 3, 3, n=2, padding=1),
    c("weight_gradient_grouped", (17, 16), 24, 60, 3, padding=1, groups=3),
    c("winograd_blocks", (38, 37), 9, 17, 3, padding=1),
    c("winograd_dilated", (21, 13), 9, 8, 3, padding=(3, 2), dilation=(3, 2), n=2),
    c("winograd_5x5", (11, 10), 9, 10, 5, padding=2, n=2),
    c("winograd_row_of_a_plane", (5, 19), 8, 9, (1, 7), padding=(1, 3)),
    c("winograd_stride_2", (17, 22), 17, 18, 3, n=2, stride=2, padding=1),
    c("winograd_stride_2_groups", (13, 10), 18, 16, 3, stride=2, padding=((0, 1), (1, 2)), groups=2),
    c("winograd_stride_2_blocks", (75, 70), 9, 17, 3, stride=2, padding=(1, 0)),
    c("tall_and_narrow", (40, 1), 2, 3, (3, 1), padding=(1, 0)),
    c("tall_and_narrow_3x3", (40, 2), 2, 3, 3, padding=1),
    c("one_wide_row", (1, 70), 2, 3, (1, 5)),
]

# Around the edges of the blocks in which the dense kernels work: steps of a sum, rows and vectors of a tile, pixels of
# a block, parts of the channels, phases of a stride.
BLOCK_CASES = [
    c("sums_of_one_block", (3, 5), 128, 7, 1),
    c("sums_of_two_blocks", (13, 15), 193, 13, 1),
    c("channels_in_parts", (3, 3), 200, 181, 1, n=2),
    c("planes_across_vectors", (6, 7), 22, 13, 3, n=5, padding=1),
    c("pixels_of_several_blocks", (40, 41), 9, 8, 1, n=2),
    c("padded_pixels_of_several_blocks", (34, 33), 8, 9, 3, padding=1),
    c("rows_of_whole_panels", (6, 48), 5, 9, 3, padding=1),
    c("deep_phases", (9, 11), 20, 67, 3, stride=2, padding=1, n=2),
    c("deep_phases_without_taps", 29, 9, 150, 2, stride=3, n=2),
    c("wide_stride_2", (7, 90), 8, 9, 5, stride=2, padding=2),
    c("wide_stride_2_dilated", (7, 90), 8, 9, 3, stride=2, padding=2, dilation=2),
    c("wide_stride_3", 210, 9, 10, 9, stride=3, padding=4),
    c("wide_stride_5_dilated", 290, 8, 9, 4, stride=5, padding=2, dilation=2),
    c("patches", (16, 68), 3, 9, 4, stride=4),
    c("columns_of_a_signal", 4500, 1, 70, 16, n=2, stride=8, padding=5),
    c("columns_dilated", 300, 2, 50, 3, stride=3, padding=4, dilation=2),
    c("columns_of_pairs", (33, 41), 3, 67, 7, stride=2, padding=3),
    c("columns_of_fours", (45, 50), 4, 96, 6, stride=4, padding=(1, 7), groups=2),
    c("columns_side_by_side", (9, 40), 1, 33, 3, padding=((0, 2), (2, 0))),
]

# The benchmark suite's layers with smaller planes, channels and batches, and everything else as it is there.
SUITE_CASES = [
    c("suite_resnet_stem", (23, 23), 3, 16, 7, stride=2, padding=3),
    c("suite_vgg_conv1_1", (18, 18), 3, 16, 3, padding=1),
    c("suite_resnet_56", (14, 14), 16, 16, 3, padding=1),
    c("suite_resnet_7", (7, 7), 40, 33, 3, padding=1),
    c("suite_resnet_56_s2", (14, 14), 16, 24, 3, stride=2, padding=1),
    c("suite_cifar_resnet", (16, 16), 16, 16, 3, n=4, padding=1),
    c("suite_deeplab_d2", (14, 14), 16, 16, 3, padding=2, dilation=2),
    c("suite_inception_1x7", (17, 17), 8, 12, (1, 7), padding=(0, 3)),
    c("suite_swin_patch4", (24, 24), 3, 12, 4, stride=4),
    c("suite_pw_56_256_64", (12, 12), 32, 16, 1),
    c("suite_pw_28_s2", (14, 14), 24, 32, 1, stride=2),
    c("suite_seed_conv1", (28, 28), 1, 5, 4, n=5, stride=2, padding=1),
    c("suite_seed_conv2", (14, 14), 5, 10, 4, n=5, stride=2, padding=1),
    c("suite_lenet_c1", (28, 28), 1, 6, 5, n=3, padding=2),
    c("suite_lenet_c3", (14, 14), 6, 16, 5, n=3),
    c("suite_mnist_3x3_1", (28, 28), 1, 32, 3, n=2, padding=1),
    c("suite_dw_112_96", (20, 20), 9, 9, 3, padding=1, groups=9),
    c("suite_dw_56_144_s2", (20, 20), 9, 9, 3, stride=2, padding=1, groups=9),
    c("suite_dw7_28_192", (28, 28), 3, 3, 7, n=2, padding=3, groups=3),
    c("suite_resnext_56", (14, 14), 32, 32, 3, padding=1, groups=8),
    c("suite_tcn_64", 100, 16, 16, 3, n=2, padding=1),
    c("suite_wavenet_d64", 400, 8, 8, 2, dilation=64),
    c("suite_whisper_stem1", 100, 20, 24, 3, padding=1),
    c("suite_whisper_stem2", 100, 20, 24, 3, stride=2, padding=1),
    c("suite_ecg_15", 100, 12, 16, 15, n=2, stride=2, padding=7),
    c("suite_mnist1d_l1", 40, 1, 25, 5, n=10, stride=2, padding=1),
    c("suite_mnist1d_l2", 19, 25, 25, 3, n=4, stride=2, padding=1),
    c("suite_fir_255", 1000, 1, 1, 255, padding=127),
    c("suite_filterbank", 300, 1, 8, 101, padding=50),
    c("suite_wav2vec_l0", 500, 1, 16, 10, stride=5),
    c("suite_convtasnet_enc", 200, 1, 16, 16, n=2, stride=8),
    c("suite_stereo_1024", 300, 2, 2, 128, padding=64),
    c("suite_conformer_dw31", 120, 8, 8, 31, padding=15, groups=8),
    c("suite_mamba_dw4", 90, 12, 12, 4, padding=3, groups=12),
    c("suite_hyena_long", 64, 4, 4, 63, padding=62, groups=4),
    c("suite_exercise_1d", 4, 1, 1, 3),
    c("suite_tiny_2d", (4, 4), 1, 1, 3),
]

CASES = [*LANE_CASES, *SHAPE_CASES_1D, *SHAPE_CASES_2D, *BLOCK_CASES, *SUITE_CASES]
BY_NAME = {case.name: case for case in CASES}

# A few of each kind, where every case would be too many.
SOME_CASES = [
    BY_NAME[name]
    for name in [
        "width_9",
        "plane_width_17",
        "out_channels_17",
        "pointwise_16",
        "depthwise_7",
        "kernel_is_padded_input",
        "padding_beyond_kernel",
        "even_kernel_same",
        "asymmetric_strided",
        "stride_3",
        "dilation_and_stride",
        "groups_2",
        "depthwise_multiplier",
        "long_filter",
        "row_kernel",
        "column_kernel_strided",
        "asymmetric_plane_strided",
        "plane_strides_differ",
        "dilations_differ",
        "depthwise_plane_strided",
        "groups_plane_strided",
        "winograd_size",
        "channels_in_parts",
        "deep_phases",
        "patches",
        "suite_seed_conv2",
        "suite_tiny_2d",
    ]
]

# Geometries that no convolution has, only a transposed one: x reaches further than any window (`output_padding`).
TRANSPOSED_GEOMETRIES = {
    "output_padding_1d": transposed_geometry(1, (2, 3, 9), (3, 4, 3), 3, 1, 2),
    "output_padding_beyond_stride": transposed_geometry(1, (2, 3, 9), (3, 4, 3), 2, 1, 4, 1, 5),
    "output_padding_2d": transposed_geometry(2, (2, 4, 5, 6), (4, 3, 3, 4), (2, 3), 1, (1, 2), 2),
    "output_padding_columns": transposed_geometry(1, (2, 33, 40), (33, 1, 6), 9, ((3, 0),), 8),
    "output_padding_stride_2": transposed_geometry(2, (1, 9, 6, 5), (9, 8, 3, 3), 2, (1, 0), 1),
    "output_padding_2d_dilated": transposed_geometry(2, (1, 2, 4, 5), (2, 3, 2, 3), 1, (0, 2), (1, 2), 1, (2, 3)),
    "pointwise_cropped_and_padded": Geometry(1, 9, 1, 50, 2, 1, 1, 1, 50, (1, 1), (0, 1), (1, 1), 1),
    "transposed_cropped": transposed_geometry(1, (1, 2, 7), (2, 3, 5), 2, ((4, 1),), 1),
    "transposed_one_left": transposed_geometry(1, (1, 2, 5), (2, 3, 3), 1, 3),
}

GEOMETRIES = {**{case.name: case.geometry for case in CASES}, **TRANSPOSED_GEOMETRIES}


# ---- data


def seed(*parts: Any) -> np.random.Generator:
    """A generator whose stream depends on `parts` alone, in every process."""
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


def integers(shape: tuple[int, ...], dtype: Any, *parts: Any) -> np.ndarray:
    """Small integers, so that every order of summation gives the same bits."""
    return seed("integers", *parts).integers(-4, 5, shape).astype(dtype)


def normal(shape: tuple[int, ...], dtype: Any, *parts: Any) -> np.ndarray:
    return seed("normal", *parts).standard_normal(shape).astype(dtype)


def terms(operation: str, g: Geometry) -> int:
    """The longest sum that one result of the operation can be."""
    if operation == "forward":
        return (g.C // g.groups) * g.R * g.S + 1
    if operation == "backward_input":
        return (g.K // g.groups) * g.R * g.S + 1
    return g.N * g.P * g.Q


def bound(operation: str, g: Geometry, dtype: Any, magnitude: np.ndarray) -> np.ndarray:
    """The most that any order of summation may err by, each result for itself.

    `magnitude` is the operation on absolute values: n roundings of unit u err by at most n u / (1 - n u) of it (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), n being one more than the number of terms.
    """
    n_u = (terms(operation, g) + 1) * float(np.finfo(dtype).eps) / 2
    return n_u / (1 - n_u) * magnitude + float(np.finfo(dtype).tiny)


def operands(operation: str) -> tuple[str, str]:
    return {"forward": ("x", "w"), "backward_input": ("y", "w"), "backward_weight": ("x", "y")}[operation]


def target(operation: str) -> str:
    return {"forward": "y", "backward_input": "x", "backward_weight": "w"}[operation]


def shape_of(letter: str, g: Geometry) -> tuple[int, ...]:
    return {"x": g.x_shape, "w": g.w_shape, "y": g.y_shape}[letter]


def by_definition(
    operation: str, g: Geometry, arrays: dict[str, np.ndarray], bias: np.ndarray | None = None
) -> np.ndarray:
    """The operation's result from the reference's formulas, in float64. `arrays` maps x, w, y to 4-D arrays."""
    wide = {letter: np.asarray(arrays[letter], np.float64) for letter in operands(operation)}
    if operation == "forward":
        return reference.forward(g, wide["x"], wide["w"], bias)
    if operation == "backward_input":
        return reference.backward_input(g, wide["y"], wide["w"])
    return reference.backward_weight(g, wide["x"], wide["y"])


def macs(g: Geometry) -> int:
    return g.N * g.K * g.P * g.Q * (g.C // g.groups) * math.prod((g.R, g.S))
