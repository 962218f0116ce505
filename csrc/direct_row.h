/* direct, one row: forward of 1-D layers with few products to a sum, such as the first layers of audio nets.
 *
 *     y[k][q] = sum over taps t = (c, s) of  w[k][t] * packed[offset[t] + q]
 *
 * With 10 or 16 products to a sum, what surrounds the multiply-adds decides: outputs are stored straight to their
 * place, tile after tile within one function. A block of a signal is packed padded, its stride phases apart (pack.h),
 * so that it stays in level 1 while all output channels pass over it; each writes a run of some KB. A tile is
 * FC_SIGNAL_CHANNELS channels x FC_SIGNAL_VECTORS vectors; blocks end in a tile that overlaps, so stores are whole.
 * Against gemm.h: up to 3 times as fast, most where there are fewest products (Zen 3: 80% of peak where outputs stay in
 * level 3; 1 to 512 channels of 16 taps, stride 8: 1.7 times). Against the rows of direct.h, which lay out a table of
 * pieces first: 1.2 to 1.3 times for one channel of 3 to 9 taps to 16 outputs or fewer, 0.98 to 1.05 for most others.
 *
 * An item is an image, a group, a block of columns and a part of the output channels. Workspace: the table of taps, and
 * a packed block for each worker. */

#ifndef FC_DIRECT_ROW
#define FC_DIRECT_ROW
#if FC_REGISTERS == 32
enum { FC_SIGNAL_CHANNELS = 6, FC_SIGNAL_VECTORS = 4 };
#else
enum { FC_SIGNAL_CHANNELS = 4, FC_SIGNAL_VECTORS = 3 };
#endif
enum {
    FC_SIGNAL_BYTES = 16 << 10,               /* a packed block: half of level 1 */
    FC_SIGNAL_TAPS = FC_CHUNK + FC_CHUNK / 2, /* summed in registers at once: as many as direct.h sums at once */
    FC_SIGNAL_PLANES = 32,                    /* most channels x phases of a packed block */
    FC_SIGNAL_LEAST_OUTPUTS = 4,
    FC_SIGNAL_LEAST_COLUMNS = 256
};

/* Whether forward takes this way, in place of the boxes of direct.h and the panels of gemm.h. */
static inline int direct_one_row(const fc_geometry *g) {
    const ptrdiff_t channels = g->C / g->groups;
    return fc_one_row(g) && channels * g->S <= FC_SIGNAL_TAPS &&
           channels * fc_min(g->S, g->stride_w) <= FC_SIGNAL_PLANES &&
           g->K / g->groups >= FC_SIGNAL_LEAST_OUTPUTS && g->Q >= FC_SIGNAL_LEAST_COLUMNS;
}

/* Whether direct's forward is at its best: sums of few products along rows that fill vectors, stored straight to their
 * place. Then 1.1 to 2 times as fast as gemm (AVX2; 3 channels of 3x3: 2, 12 of 15: 1.15, 3 of 7x7: 1.25) and as batch
 * (3 channels of 3x3 on 32x32: 1.5, on 16x16: 1.4). */
static inline int direct_along_rows(ptrdiff_t products, ptrdiff_t cols) {
    const ptrdiff_t lanes = FC_VECTOR_BYTES / (ptrdiff_t)sizeof(float), filled = fc_ceil_div(cols, lanes) * lanes;
    return products <= FC_LONG_CHUNK && cols >= 2 * lanes && 20 * cols >= 17 * filled;
}
#endif

/* What a run of tiles works on: CB channels of `cols` columns. */
typedef struct {
    const real *x, *w;
    const ptrdiff_t *offset;
    ptrdiff_t taps, cols;
    real *y;
    ptrdiff_t y_channel;
    const real *bias; /* NULL, or one number a channel, or as many as y where bias_step is not 0 */
    ptrdiff_t bias_channel, bias_step;
} FC(signal_run);

FC_INLINE void FC(signal_tiles)(const int CB, const FC(signal_run) *run) {
    enum { VB = FC_SIGNAL_VECTORS, TILE = FC_SIGNAL_VECTORS * FC_VECTOR_BYTES / sizeof(real) };
    const ptrdiff_t taps = run->taps, last = run->cols - TILE;
    for (ptrdiff_t j = 0, next; j <= last; j = next) {
        vec sum[FC_SIGNAL_CHANNELS * FC_SIGNAL_VECTORS];
        FC_UNROLL for (int i = 0; i < CB * VB; i++) sum[i] = (vec){0};
        const real *w = run->w;
        FC_ROLLED for (ptrdiff_t t = 0; t < taps; t++, w++) {
            const real *x = run->x + j + run->offset[t];
            vec pixels[FC_SIGNAL_VECTORS];
            FC_UNROLL for (int v = 0; v < VB; v++) pixels[v] = FC(load)(x + v * LANES);
            FC_UNROLL for (int c = 0; c < CB; c++) {
                const vec weight = FC(splat)(w[c * taps]);
                FC_UNROLL for (int v = 0; v < VB; v++) sum[c * VB + v] += weight * pixels[v];
            }
        }
        real *y = run->y + j;
        if (run->bias) {
            const real *bias = run->bias + j * run->bias_step;
            FC_UNROLL for (int c = 0; c < CB; c++)
                FC_UNROLL for (int v = 0; v < VB; v++)
                    sum[c * VB + v] += run->bias_step ? FC(load)(bias + c * run->bias_channel + v * LANES)
                                                      : FC(splat)(bias[c * run->bias_channel]);
        }
        FC_UNROLL for (int c = 0; c < CB; c++)
            FC_UNROLL for (int v = 0; v < VB; v++) FC(store)(y + c * run->y_channel + v * LANES, sum[c * VB + v]);
        next = j + TILE <= last || j == last ? j + TILE : last; /* the last one overlaps: the same numbers once more */
    }
}

