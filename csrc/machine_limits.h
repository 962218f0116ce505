/* What this machine can do at most, measured: the kernels behind the limits of the benchmarks. One table per ISA. */
#ifndef FC_MACHINE_LIMITS_H
#define FC_MACHINE_LIMITS_H

#include <stddef.h>

typedef struct {
    /* Multiplies and adds float32 vectors in registers alone, `rounds` times over; returns how many FLOPs that was.
     * `sink` takes a number that depends on all of them, so that nothing can be left out. */
    double (*multiply_add)(ptrdiff_t rounds, float *sink);
    /* Go over memory in whole vectors, `passes` times over. n elements, a multiple of 128; pointers aligned to 64. */
    float (*read)(const float *from, ptrdiff_t n, ptrdiff_t passes);
    void (*write)(float *to, ptrdiff_t n, ptrdiff_t passes);
    void (*copy)(float *to, const float *from, ptrdiff_t n, ptrdiff_t passes);
} fc_limits;

/* NULL where this build or CPU does not have the ISA. */
const fc_limits *fc_find_limits(const char *isa);

#endif
