#ifdef FC_EMULATED_AVX512 /* see setup.py */
#define FC_EMULATE_VECTORS
#endif
#define FC_TABLE fc_kernels_avx512
#define FC_ISA_NAME "avx512"
#include "kernels.inc"
