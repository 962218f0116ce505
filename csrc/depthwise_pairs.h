/* depthwise: 3x3 kernels of stride 2 and one output a channel, forward and backward_input, on planes where they are.
 *
 * With 9 products to a sum, of which each pixel enters two, packing (depthwise.h) takes longer than computing. So a
 * vector of columns goes down the plane, the 9 weights held, and what two rows share is loaded once.
 *
 * forward: two vectors of a row of x, unzipped, are the pixels under two columns of the kernel, the two vectors one
 * pixel further those under the third. Sums are put in order only when they are done (pair_even, simd.h). Weights that
 * are not finite must meet the padding: then planes are packed after all.
 *
 * backward_input, with padding 1 on both axes:
 *
 *     x[2i][2j]     = w11 y[i][j]                     x[2i][2j + 1]     = w10 y[i][j + 1] + w12 y[i][j]
 *     x[2i + 1][2j] = w01 y[i + 1][j] + w21 y[i][j]   x[2i + 1][2j + 1] = w00 y[i + 1][j + 1] + w02 y[i + 1][j]
 *                                                                         + w20 y[i][j + 1] + w22 y[i][j]
 *
 * so two vectors of a row of y give four of x for 9 multiply-adds.
 *
 * Against packed planes, 144 of 56x56 on Zen 3: forward 1.7 times as fast, backward_input 2.9 times. The processor
 * foresees the rows itself: asking for the next plane in software made it 1.07 times as slow.
 *
 * An item is a plane or a part of its rows. No workspace. */

#ifndef FC_DEPTHWISE_PAIRS
#define FC_DEPTHWISE_PAIRS
enum { FC_PAIRS_LEAST = 8 }; /* rows that a column goes down at least: its start costs about one */
#endif

typedef struct {
    const fc_call *call;
    fc_geometry g;
    ptrdiff_t rows, parts, strip; /* rows of y, or pairs of rows of x; those that all columns pass before the next */
} FC(depthwise_pairs);

static FC(depthwise_pairs) FC(plan_depthwise_pairs)(const fc_geometry *g, fc_operation operation, int threads) {
    FC(depthwise_pairs) d = {.g = *g, .rows = operation == FC_FORWARD ? g->P : fc_ceil_div(g->H, 2)};
    const ptrdiff_t planes = g->N * g->groups;
    d.parts = threads > 1 && planes < 4 * threads ? fc_ceil_div(4 * (ptrdiff_t)threads, planes) : 1;
    d.parts = fc_clip(d.rows / FC_PAIRS_LEAST, 1, d.parts);
    d.strip = fc_max(FC_PAIRS_LEAST, FC_ROWS_BYTES / (2 * g->W * (ptrdiff_t)sizeof(real)));
    return d;
}

static int FC(depthwise_by_pairs)(const fc_geometry *g, fc_operation operation) {
    if (g->R != 3 || g->S != 3 || g->stride_h != 2 || g->stride_w != 2 || g->dilation_h != 1 || g->dilation_w != 1 ||
        g->K != g->groups)
        return 0;
    if (operation == FC_FORWARD)
        return g->Q >= LANES;
    return g->pad_h == 1 && g->pad_w == 1 && g->W >= 2 * LANES;
}

/* ---- forward */

/* The pixels of a row of x under the three columns of the kernel. */
typedef struct {
    vec column[3];
} FC(pair_pixels);

/* What is read of a row of x: of two vectors, and of those one pixel further. */
typedef struct {
    FC(lanes) low, high, low_next, high_next;
} FC(pair_lanes);

FC_INLINE FC(pair_pixels) FC(load_pairs)(const int PART, const real *x, const FC(pair_lanes) *inside) {
    const vec a = PART ? FC(load_lanes)(x, inside->low) : FC(load)(x);
    const vec b = PART ? FC(load_lanes)(x + LANES, inside->high) : FC(load)(x + LANES);
    const vec c = PART ? FC(load_lanes)(x + 1, inside->low_next) : FC(load)(x + 1);
    const vec d = PART ? FC(load_lanes)(x + 1 + LANES, inside->high_next) : FC(load)(x + 1 + LANES);
    return (FC(pair_pixels)){{FC(pair_even)(a, b), FC(pair_even)(c, d), FC(pair_odd)(c, d)}};
}

FC_INLINE vec FC(add_pairs)(const vec *weight, const FC(pair_pixels) *x, vec sum) {
    FC_UNROLL for (int t = 0; t < 3; t++) sum += weight[t] * x->column[t];
    return sum;
}

/* LANES columns of y from j on, rows first to end; x, y and bias of run are at the first pixel of their planes. PART:
 * not all pixels are inside their rows. A row under the last kernel row is under the first one of the next row of y. */
