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
#if FC_VECTOR_BYTES == 64 /* 32 registers of 16 bytes would do as well, but GCC 12 spills them there */
#define FC_FILTER_VB 16
#define FC_FILTER_TAPS 8
#else
#define FC_FILTER_VB 8
#define FC_FILTER_TAPS 4
#endif
#endif

/* What a tile works on: the sums of channel c go to out + c * out_step; `add`: to what is there. The same for `tiles`
 * runs of pixels side by side, in each of `rows` rows. */
typedef struct {
    const real *x, *w;
    const ptrdiff_t *offset;
    ptrdiff_t w_step, taps;
    real *out;
    ptrdiff_t out_step;
    ptrdiff_t rows, tiles, x_row, out_row;
    const real *bias; /* one number a channel, or NULL */
    int add;
} FC(tile_run);

/* One tile. VB and CB are literals at every call, and the body is inlined: the arrays become registers. */
FC_INLINE void FC(tile_once)(const int CB, const int VB, const FC(tile_run) *run, const real *x, real *out) {
    const real *w = run->w, *const end = w + run->taps;
    const ptrdiff_t w_step = run->w_step, out_step = run->out_step, *offset = run->offset;
    vec sum[FC_MAX_TILE];
    if (run->bias)
        FC_UNROLL for (int c = 0; c < CB; c++) {
            const vec bias = FC(splat)(run->bias[c]);
            FC_UNROLL for (int v = 0; v < VB; v++) sum[c * VB + v] = bias;
        }
    else
        FC_UNROLL for (int i = 0; i < CB * VB; i++) sum[i] = (vec){0};
    FC_ROLLED for (; w < end; w++, offset++) {
        const real *at = x + *offset;
        vec held[FC_MAX_VB];
        if (CB <= VB) { /* hold the weights, stream the pixels */
            FC_UNROLL for (int c = 0; c < CB; c++) held[c] = FC(splat)(w[c * w_step]);
            FC_UNROLL for (int v = 0; v < VB; v++) {
                const vec pixels = FC(load)(at + v * LANES);
                FC_UNROLL for (int c = 0; c < CB; c++) sum[c * VB + v] += held[c] * pixels;
            }
        } else {
            FC_UNROLL for (int v = 0; v < VB; v++) held[v] = FC(load)(at + v * LANES);
            FC_UNROLL for (int c = 0; c < CB; c++) {
                const vec weight = FC(splat)(w[c * w_step]);
                FC_UNROLL for (int v = 0; v < VB; v++) sum[c * VB + v] += weight * held[v];
            }
        }
    }
    if (run->add)
        FC_UNROLL for (int c = 0; c < CB; c++)
            FC_UNROLL for (int v = 0; v < VB; v++) sum[c * VB + v] += FC(load)(out + c * out_step + v * LANES);
    FC_UNROLL for (int c = 0; c < CB; c++)
        FC_UNROLL for (int v = 0; v < VB; v++) FC(store)(out + c * out_step + v * LANES, sum[c * VB + v]);
}

/* All of them in one function: calling one a tile costs a sixth of the time where there are 27 taps. */
FC_INLINE void FC(tile)(const int CB, const int VB, const FC(tile_run) *run) {
    const real *row = run->x;
    real *to = run->out;
    for (ptrdiff_t i = run->rows; i; i--, row += run->x_row, to += run->out_row) {
        const real *x = row;
        real *out = to;
        for (ptrdiff_t n = run->tiles; n; n--, x += VB * LANES, out += VB * LANES)
            FC(tile_once)(CB, VB, run, x, out);
    }
}

/* One function per CB, a case per VB: literal sizes, so that nothing but registers is left of the arrays. */
FC_NOINLINE void FC(tiles_1)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(1, 1, run); break;
    case 2: FC(tile)(1, 2, run); break;
    case 3: FC(tile)(1, 3, run); break;
    case 4: FC(tile)(1, 4, run); break;
    case 5: FC(tile)(1, 5, run); break;
    case 6: FC(tile)(1, 6, run); break;
    case 7: FC(tile)(1, 7, run); break;
    case 8: FC(tile)(1, 8, run); break;
    case 9: FC(tile)(1, 9, run); break;
    case 10: FC(tile)(1, 10, run); break;
#if FC_REGISTERS == 32
    case 11: FC(tile)(1, 11, run); break;
    case 12: FC(tile)(1, 12, run); break;
    case 13: FC(tile)(1, 13, run); break;
    case 14: FC(tile)(1, 14, run); break;
    case 15: FC(tile)(1, 15, run); break;
    case 16: FC(tile)(1, 16, run); break;
#endif
    }
}

FC_NOINLINE void FC(tiles_2)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(2, 1, run); break;
    case 2: FC(tile)(2, 2, run); break;
    case 3: FC(tile)(2, 3, run); break;
    case 4: FC(tile)(2, 4, run); break;
    case 5: FC(tile)(2, 5, run); break;
    case 6: FC(tile)(2, 6, run); break;
#if FC_REGISTERS == 32
    case 7: FC(tile)(2, 7, run); break;
    case 8: FC(tile)(2, 8, run); break;
    case 9: FC(tile)(2, 9, run); break;
    case 10: FC(tile)(2, 10, run); break;
#endif
    }
}

