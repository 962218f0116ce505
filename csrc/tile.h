/* Register tiles: CB channels x VB vectors of pixels in accumulators, one step per tap.
 *
 *     out[c][v] (+)= sum over t of  w[c * w_step + t] * x[offset[t] + v * LANES ...]
 *
 * A tap is any source of pixels at a fixed distance: a kernel element, a stride phase, an input channel. So one loop
 * serves 1-D and 2-D, every stride, dilation and grouping. The tile shapes are those that fill the register file:
 * CB * VB accumulators plus min(CB, VB) held operands plus one in flight. VB loads (most of them across a cache line,
 * so two accesses each) and CB broadcasts feed CB * VB multiply-adds; 5x5 is the most even. */

#ifndef FC_TILES
#if FC_REGISTERS == 32
#define FC_MAX_CB 8
#define FC_MAX_VB 16
#define FC_MAX_TILE 25
#define FC_TILES {16, 10, 8, 6, 5, 4, 3, 3} /* most vectors for 1, 2, ... channels */
#else
#define FC_MAX_CB 6
#define FC_MAX_VB 10
#define FC_MAX_TILE 12
#define FC_TILES {10, 6, 4, 3, 2, 2}
#endif
#endif

/* VB and CB are literals at every call, and the body is inlined: the arrays become registers. */
FC_INLINE void FC(tile)(const int CB, const int VB, const real *x, const ptrdiff_t *offset, const real *w,
                        ptrdiff_t w_step, ptrdiff_t taps, real *out, int add) {
    vec sum[FC_MAX_CB][FC_MAX_VB];
    FC_UNROLL for (int c = 0; c < CB; c++)
        FC_UNROLL for (int v = 0; v < VB; v++) sum[c][v] = (vec){0};
    for (ptrdiff_t t = 0; t < taps; t++, w++) {
        const real *at = x + offset[t];
        vec held[FC_MAX_VB];
        if (CB <= VB) { /* hold the weights, stream the pixels */
            FC_UNROLL for (int c = 0; c < CB; c++) held[c] = FC(splat)(w[c * w_step]);
            FC_UNROLL for (int v = 0; v < VB; v++) {
                const vec pixels = FC(load)(at + v * LANES);
                FC_UNROLL for (int c = 0; c < CB; c++) sum[c][v] += held[c] * pixels;
            }
        } else {
            FC_UNROLL for (int v = 0; v < VB; v++) held[v] = FC(load)(at + v * LANES);
            FC_UNROLL for (int c = 0; c < CB; c++) {
                const vec weight = FC(splat)(w[c * w_step]);
                FC_UNROLL for (int v = 0; v < VB; v++) sum[c][v] += weight * held[v];
            }
        }
    }
    FC_UNROLL for (int c = 0; c < CB; c++)
        FC_UNROLL for (int v = 0; v < VB; v++) {
            real *to = out + (c * VB + v) * LANES;
            FC(store)(to, add ? FC(load)(to) + sum[c][v] : sum[c][v]);
        }
}

/* One function per CB, a case per VB: literal sizes, so that nothing but registers is left of the arrays. */
static void FC(tiles_1)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(1, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(1, 2, x, o, w, step, n, out, add); break;
    case 3: FC(tile)(1, 3, x, o, w, step, n, out, add); break;
    case 4: FC(tile)(1, 4, x, o, w, step, n, out, add); break;
    case 5: FC(tile)(1, 5, x, o, w, step, n, out, add); break;
    case 6: FC(tile)(1, 6, x, o, w, step, n, out, add); break;
    case 7: FC(tile)(1, 7, x, o, w, step, n, out, add); break;
    case 8: FC(tile)(1, 8, x, o, w, step, n, out, add); break;
    case 9: FC(tile)(1, 9, x, o, w, step, n, out, add); break;
    case 10: FC(tile)(1, 10, x, o, w, step, n, out, add); break;
#if FC_REGISTERS == 32
    case 11: FC(tile)(1, 11, x, o, w, step, n, out, add); break;
    case 12: FC(tile)(1, 12, x, o, w, step, n, out, add); break;
    case 13: FC(tile)(1, 13, x, o, w, step, n, out, add); break;
    case 14: FC(tile)(1, 14, x, o, w, step, n, out, add); break;
    case 15: FC(tile)(1, 15, x, o, w, step, n, out, add); break;
    case 16: FC(tile)(1, 16, x, o, w, step, n, out, add); break;
#endif
    }
}

