/* direct, one row: forward of 1-D layers with few products to a sum, such as the first layers of audio nets.
 *
 *     y[k][q] = sum over taps t = (c, s) of  w[k][t] * packed[offset[t] + q]
 *
 * With 10 or 16 products to a sum, what surrounds the multiply-adds decides: outputs are stored straight to their
 * place, tile after tile within one function. A block of a signal is packed padded, its stride phases apart (pack.h),
 * so that it stays in level 2 while all output channels pass over it; each writes a run of some KB. A tile is
 * FC_SIGNAL_CHANNELS channels x FC_SIGNAL_VECTORS vectors; blocks end in a tile that overlaps, so stores are whole.
 * Against gemm.h: up to 3 times as fast, most where there are fewest products (Zen 3: 80% of peak where outputs stay in
 * level 3; 1 to 512 channels of 16 taps, stride 8: 1.7 times). Against the rows of direct.h, which lay out a table of
 * pieces first: 1.2 to 1.3 times for one channel of 3 to 9 taps to 16 outputs or fewer, 0.98 to 1.05 for most others.
 *
 * Rows of a few vectors are tiles of their own. Several images of them are packed ahead: pixels read across the ends of
 * vectors that were just written wait until the stores before these are done, the outputs of the image before among
 * them (1 to 25 channels of 5 taps on 40 columns: 1.25 times as fast).
 *
 * An item is an image or some short ones, a group, a block of columns and a part of the output channels. Workspace: the
 * table of taps, and a packed block for each worker. */

#ifndef FC_DIRECT_ROW
#define FC_DIRECT_ROW
#if FC_REGISTERS == 32
enum { FC_SIGNAL_CHANNELS = 6, FC_SIGNAL_VECTORS = 4 };
#else
enum { FC_SIGNAL_CHANNELS = 4, FC_SIGNAL_VECTORS = 3 };
#endif
enum {
    FC_SIGNAL_BYTES = 96 << 10,               /* a packed block; of 16 KB: runs of y are short, up to 1.07 slower */
    FC_SIGNAL_NEAR = 16 << 10,                /* packed short rows: half of level 1 */
    FC_SIGNAL_TAPS = FC_CHUNK + FC_CHUNK / 2, /* summed in registers at once: as many as direct.h sums at once */
    FC_SIGNAL_PLANES = 32,                    /* most channels x phases of a packed block */
    FC_SIGNAL_LEAST_OUTPUTS = 4,
    FC_SIGNAL_LEAST_COLUMNS = 256,
    FC_SIGNAL_SHORT = 48, /* most products to a sum in short rows, and in those of a single vector */
    FC_SIGNAL_SHORTEST = 9,
    FC_PLANES_BYTES = 24 << 10, /* copies of a plane (direct_plane.h), and uses of a copied pixel that they are worth */
    FC_PLANES_USES = 40
};

/* Whether short 1-D rows are best computed where they are, their last vectors overlapping: against batch.h 1.05 to 2
 * times as fast where this holds (AVX2; 5 products: 1.8 on 19 columns, 1.2 on 14), 0.4 to 1 where it does not. What is
 * computed twice must be less than what batch.h spends on turning outputs, some 6 multiply-adds each. */
static inline int direct_short_rows(const fc_geometry *g) {
    const ptrdiff_t lanes = FC_VECTOR_BYTES / (ptrdiff_t)sizeof(float), filled = fc_ceil_div(g->Q, lanes) * lanes;
    const ptrdiff_t channels = g->C / g->groups, products = channels * g->S;
    return fc_one_row(g) && g->Q >= lanes && filled <= FC_SIGNAL_VECTORS * lanes &&
           g->K / g->groups >= FC_SIGNAL_LEAST_OUTPUTS &&
           channels * fc_min(g->S, g->stride_w) <= FC_SIGNAL_PLANES &&
           products <= (filled > lanes ? FC_SIGNAL_SHORT : FC_SIGNAL_SHORTEST) &&
           products * (filled - g->Q) <= 6 * g->Q;
}

/* Whether forward takes this way, in place of the boxes of direct.h and the panels of gemm.h. */
static inline int direct_one_row(const fc_geometry *g) {
    const ptrdiff_t channels = g->C / g->groups;
    return direct_short_rows(g) ||
           (fc_one_row(g) && channels * g->S <= FC_SIGNAL_TAPS &&
            channels * fc_min(g->S, g->stride_w) <= FC_SIGNAL_PLANES &&
            g->K / g->groups >= FC_SIGNAL_LEAST_OUTPUTS && g->Q >= FC_SIGNAL_LEAST_COLUMNS);
}

