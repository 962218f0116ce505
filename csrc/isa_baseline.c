#define FC_TABLE fc_kernels_baseline
#define FC_ISA_NAME "baseline"
#include "kernels.inc"