FC_INLINE void FC(pair_column)(const int PART, const fc_geometry *g, const FC(plane_run) *run, ptrdiff_t j,
                               ptrdiff_t first, ptrdiff_t end) {
    const ptrdiff_t W = g->W, Q = g->Q, left = 2 * j - g->pad_w, bias_row = run->bias_row;
    const FC(pair_lanes) inside = {FC(inside)(left, W), FC(inside)(left + LANES, W), FC(inside)(left + 1, W),
                                   FC(inside)(left + 1 + LANES, W)};
    vec weight[9], sum = {0};
    FC_UNROLL for (int i = 0; i < 9; i++) weight[i] = FC(splat)(run->w[i]);
    ptrdiff_t h = 2 * first - g->pad_h;
    const real *x = run->x + h * W + left, *bias = run->bias;
    real *y = run->y + first * Q + j;
    if (bias && bias_row)
        bias += first * bias_row + j;
    if (h >= 0 && h < g->H) {
        const FC(pair_pixels) pixels = FC(load_pairs)(PART, x, &inside);
        sum = FC(add_pairs)(weight, &pixels, sum);
    }
    for (ptrdiff_t p = first; p < end; p++, h += 2, x += 2 * W, y += Q) {
        vec middle = {0}, next = {0}; /* three short chains of sums: one of nine would be waited for */
        if (h + 1 >= 0 && h + 1 < g->H) {
            const FC(pair_pixels) pixels = FC(load_pairs)(PART, x + W, &inside);
            middle = FC(add_pairs)(weight + 3, &pixels, middle);
        }
        if (h + 2 >= 0 && h + 2 < g->H) {
            const FC(pair_pixels) pixels = FC(load_pairs)(PART, x + 2 * W, &inside);
            sum = FC(add_pairs)(weight + 6, &pixels, sum);
            next = FC(add_pairs)(weight, &pixels, next);
        }
        sum += middle;
        sum = FC(in_order)(sum);
        if (bias) {
            sum += bias_row ? FC(load)(bias) : FC(splat)(*bias);
            bias += bias_row;
        }
        FC(store)(y, sum);
        sum = next;
    }
}

FC_NOINLINE void FC(pair_column_inside)(const fc_geometry *g, const FC(plane_run) *run, ptrdiff_t j, ptrdiff_t first,
                                        ptrdiff_t end) {
    FC(pair_column)(0, g, run, j, first, end);
}
FC_NOINLINE void FC(pair_column_part)(const fc_geometry *g, const FC(plane_run) *run, ptrdiff_t j, ptrdiff_t first,
                                      ptrdiff_t end) {
    FC(pair_column)(1, g, run, j, first, end);
}

static void FC(depthwise_pairs_item)(void *context, ptrdiff_t i, int number) {
    (void)number;
    const FC(depthwise_pairs) *d = context;
    const fc_geometry *g = &d->g;
    const ptrdiff_t plane = i / d->parts, part = i % d->parts, channel = plane % g->groups, pixels = g->P * g->Q;
    const ptrdiff_t end = fc_part(d->rows, d->parts, part + 1);
    const int each = d->call->bias && d->call->bias_per_position;
    const real *bias = d->call->bias;
    if (bias)
        bias += each ? channel * pixels : channel;
    const FC(plane_run) run = {(const real *)d->call->x + plane * g->H * g->W, (const real *)d->call->w + channel * 9,
                               (real *)d->call->y + plane * pixels, bias, each ? g->Q : 0};
    for (ptrdiff_t p = fc_part(d->rows, d->parts, part), after; p < end; p = after) {
        after = fc_min(p + d->strip, end);
        for (ptrdiff_t j = 0; j < g->Q; j += LANES) {
            const ptrdiff_t at = fc_min(j, g->Q - LANES), left = 2 * at - g->pad_w;
            if (left >= 0 && left + 1 + 2 * LANES <= g->W)
                FC(pair_column_inside)(g, &run, at, p, after);
            else
                FC(pair_column_part)(g, &run, at, p, after);
        }
    }
}

/* ---- backward_input */

/* Two vectors of a row of y, the second one pixel further, in the order that zips want. */
typedef struct {
    vec here, next;
} FC(spread_pixels);

FC_INLINE FC(spread_pixels) FC(load_spread)(const int PART, const real *y, FC(lanes) here, FC(lanes) next) {
    const vec a = PART ? FC(load_lanes)(y, here) : FC(load)(y);
    const vec b = PART ? FC(load_lanes)(y + 1, next) : FC(load)(y + 1);
    return (FC(spread_pixels)){FC(before_zip)(a), FC(before_zip)(b)};
}

