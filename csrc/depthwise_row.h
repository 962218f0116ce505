/* depthwise, one kernel row: forward and backward_input of one filter a channel along rows, stride 1.
 *
 *     to[q] = sum over s of  w[s] * from[q + s * dilation - pad]
 *
 * These layers move a number for every few multiply-adds, so nothing is packed: rows are read and written where they
 * are, FC_FILTER_VB vectors of pixels in registers over all taps (tile_filter from LANES taps on). Only the outputs
 * near a row's ends, whose taps reach beyond it, are computed from a padded copy of their pixels. A span ends in a
 * vector that overlaps. An item is a row, or a part of it where there are few. Against packed boxes and tables of
 * pieces (direct.h): 4 taps over rows of 2048 3 times as fast, 31 taps 1.6 times, rows of 12 half (Zen 3).
 *
 * Workspace: the turned weights (backward_input), a padded copy of FC_ROW_ENDS outputs' pixels for each worker. */

#ifndef FC_ROW_ENDS
#define FC_ROW_ENDS 512 /* outputs near an end that are computed at a time */
#define FC_SHORT_ROW 24 /* below, several rows to a vector are better */

static inline int depthwise_one_row(const fc_geometry *g) {
    return g->R == 1 && g->stride_h == 1 && g->stride_w == 1 && g->pad_h == 0 && g->P == g->H;
}
#endif

/* w (channels, sources, R, S) with each kernel turned round: to[c][R - 1 - r][i][S - 1 - s] = w[c][i][r][s]. Whether
 * all are finite: if not, backward_input may not go on, as the zeros around y times an infinite weight would be NaN
 * where x does not depend on it. */
static int FC(turn_kernels)(const real *w, ptrdiff_t channels, ptrdiff_t sources, ptrdiff_t R, ptrdiff_t S, real *to) {
    int finite = 1;
    for (ptrdiff_t c = 0; c < channels; c++, to += R * sources * S)
        for (ptrdiff_t i = 0; i < sources; i++)
            for (ptrdiff_t r = R - 1; r >= 0; r--)
                for (ptrdiff_t s = S - 1; s >= 0; s--) {
                    const real weight = *w++;
                    to[(r * sources + i) * S + s] = weight;
                    finite &= weight - weight == 0;
                }
    return finite;
}

typedef struct {
    const fc_call *call;
    ptrdiff_t channels, rows, W, Q, pad, S, dilation, reach, outputs; /* `rows` a plane */
    ptrdiff_t parts, length;                                          /* of a row */
    const real *from, *w;
    real *to;
    char *weights, *ends;
    size_t weights_bytes, ends_bytes;
} FC(depthwise_row);

