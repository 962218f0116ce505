#define FC_TABLE fc_kernels_avx2
#define FC_ISA_NAME "avx2"
#include "kernels.inc"