static void FC(tiles_2)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(2, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(2, 2, x, o, w, step, n, out, add); break;
    case 3: FC(tile)(2, 3, x, o, w, step, n, out, add); break;
    case 4: FC(tile)(2, 4, x, o, w, step, n, out, add); break;
    case 5: FC(tile)(2, 5, x, o, w, step, n, out, add); break;
    case 6: FC(tile)(2, 6, x, o, w, step, n, out, add); break;
#if FC_REGISTERS == 32
    case 7: FC(tile)(2, 7, x, o, w, step, n, out, add); break;
    case 8: FC(tile)(2, 8, x, o, w, step, n, out, add); break;
    case 9: FC(tile)(2, 9, x, o, w, step, n, out, add); break;
    case 10: FC(tile)(2, 10, x, o, w, step, n, out, add); break;
#endif
    }
}

static void FC(tiles_3)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(3, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(3, 2, x, o, w, step, n, out, add); break;
    case 3: FC(tile)(3, 3, x, o, w, step, n, out, add); break;
    case 4: FC(tile)(3, 4, x, o, w, step, n, out, add); break;
#if FC_REGISTERS == 32
    case 5: FC(tile)(3, 5, x, o, w, step, n, out, add); break;
    case 6: FC(tile)(3, 6, x, o, w, step, n, out, add); break;
    case 7: FC(tile)(3, 7, x, o, w, step, n, out, add); break;
    case 8: FC(tile)(3, 8, x, o, w, step, n, out, add); break;
#endif
    }
}

static void FC(tiles_4)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(4, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(4, 2, x, o, w, step, n, out, add); break;
    case 3: FC(tile)(4, 3, x, o, w, step, n, out, add); break;
#if FC_REGISTERS == 32
    case 4: FC(tile)(4, 4, x, o, w, step, n, out, add); break;
    case 5: FC(tile)(4, 5, x, o, w, step, n, out, add); break;
    case 6: FC(tile)(4, 6, x, o, w, step, n, out, add); break;
#endif
    }
}

static void FC(tiles_5)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(5, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(5, 2, x, o, w, step, n, out, add); break;
#if FC_REGISTERS == 32
    case 3: FC(tile)(5, 3, x, o, w, step, n, out, add); break;
    case 4: FC(tile)(5, 4, x, o, w, step, n, out, add); break;
    case 5: FC(tile)(5, 5, x, o, w, step, n, out, add); break;
#endif
    }
}

static void FC(tiles_6)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(6, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(6, 2, x, o, w, step, n, out, add); break;
#if FC_REGISTERS == 32
    case 3: FC(tile)(6, 3, x, o, w, step, n, out, add); break;
    case 4: FC(tile)(6, 4, x, o, w, step, n, out, add); break;
#endif
    }
}

#if FC_REGISTERS == 32
static void FC(tiles_7)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(7, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(7, 2, x, o, w, step, n, out, add); break;
    case 3: FC(tile)(7, 3, x, o, w, step, n, out, add); break;
    }
}

static void FC(tiles_8)(int vb, const real *x, const ptrdiff_t *o, const real *w, ptrdiff_t step, ptrdiff_t n, real *out, int add) {
    switch (vb) {
    case 1: FC(tile)(8, 1, x, o, w, step, n, out, add); break;
    case 2: FC(tile)(8, 2, x, o, w, step, n, out, add); break;
    case 3: FC(tile)(8, 3, x, o, w, step, n, out, add); break;
    }
}

#endif

static void FC(run_tile)(int cb, int vb, const real *x, const ptrdiff_t *offset, const real *w, ptrdiff_t w_step,
                         ptrdiff_t taps, real *out, int add) {
    switch (cb) {
    case 1: FC(tiles_1)(vb, x, offset, w, w_step, taps, out, add); break;
    case 2: FC(tiles_2)(vb, x, offset, w, w_step, taps, out, add); break;
    case 3: FC(tiles_3)(vb, x, offset, w, w_step, taps, out, add); break;
    case 4: FC(tiles_4)(vb, x, offset, w, w_step, taps, out, add); break;
    case 5: FC(tiles_5)(vb, x, offset, w, w_step, taps, out, add); break;
    case 6: FC(tiles_6)(vb, x, offset, w, w_step, taps, out, add); break;
#if FC_REGISTERS == 32
    case 7: FC(tiles_7)(vb, x, offset, w, w_step, taps, out, add); break;
    case 8: FC(tiles_8)(vb, x, offset, w, w_step, taps, out, add); break;
#endif
    }
}