/* VB vectors of outputs; 0 < cols < LANES: just so many lanes of one. */
FC_INLINE void FC(row_taps)(const int VB, const FC(depthwise_row) *d, const real *x, const real *w, ptrdiff_t cols,
                            const real *bias, real *y) {
    vec sum[FC_FILTER_VB];
    FC_UNROLL for (int v = 0; v < VB; v++) sum[v] = (vec){0};
    if (VB > 1 && d->S >= LANES && d->dilation == 1) {
        real tile[FC_FILTER_VB * (FC_VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
        for (ptrdiff_t s = 0, now; s < d->S; s += now) {
            now = fc_min(d->S - s, FC_FILTER_TAPS * LANES);
            const ptrdiff_t deep = fc_ceil_div(now, LANES), full = now - (deep - 1) * LANES;
            FC(run_filter)((int)deep, x + s, w + s, full, tile, s > 0);
            if (full < LANES && deep > 1)
                FC(run_filter)((int)deep - 1, x + s + full, w + s + full, LANES - full, tile, 1);
        }
        FC_UNROLL for (int v = 0; v < VB; v++) sum[v] = FC(load)(tile + v * LANES);
    } else {
        FC_ROLLED for (ptrdiff_t s = 0; s < d->S; s++, x += d->dilation) {
            const vec weight = FC(splat)(w[s]);
            FC_UNROLL for (int v = 0; v < VB; v++) sum[v] += weight * FC(load)(x + v * LANES);
        }
    }
    if (VB == 1 && cols) {
        const FC(lanes) part = FC(between)(0, cols);
        if (bias)
            sum[0] += d->call->bias_per_position ? FC(load_lanes)(bias, part) : FC(splat)(*bias);
        FC(store_lanes)(y, sum[0], part);
        return;
    }
    if (bias)
        FC_UNROLL for (int v = 0; v < VB; v++)
            sum[v] += d->call->bias_per_position ? FC(load)(bias + v * LANES) : FC(splat)(*bias);
    FC_UNROLL for (int v = 0; v < VB; v++) FC(store)(y + v * LANES, sum[v]);
}

FC_NOINLINE void FC(row_taps_many)(const FC(depthwise_row) *d, const real *x, const real *w, const real *bias,
                                   real *y) {
    FC(row_taps)(FC_FILTER_VB, d, x, w, 0, bias, y);
}
FC_NOINLINE void FC(row_taps_one)(const FC(depthwise_row) *d, const real *x, const real *w, ptrdiff_t cols,
                                  const real *bias, real *y) {
    FC(row_taps)(1, d, x, w, cols, bias, y);
}

/* `count` outputs whose pixels all lie in x; fewer than LANES only where LANES + reach of them may be read. */
static void FC(row_span)(const FC(depthwise_row) *d, const real *x, const real *w, ptrdiff_t count, const real *bias,
                         real *y) {
    const ptrdiff_t step = bias && d->call->bias_per_position ? 1 : 0, many = FC_FILTER_VB * LANES;
    ptrdiff_t q = 0;
    for (; q + many <= count; q += many)
        FC(row_taps_many)(d, x + q, w, bias + q * step, y + q);
    if (q < count && count >= many && count - q > many / 4) {
        q = count - many;
        FC(row_taps_many)(d, x + q, w, bias + q * step, y + q);
        return;
    }
    for (; q < count; q += LANES) {
        const ptrdiff_t at = count < LANES ? 0 : fc_min(q, count - LANES);
        FC(row_taps_one)(d, x + at, w, count < LANES ? count : 0, bias + at * step, y + at);
    }
}

static void FC(depthwise_row_item)(void *context, ptrdiff_t i, int number) {
    const FC(depthwise_row) *d = context;
    const ptrdiff_t first = i % d->parts * d->length, end = fc_min(d->Q, first + d->length);
    const ptrdiff_t row = i / d->parts % d->rows, plane = i / d->parts / d->rows;
    const ptrdiff_t k = plane % (d->channels * d->outputs);
    const real *x = d->from + (plane / d->outputs * d->rows + row) * d->W, *w = d->w + k * d->S, *bias = d->call->bias;
    real *y = d->to + (plane * d->rows + row) * d->Q, *const copy = (real *)(d->ends + (size_t)number * d->ends_bytes);
    const ptrdiff_t step = bias && d->call->bias_per_position ? 1 : 0;
    if (bias)
        bias += step ? (k * d->rows + row) * d->Q : k;
    /* outputs low .. high have all their pixels inside the row */
    ptrdiff_t low = fc_clip(d->pad, first, end), high = fc_clip(d->W + d->pad - d->reach, low, end);
    if (high - low < LANES)
        high = low = end;
    for (ptrdiff_t q = first, count; q < end; q += count) {
        if (q == low && low < high) {
            count = high - low;
            FC(row_span)(d, x + q - d->pad, w, count, bias + q * step, y + q);
            continue;
        }
        count = fc_min((q < low ? low : end) - q, FC_ROW_ENDS);
        for (ptrdiff_t j = 0; j < fc_max(count, LANES) + d->reach; j += LANES)
            FC(store)(copy + j, FC(load_inside)(x, q - d->pad + j, d->W));
        FC(row_span)(d, copy, w, count, bias + q * step, y + q);
    }
}

/* ---- plan, workspace, run */

static FC(depthwise_row) FC(plan_depthwise_row)(const fc_geometry *g, fc_operation operation, int threads) {
    FC(depthwise_row) d = {.channels = g->groups, .rows = g->H, .S = g->S, .dilation = g->dilation_w};
    d.reach = (g->S - 1) * g->dilation_w;
    d.outputs = g->K / g->groups;
    d.W = operation == FC_FORWARD ? g->W : g->Q;
    d.Q = operation == FC_FORWARD ? g->Q : g->W;
    d.pad = operation == FC_FORWARD ? g->pad_w : d.reach - g->pad_w;
    const ptrdiff_t rows = g->N * g->K * g->H;
    d.parts = rows < 4 * threads && threads > 1 ? fc_ceil_div(4 * (ptrdiff_t)threads, rows) : 1;
    d.parts = fc_clip(d.Q / 4096, 1, d.parts);
    d.length = fc_ceil_div(d.Q, d.parts);
    d.parts = fc_ceil_div(d.Q, d.length);
    d.ends_bytes = fc_round_up((size_t)(FC_ROW_ENDS + d.reach + 2 * LANES) * sizeof(real));
    d.weights_bytes = operation == FC_FORWARD ? 0 : fc_round_up((size_t)(g->K * g->S) * sizeof(real));
    return d;
}

static size_t FC(depthwise_row_bytes)(const fc_geometry *g, fc_operation operation, int threads) {
    const FC(depthwise_row) d = FC(plan_depthwise_row)(g, operation, threads);
    return d.weights_bytes + (size_t)threads * d.ends_bytes;
}

static void FC(depthwise_row_run)(const fc_call *call, fc_operation operation, int threads) {
    const fc_geometry *g = &call->geometry;
    FC(depthwise_row) d = FC(plan_depthwise_row)(g, operation, threads);
    d.call = call;
    d.weights = call->workspace;
    d.ends = d.weights + d.weights_bytes;
    d.from = call->x;
    d.to = call->y;
    d.w = call->w;
    if (operation == FC_BACKWARD_INPUT) {
        real *turned = (real *)d.weights;
        if (!FC(turn_kernels)(d.w, g->K, 1, 1, g->S, turned)) {
            FC(small_backward_input)(call);
            return;
        }
        d.from = call->y;
        d.to = call->x;
        d.w = turned;
    }
    fc_parallel(threads, g->N * g->K * d.rows * d.parts, call->keep_denormals, FC(depthwise_row_item), &d);
}