FC_NOINLINE void FC(run_signal)(ptrdiff_t channels, const FC(signal_run) *run) {
    switch (channels) {
    case 1: FC(signal_tiles)(1, run); break;
    case 2: FC(signal_tiles)(2, run); break;
    case 3: FC(signal_tiles)(3, run); break;
    case 4: FC(signal_tiles)(4, run); break;
#if FC_REGISTERS == 32
    case 5: FC(signal_tiles)(5, run); break;
    case 6: FC(signal_tiles)(6, run); break;
#endif
    }
}

/* ---- items */

typedef struct {
    const fc_call *call;
    fc_stencil s; /* rows are images */
    ptrdiff_t taps, outputs, parts; /* `outputs` a group, in `parts` parts */
    ptrdiff_t *offsets;
    char *boxes;
    size_t offsets_bytes, box_bytes;
} FC(direct_row);

static void FC(direct_row_item)(void *context, ptrdiff_t i, int number) {
    const FC(direct_row) *d = context;
    const fc_stencil *s = &d->s;
    real *const box = (real *)(d->boxes + (size_t)number * d->box_bytes);
    const ptrdiff_t part = i % d->parts;
    i /= d->parts;
    const ptrdiff_t block = i % s->boxes_w, group = i / s->boxes_w % s->groups, image = i / s->boxes_w / s->groups;
    const ptrdiff_t j0 = fc_part(s->cols, s->boxes_w, block), end = fc_part(s->cols, s->boxes_w, block + 1);
    FC(pack_box)(s, (const real *)d->call->x + group * s->channels * s->src_channel, image, j0, 1, box);
    const ptrdiff_t first = fc_part(d->outputs, d->parts, part), after = fc_part(d->outputs, d->parts, part + 1);
    const ptrdiff_t runs = fc_ceil_div(after - first, FC_SIGNAL_CHANNELS);
    FC(signal_run) run = {.x = box, .offset = d->offsets, .taps = d->taps, .cols = end - j0};
    const real *bias = d->call->bias;
    run.y_channel = s->dst_channel;
    run.bias_step = bias && d->call->bias_per_position;
    run.bias_channel = run.bias_step ? s->dst_channel : 1;
    for (ptrdiff_t r = 0; r < runs; r++) {
        const ptrdiff_t k = fc_part(after - first, runs, r), channels = fc_part(after - first, runs, r + 1) - k;
        const ptrdiff_t channel = group * d->outputs + first + k;
        run.w = (const real *)d->call->w + channel * d->taps;
        run.y = (real *)d->call->y + image * s->dst_row + channel * s->dst_channel + j0;
        run.bias = bias ? bias + channel * run.bias_channel + j0 * run.bias_step : NULL;
        FC(run_signal)(channels, &run);
    }
}

/* ---- plan, workspace, run */

static FC(direct_row) FC(plan_direct_row)(const fc_geometry *g, int threads) {
    FC(direct_row) d = {.s = fc_x_stencil(g), .outputs = g->K / g->groups};
    fc_stencil *s = &d.s;
    d.taps = s->channels * g->S;
    const ptrdiff_t tile = FC_SIGNAL_VECTORS * LANES;
    const ptrdiff_t fit = FC_SIGNAL_BYTES / (ptrdiff_t)sizeof(real) / (s->channels * s->phases_w) - s->halo_w;
    const ptrdiff_t most = fc_max(4 * tile, fit);
    s->boxes_w = fc_ceil_div(s->cols, most); /* parts of at least 2 tiles, as there are 256 columns or more */
    s->boxes_h = s->rows;
    s->box_rows = 1;
    s->box_cols = fc_ceil_div(s->cols, s->boxes_w);
    fc_pack_sizes(s, LANES, (double)d.taps);
    const ptrdiff_t items = s->rows * s->groups * s->boxes_w, whole = fc_ceil_div(d.outputs, FC_SIGNAL_CHANNELS);
    d.parts = threads > 1 ? fc_clip(fc_ceil_div(4 * (ptrdiff_t)threads, items), 1, whole) : 1;
    d.offsets_bytes = fc_round_up((size_t)d.taps * sizeof(ptrdiff_t));
    d.box_bytes = fc_round_up((size_t)(s->packed + tile) * sizeof(real));
    return d;
}

static size_t FC(direct_row_bytes)(const fc_geometry *g, int threads) {
    const FC(direct_row) d = FC(plan_direct_row)(g, threads);
    return d.offsets_bytes + (size_t)threads * d.box_bytes;
}

static void FC(direct_row_forward)(const fc_call *call, int threads) {
    const fc_geometry *g = &call->geometry;
    FC(direct_row) d = FC(plan_direct_row)(g, threads);
    const fc_stencil *s = &d.s;
    d.call = call;
    d.offsets = call->workspace;
    d.boxes = (char *)call->workspace + d.offsets_bytes;
    for (ptrdiff_t c = 0; c < s->channels; c++)
        for (ptrdiff_t q = 0; q < g->S; q++)
            d.offsets[c * g->S + q] = fc_forward_offset(s, c, 0, q);
    fc_parallel(threads, s->rows * s->groups * s->boxes_w * d.parts, call->keep_denormals, FC(direct_row_item), &d);
}