/* Whether direct's forward is at its best: sums of few products along rows that fill vectors, stored straight to their
 * place. Then 1.1 to 2 times as fast as gemm (AVX2; 3 channels of 3x3: 2, 12 of 15: 1.15, 3 of 7x7: 1.25) and as batch
 * (3 channels of 3x3 on 32x32: 1.5, on 16x16: 1.4). */
static inline int direct_along_rows(ptrdiff_t products, ptrdiff_t cols) {
    const ptrdiff_t lanes = FC_VECTOR_BYTES / (ptrdiff_t)sizeof(float), filled = fc_ceil_div(cols, lanes) * lanes;
    return products <= FC_LONG_CHUNK && cols >= 2 * lanes && 20 * cols >= 17 * filled;
}
#endif

/* What runs of tiles work on: `runs` times CB channels of `cols` columns, one after the other. */
typedef struct {
    const real *x, *w;
    const ptrdiff_t *offset;
    ptrdiff_t taps, cols, runs;
    real *y;
    ptrdiff_t y_channel;
    const real *bias; /* NULL, or one number a channel, or as many as y where bias_step is not 0 */
    ptrdiff_t bias_channel, bias_step;
} FC(signal_run);

/* CB channels of VB vectors, the last of which begins `last` columns on: in a row shorter than a tile it overlaps. */
FC_INLINE void FC(signal_tile)(const int CB, const int VB, const FC(signal_run) *run, ptrdiff_t last, const real *x,
                               const real *w, const real *bias, real *y) {
    const ptrdiff_t taps = run->taps;
    vec sum[FC_SIGNAL_CHANNELS * FC_SIGNAL_VECTORS];
    FC_UNROLL for (int i = 0; i < CB * VB; i++) sum[i] = (vec){0};
    FC_ROLLED for (ptrdiff_t t = 0; t < taps; t++, w++) {
        const real *const at = x + run->offset[t];
        vec pixels[FC_SIGNAL_VECTORS];
        FC_UNROLL for (int v = 0; v < VB; v++) pixels[v] = FC(load)(at + (v < VB - 1 ? v * LANES : last));
        FC_UNROLL for (int c = 0; c < CB; c++) {
            const vec weight = FC(splat)(w[c * taps]);
            FC_UNROLL for (int v = 0; v < VB; v++) sum[c * VB + v] += weight * pixels[v];
        }
    }
    if (bias)
        FC_UNROLL for (int c = 0; c < CB; c++)
            FC_UNROLL for (int v = 0; v < VB; v++) {
                const real *const at = bias + c * run->bias_channel;
                sum[c * VB + v] += run->bias_step ? FC(load)(at + (v < VB - 1 ? v * LANES : last)) : FC(splat)(*at);
            }
    FC_UNROLL for (int c = 0; c < CB; c++)
        FC_UNROLL for (int v = 0; v < VB; v++)
            FC(store)(y + c * run->y_channel + (v < VB - 1 ? v * LANES : last), sum[c * VB + v]);
}

/* Rows of a tile or more: the last one overlaps, the same numbers once more. */
FC_INLINE void FC(signal_tiles)(const int CB, const FC(signal_run) *run) {
    enum { VB = FC_SIGNAL_VECTORS, TILE = FC_SIGNAL_VECTORS * FC_VECTOR_BYTES / sizeof(real) };
    const ptrdiff_t last = run->cols - TILE;
    const real *w = run->w, *bias = run->bias;
    real *y = run->y;
    for (ptrdiff_t r = run->runs; r; r--, w += CB * run->taps, y += CB * run->y_channel) {
        for (ptrdiff_t j = 0, next; j <= last; j = next) {
            FC(signal_tile)(CB, VB, run, TILE - LANES, run->x + j, w, bias ? bias + j * run->bias_step : NULL, y + j);
            next = j + TILE <= last || j == last ? j + TILE : last;
        }
        if (bias)
            bias += CB * run->bias_channel;
    }
}

/* Rows of at most VB vectors, and more than one fewer. */
FC_INLINE void FC(signal_row)(const int CB, const int VB, const FC(signal_run) *run) {
    const real *w = run->w, *bias = run->bias;
    real *y = run->y;
    for (ptrdiff_t r = run->runs; r; r--, w += CB * run->taps, y += CB * run->y_channel) {
        FC(signal_tile)(CB, VB, run, run->cols - LANES, run->x, w, bias, y);
        if (bias)
            bias += CB * run->bias_channel;
    }
}

