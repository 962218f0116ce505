/* depthwise, one kernel row: backward_weight of one filter a channel along rows, stride 1.
 *
 *     w[s] = sum over images, rows, q of  y[q] * x[q + s * dilation - pad]
 *
 * As in depthwise_row.h nothing is packed: these layers read two numbers for a few multiply-adds. Up to
 * FC_ROW_TAPS taps at a time, two vectors of y are loaded and meet the vectors of x that their taps lie on; the outputs
 * near a row's ends, whose taps reach beyond it, take their pixels from a padded copy. Rows go by spans that stay in
 * level 1 while the groups of taps pass, each summed in registers and then added to a vector for every tap; a tree over
 * lanes ends them. Against direct.h, which packs x and y (Zen 3): 4 taps over rows of 2048 2.8 times as fast from
 * memory and 5 times in level 2, 31 taps over rows of 4096 1.7 times, over rows of 128 0.9 times.
 *
 * An item is an output, so results do not depend on the number of threads. Workspace: a padded copy of FC_ROW_ENDS
 * outputs' pixels for each worker. */

#ifndef FC_DEPTHWISE_ROW_WEIGHT
#define FC_DEPTHWISE_ROW_WEIGHT
enum {
    FC_ROW_TAPS = 6,       /* in registers, two sums each */
    FC_ROW_MOST_TAPS = 32, /* above, tiles of direct.h load less for a multiply-add */
    FC_ROW_SPAN = 1024     /* outputs to a span */
};

static inline int depthwise_row_weight_able(const fc_geometry *g) {
    return depthwise_one_row(g) && g->S <= FC_ROW_MOST_TAPS;
}
#endif

/* sum[s] += the products of `count` outputs with the x under SB taps; x and y are read within those alone. */
FC_INLINE void FC(row_products)(const int SB, const real *x, ptrdiff_t dilation, const real *y, ptrdiff_t count,
                                real *sum) {
    vec even[FC_ROW_TAPS], odd[FC_ROW_TAPS];
    FC_UNROLL for (int s = 0; s < SB; s++) even[s] = odd[s] = (vec){0};
    ptrdiff_t q = 0;
    for (; q + 2 * LANES <= count; q += 2 * LANES) {
        const vec first = FC(load)(y + q), second = FC(load)(y + q + LANES);
        FC_UNROLL for (int s = 0; s < SB; s++) {
            even[s] += first * FC(load)(x + q + s * dilation);
            odd[s] += second * FC(load)(x + q + s * dilation + LANES);
        }
    }
    for (; q < count; q += LANES) { /* lanes that are not there are zero in both: 0 times inf would be NaN */
        const FC(lanes) part = FC(between)(0, fc_min(LANES, count - q));
        const vec last = FC(load_lanes)(y + q, part);
        FC_UNROLL for (int s = 0; s < SB; s++) even[s] += last * FC(load_lanes)(x + q + s * dilation, part);
    }
    FC_UNROLL for (int s = 0; s < SB; s++)
        FC(store)(sum + s * LANES, FC(load)(sum + s * LANES) + (even[s] + odd[s]));
}

FC_NOINLINE void FC(run_row_products)(ptrdiff_t taps, const real *x, ptrdiff_t dilation, const real *y,
                                      ptrdiff_t count, real *sum) {
    switch (taps) {
    case 1: FC(row_products)(1, x, dilation, y, count, sum); break;
    case 2: FC(row_products)(2, x, dilation, y, count, sum); break;
    case 3: FC(row_products)(3, x, dilation, y, count, sum); break;
    case 4: FC(row_products)(4, x, dilation, y, count, sum); break;
    case 5: FC(row_products)(5, x, dilation, y, count, sum); break;
    case 6: FC(row_products)(6, x, dilation, y, count, sum); break;
    }
}

/* All taps of `count` outputs whose pixels all lie in x. */
static void FC(row_weight_span)(const FC(depthwise_row) *d, const real *x, const real *y, ptrdiff_t count, real *sums) {
    for (ptrdiff_t s = 0; s < d->S; s += FC_ROW_TAPS)
        FC(run_row_products)(fc_min(d->S - s, FC_ROW_TAPS), x + s * d->dilation, d->dilation, y, count,
                             sums + s * LANES);
}

static void FC(row_weight_item)(void *context, ptrdiff_t k, int number) {
    const FC(depthwise_row) *d = context;
    enum { STEP = FC_VECTOR_BYTES / sizeof(real), SUMS = FC_ROW_MOST_TAPS + STEP };
    real sums[SUMS * STEP] __attribute__((aligned(64))) = {0};
    real *const copy = (real *)(d->ends + (size_t)number * d->ends_bytes);
    const ptrdiff_t images = d->call->geometry.N, low = fc_clip(d->pad, 0, d->Q);
    ptrdiff_t high = fc_clip(d->W + d->pad - d->reach, low, d->Q); /* outputs low .. high have all pixels inside */
    for (ptrdiff_t i = 0; i < images * d->rows; i++) {
        const ptrdiff_t image = i / d->rows, row = i % d->rows;
        const real *x = d->from + ((image * d->channels + k / d->outputs) * d->rows + row) * d->W;
        const real *y = (const real *)d->call->y + ((image * d->channels * d->outputs + k) * d->rows + row) * d->Q;
        for (ptrdiff_t q = 0, count; q < d->Q; q += count) {
            if (q >= low && q < high) {
                count = fc_min(high - q, FC_ROW_SPAN);
                FC(row_weight_span)(d, x + q - d->pad, y + q, count, sums);
                continue;
            }
            count = fc_min((q < low ? low : d->Q) - q, FC_ROW_ENDS);
            for (ptrdiff_t j = 0; j < count + d->reach; j += LANES)
                FC(store)(copy + j, FC(load_inside)(x, q - d->pad + j, d->W));
            FC(row_weight_span)(d, copy, y + q, count, sums);
        }
    }
    real *w = (real *)d->call->w + k * d->S;
    for (ptrdiff_t s = 0; s < d->S; s += LANES)
        FC(store_lanes)(w + s, FC(sum_each)(sums + s * LANES), FC(between)(0, fc_min(LANES, d->S - s)));
}

static void FC(depthwise_row_weight)(const fc_call *call, int threads) {
    FC(depthwise_row) d = FC(plan_depthwise_row)(&call->geometry, FC_FORWARD, threads);
    d.call = call;
    d.ends = call->workspace;
    d.from = call->x;
    fc_parallel(threads, call->geometry.K, call->keep_denormals, FC(row_weight_item), &d);
}
