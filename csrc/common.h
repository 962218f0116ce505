/* What the families share and no element type enters: sizes, limits, and the answers that several of them give. */
#ifndef FC_COMMON_H
#define FC_COMMON_H

/* Multiply-adds from which packing and vectors pay: measured at 250 to 400 on AVX-512 and AVX2. */
#define FC_SMALL_FORWARD 300
#define FC_SMALL_BACKWARD 350

#include "fastconv.h"
#include "fpmode.h"

#include <string.h>

static inline double fc_multiply_adds(const fc_geometry *g) { /* a double, as it may pass 2^63 */
    return (double)g->N * (double)g->K * (double)g->P * (double)g->Q * (double)(g->C / g->groups) * (double)g->R *
           (double)g->S;
}

static inline ptrdiff_t fc_share(ptrdiff_t channels, ptrdiff_t groups) { /* a division costs a tenth of a tiny call */
    return groups == 1 ? channels : channels / groups;
}

static inline const char *fc_always(const fc_geometry *g) {
    (void)g;
    return NULL;
}

static inline const char *fc_never_unwise(const fc_geometry *g, int threads) {
    (void)g, (void)threads;
    return NULL;
}

static inline size_t fc_no_workspace(const fc_geometry *g, int threads) {
    (void)g, (void)threads;
    return 0;
}

/* Threads that a call is worth: below some 20 microseconds of work the hand-over costs more than it saves. */
static inline int fc_worthwhile_threads(const fc_geometry *g, int threads) {
    return threads < 1 || fc_multiply_adds(g) < 6e5 ? 1 : threads;
}

#endif