FC_INLINE void FC(signal_rows)(const int CB, const FC(signal_run) *run) {
    switch (fc_ceil_div(run->cols, LANES)) {
    case 1: FC(signal_row)(CB, 1, run); break;
    case 2: FC(signal_row)(CB, 2, run); break;
    case 3: FC(signal_row)(CB, 3, run); break;
#if FC_REGISTERS == 32
    case 4: FC(signal_row)(CB, 4, run); break;
#endif
    default: FC(signal_tiles)(CB, run); break;
    }
}

FC_NOINLINE void FC(run_signal)(ptrdiff_t channels, const FC(signal_run) *run) {
    switch (channels) {
    case 1: FC(signal_rows)(1, run); break;
    case 2: FC(signal_rows)(2, run); break;
    case 3: FC(signal_rows)(3, run); break;
    case 4: FC(signal_rows)(4, run); break;
#if FC_REGISTERS == 32
    case 5: FC(signal_rows)(5, run); break;
    case 6: FC(signal_rows)(6, run); break;
#endif
    }
}

/* `outputs` channels, as many at a time as are best. */
static void FC(run_signals)(ptrdiff_t outputs, FC(signal_run) run) {
    const ptrdiff_t cb = fc_ceil_div(outputs, fc_ceil_div(outputs, FC_SIGNAL_CHANNELS)), rest = outputs % cb;
    run.runs = outputs / cb;
    FC(run_signal)(cb, &run);
    if (!rest)
        return;
    run.w += (outputs - rest) * run.taps;
    run.y += (outputs - rest) * run.y_channel;
    if (run.bias)
        run.bias += (outputs - rest) * run.bias_channel;
    run.runs = 1;
    FC(run_signal)(rest, &run);
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
    const ptrdiff_t block = i % s->boxes_w, group = i / s->boxes_w % s->groups;
    const ptrdiff_t begin = i / s->boxes_w / s->groups * s->box_rows, stop = fc_min(begin + s->box_rows, s->rows);
    const ptrdiff_t j0 = fc_part(s->cols, s->boxes_w, block), end = fc_part(s->cols, s->boxes_w, block + 1);
    const ptrdiff_t first = fc_part(d->outputs, d->parts, part), after = fc_part(d->outputs, d->parts, part + 1);
    const ptrdiff_t channel = group * d->outputs + first, outputs = after - first;
    FC(signal_run) run = {.x = box, .offset = d->offsets, .taps = d->taps, .cols = end - j0};
    const real *bias = d->call->bias;
    run.y_channel = s->dst_channel;
    run.bias_step = bias && d->call->bias_per_position;
    run.bias_channel = run.bias_step ? s->dst_channel : 1;
    if (bias)
        bias += channel * run.bias_channel + j0 * run.bias_step;
    FC(pack_box)(s, (const real *)d->call->x + group * s->channels * s->src_channel, begin, j0, stop - begin, box);
    for (ptrdiff_t image = begin; image < stop; image++, run.x += s->pitch) {
        run.w = (const real *)d->call->w + channel * d->taps;
        run.y = (real *)d->call->y + image * s->dst_row + channel * s->dst_channel + j0;
        run.bias = bias;
        FC(run_signals)(outputs, run);
    }
}

/* ---- plan, workspace, run */

static FC(direct_row) FC(plan_direct_row)(const fc_geometry *g, int threads) {
    FC(direct_row) d = {.s = fc_x_stencil(g), .outputs = g->K / g->groups};
    fc_stencil *s = &d.s;
    d.taps = s->channels * g->S;
    const ptrdiff_t tile = FC_SIGNAL_VECTORS * LANES, limit = FC_SIGNAL_BYTES / (ptrdiff_t)sizeof(real);
    const ptrdiff_t depth = s->channels * s->phases_w, most = fc_max(4 * tile, limit / depth - s->halo_w);
    s->boxes_w = fc_ceil_div(s->cols, most); /* parts of at least 2 tiles, or one */
    s->box_cols = fc_ceil_div(s->cols, s->boxes_w);
    s->box_rows = 1;
    if (s->cols < FC_SIGNAL_LEAST_COLUMNS)
        s->box_rows = fc_clip(FC_SIGNAL_NEAR / (ptrdiff_t)sizeof(real) / (depth * (s->cols + s->halo_w + LANES)), 1,
                              fc_max(1, s->rows / fc_max(4 * threads, 8)));
    s->boxes_h = fc_ceil_div(s->rows, s->box_rows);
    fc_pack_sizes(s, LANES, (double)d.taps);
    const ptrdiff_t items = s->boxes_h * s->groups * s->boxes_w;
    const ptrdiff_t whole = fc_ceil_div(d.outputs, FC_SIGNAL_CHANNELS);
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
    fc_parallel(threads, s->boxes_h * s->groups * s->boxes_w * d.parts, call->keep_denormals, FC(direct_row_item), &d);
}

#include "direct_plane.h"