FC_INLINE void FC(store_spread)(const int PART, real *x, vec even, vec odd, FC(lanes) low, FC(lanes) high) {
    const vec a = FC(pair_zip_low)(even, odd), b = FC(pair_zip_high)(even, odd);
    if (PART) {
        FC(store_lanes)(x, a, low);
        FC(store_lanes)(x + LANES, b, high);
    } else {
        FC(store)(x, a);
        FC(store)(x + LANES, b);
    }
}

/* 2 LANES columns of x from 2 j on, rows 2 first to 2 end, or the last one. PART: not all of them, or not all pixels of
 * y that they want, are inside their rows. */
FC_INLINE void FC(spread_column)(const int PART, const fc_geometry *g, const real *w, ptrdiff_t j, ptrdiff_t first,
                                 ptrdiff_t end, const real *y, real *x) {
    const ptrdiff_t W = g->W, Q = g->Q;
    const FC(lanes) here = FC(inside)(j, Q), next = FC(inside)(j + 1, Q);
    const FC(lanes) low = FC(inside)(2 * j, W), high = FC(inside)(2 * j + LANES, W);
    vec weight[9];
    FC_UNROLL for (int i = 0; i < 9; i++) weight[i] = FC(splat)(w[i]);
    FC(spread_pixels) top = {{0}, {0}};
    y += first * Q + j;
    x += 2 * first * W + 2 * j;
    if (first < g->P)
        top = FC(load_spread)(PART, y, here, next);
    for (ptrdiff_t i = first; i < end; i++, x += 2 * W) {
        FC(store_spread)(PART, x, weight[4] * top.here, weight[3] * top.next + weight[5] * top.here, low, high);
        if (2 * i + 1 == g->H)
            break;
        vec even = weight[7] * top.here, odd = weight[6] * top.next + weight[8] * top.here;
        y += Q;
        top = (FC(spread_pixels)){{0}, {0}};
        if (i + 1 < g->P)
            top = FC(load_spread)(PART, y, here, next);
        even += weight[1] * top.here;
        odd += weight[0] * top.next + weight[2] * top.here;
        FC(store_spread)(PART, x + W, even, odd, low, high);
    }
}

FC_NOINLINE void FC(spread_column_inside)(const fc_geometry *g, const real *w, ptrdiff_t j, ptrdiff_t first,
                                          ptrdiff_t end, const real *y, real *x) {
    FC(spread_column)(0, g, w, j, first, end, y, x);
}
FC_NOINLINE void FC(spread_column_part)(const fc_geometry *g, const real *w, ptrdiff_t j, ptrdiff_t first,
                                        ptrdiff_t end, const real *y, real *x) {
    FC(spread_column)(1, g, w, j, first, end, y, x);
}

static void FC(depthwise_spread_item)(void *context, ptrdiff_t i, int number) {
    (void)number;
    const FC(depthwise_pairs) *d = context;
    const fc_geometry *g = &d->g;
    const ptrdiff_t plane = i / d->parts, part = i % d->parts, end = fc_part(d->rows, d->parts, part + 1);
    const real *const w = (const real *)d->call->w + plane % g->groups * 9;
    const real *const y = (const real *)d->call->y + plane * g->P * g->Q;
    real *const x = (real *)d->call->x + plane * g->H * g->W;
    for (ptrdiff_t p = fc_part(d->rows, d->parts, part), after; p < end; p = after) {
        after = fc_min(p + d->strip, end);
        for (ptrdiff_t j = 0; 2 * j < g->W; j += LANES) {
            const ptrdiff_t at = g->W % 2 ? j : fc_min(j, g->W / 2 - LANES); /* an odd column is a vector of its own */
            if (2 * at + 2 * LANES <= g->W && at + 1 + LANES <= g->Q)
                FC(spread_column_inside)(g, w, at, p, after, y, x);
            else
                FC(spread_column_part)(g, w, at, p, after, y, x);
        }
    }
}

/* ---- run */

/* Whether it was done in this way. */
static int FC(depthwise_pairs_run)(const fc_call *call, fc_operation operation, int threads) {
    if (!FC(depthwise_by_pairs)(&call->geometry, operation) || !FC(all_finite)(call->w, call->geometry.K * 9))
        return 0;
    FC(depthwise_pairs) d = FC(plan_depthwise_pairs)(&call->geometry, operation, threads);
    d.call = call;
    fc_parallel(threads, d.g.N * d.g.groups * d.parts, call->keep_denormals,
                operation == FC_FORWARD ? FC(depthwise_pairs_item) : FC(depthwise_spread_item), &d);
    return 1;
}
