"""The bits of the kernels' `flags`: one place, for the kernels and for those who call them without importing numba."""

STRICT, GUARDED, BIAS_PER_CHANNEL, BIAS_PER_POSITION = 1, 2, 4, 8
SECOND_STAGE = 2  # winograd's, which has no GUARDED
