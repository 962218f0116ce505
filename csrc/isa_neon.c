#define FC_TABLE fc_kernels_neon
#define FC_ISA_NAME "neon"
#include "kernels.inc"