FC_NOINLINE void FC(tiles_3)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(3, 1, run); break;
    case 2: FC(tile)(3, 2, run); break;
    case 3: FC(tile)(3, 3, run); break;
    case 4: FC(tile)(3, 4, run); break;
#if FC_REGISTERS == 32
    case 5: FC(tile)(3, 5, run); break;
    case 6: FC(tile)(3, 6, run); break;
    case 7: FC(tile)(3, 7, run); break;
    case 8: FC(tile)(3, 8, run); break;
#endif
    }
}

FC_NOINLINE void FC(tiles_4)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(4, 1, run); break;
    case 2: FC(tile)(4, 2, run); break;
    case 3: FC(tile)(4, 3, run); break;
#if FC_REGISTERS == 32
    case 4: FC(tile)(4, 4, run); break;
    case 5: FC(tile)(4, 5, run); break;
    case 6: FC(tile)(4, 6, run); break;
#endif
    }
}

FC_NOINLINE void FC(tiles_5)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(5, 1, run); break;
    case 2: FC(tile)(5, 2, run); break;
#if FC_REGISTERS == 32
    case 3: FC(tile)(5, 3, run); break;
    case 4: FC(tile)(5, 4, run); break;
    case 5: FC(tile)(5, 5, run); break;
#endif
    }
}

FC_NOINLINE void FC(tiles_6)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(6, 1, run); break;
    case 2: FC(tile)(6, 2, run); break;
#if FC_REGISTERS == 32
    case 3: FC(tile)(6, 3, run); break;
    case 4: FC(tile)(6, 4, run); break;
#endif
    }
}

#if FC_REGISTERS == 32
FC_NOINLINE void FC(tiles_7)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(7, 1, run); break;
    case 2: FC(tile)(7, 2, run); break;
    case 3: FC(tile)(7, 3, run); break;
    }
}

FC_NOINLINE void FC(tiles_8)(int vb, const FC(tile_run) *run) {
    switch (vb) {
    case 1: FC(tile)(8, 1, run); break;
    case 2: FC(tile)(8, 2, run); break;
    case 3: FC(tile)(8, 3, run); break;
    }
}

#endif

static void FC(run_tile)(int cb, int vb, const FC(tile_run) *run) {
    switch (cb) {
    case 1: FC(tiles_1)(vb, run); break;
    case 2: FC(tiles_2)(vb, run); break;
    case 3: FC(tiles_3)(vb, run); break;
    case 4: FC(tiles_4)(vb, run); break;
    case 5: FC(tiles_5)(vb, run); break;
    case 6: FC(tiles_6)(vb, run); break;
#if FC_REGISTERS == 32
    case 7: FC(tiles_7)(vb, run); break;
    case 8: FC(tiles_8)(vb, run); break;
#endif
    }
}

/* One channel under a long filter: FC_FILTER_VB vectors of pixels, DEEP taps LANES apart at a time.
 *
 *     out[v] (+)= sum over b < count, a < DEEP of  w[b + a * LANES] * x[b + (v + a) * LANES ...]
 *
 * Taps LANES apart read the same vectors one further on, so VB + DEEP - 1 loads serve VB * DEEP multiply-adds, where a
 * tile of one channel would load a vector for each: 2.3 times as fast at 255 taps (AVX-512), little gained at 31. */
FC_INLINE void FC(tile_filter)(const int DEEP, const real *x, const real *w, ptrdiff_t count, real *out, int add) {
    vec sum[FC_FILTER_VB];
    FC_UNROLL for (int v = 0; v < FC_FILTER_VB; v++) sum[v] = (vec){0};
    FC_ROLLED for (ptrdiff_t b = 0; b < count; b++, x++, w++) {
        vec weight[FC_FILTER_TAPS];
        FC_UNROLL for (int a = 0; a < DEEP; a++) weight[a] = FC(splat)(w[a * LANES]);
        FC_UNROLL for (int u = 0; u < FC_FILTER_VB + DEEP - 1; u++) {
            const vec pixels = FC(load)(x + u * LANES);
            FC_UNROLL for (int a = 0; a < DEEP; a++)
                if (u - a >= 0 && u - a < FC_FILTER_VB)
                    sum[u - a] += weight[a] * pixels;
        }
    }
    FC_UNROLL for (int v = 0; v < FC_FILTER_VB; v++)
        FC(store)(out + v * LANES, add ? FC(load)(out + v * LANES) + sum[v] : sum[v]);
}

FC_NOINLINE void FC(run_filter)(int deep, const real *x, const real *w, ptrdiff_t count, real *out, int add) {
    switch (deep) {
    case 1: FC(tile_filter)(1, x, w, count, out, add); break;
    case 2: FC(tile_filter)(2, x, w, count, out, add); break;
    case 3: FC(tile_filter)(3, x, w, count, out, add); break;
    case 4: FC(tile_filter)(4, x, w, count, out, add); break;
#if FC_FILTER_TAPS == 8
    case 5: FC(tile_filter)(5, x, w, count, out, add); break;
    case 6: FC(tile_filter)(6, x, w, count, out, add); break;
    case 7: FC(tile_filter)(7, x, w, count, out, add); break;
    case 8: FC(tile_filter)(8, x, w, count, out, add); break;
#endif
    }
}
