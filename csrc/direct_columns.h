/* direct, few input channels: backward_input as one matrix product, whose results are then added to x.
 *
 *     sums[m][pixel] = sum over k of  w[k][m] * y[k][pixel]        m = (channel, kernel row, kernel column)
 *     x[c][p * stride_h + r * dilation_h - pad_h][q * stride_w + ...] += sums[(c, r, s)][(p, q)]
 *
 * The stencils of direct.h copy y to boxes and have as many taps a phase as kernel / stride: one or two where a first
 * layer cuts a signal into patches, too few to hide that copy. Here weights are read where they are, as a row of w has
 * its rows m side by side, and so is y: the first register tile of a panel (gemm_tile.h) keeps the pixels that it reads
 * for the tiles of the other rows, and asks for those FC_COLUMNS_AHEAD panels on. Few steps of k at a time over a long
 * run of pixels, so that the lines of y that panels share stay in level 1.
 *
 * No zeros around y are multiplied: a weight or y that is not finite reaches only what depends on it.
 *
 * An item is an image, a group and a slab of rows of x, of columns where y has one row. Slabs are cut in x, so that no
 * two add to the same element; the few pixels of y that reach two slabs are summed for both. Workspace: for each worker
 * a panel and the sums of one block of pixels. */

#ifndef FC_DIRECT_COLUMNS
#define FC_DIRECT_COLUMNS
enum {
#if FC_REGISTERS == 32
    FC_COLUMNS_ROWS = 8,
    FC_COLUMNS_VECTORS = 3,
#else
    FC_COLUMNS_ROWS = 6,
    FC_COLUMNS_VECTORS = 2,
#endif
    FC_COLUMNS_DEPTH = 64,  /* steps of k: their lines of y, of two panels or three, stay in level 1 */
    FC_COLUMNS_PANELS = 64, /* most of a block */
    FC_COLUMNS_AHEAD = 2,
    FC_COLUMNS_SUMS_BYTES = 128 << 10
};

/* Whether backward_input takes this way in place of the stencils of direct.h. Where it does, 1.05 to 3 times as fast
 * (AVX2; 16 taps of stride 8 from 512 channels to one 2.0, 4x4 patches from 96 to 3 1.6, 7x7 of stride 2 from 64 to 3
 * 1.3). With fewer channels of y what is added to x outweighs the rest, 0.4 to 0.9; at stride 1, where the stencils are
 * at their best, it needs more. Under 9 rows of the product, lines of y that share cache sets decide: 0.8 to 1. */
static inline int direct_by_columns(const fc_geometry *g, ptrdiff_t lanes) {
    const ptrdiff_t in = g->C / g->groups, out = g->K / g->groups, rows = in * g->R * g->S, plane = g->P * g->Q;
    if (in >= 8 || plane < FC_COLUMNS_VECTORS * lanes || (rows < 9 && plane % 1024 == 0))
        return 0;
    if (g->R * g->S > 1 && g->R <= g->stride_h && g->S <= g->stride_w) /* patches: no element of x in two */
        return out >= 8;
    if (g->stride_h > 1 || g->stride_w > 1)
        return rows <= 512 && out >= (in == 1 ? 32 : 48);
    return rows <= 160 && out >= (in == 1 ? 32 : in < 4 ? 64 : 128);
}
#endif

typedef struct {
    const fc_call *call;
    fc_geometry g;
    ptrdiff_t rows, slabs, block, sums_row; /* rows of the product; pixels of a block */
    ptrdiff_t unit;                         /* taps that are added to x in one pass */
    char *workers;
    size_t panel_bytes, sums_bytes;
} FC(columns);

/* Part of one plane of x, and the pixels of y that reach it. */
typedef struct {
    ptrdiff_t h0, h1, v0, v1, first, end;
} FC(columns_slab);

/* The first MR rows of a panel, b where it is in y: `panel` gets a copy. */
FC_INLINE void FC(columns_tile)(const int MR, const FC(gemm_run) *run, ptrdiff_t b_step, real *panel) {
    enum { NV = FC_COLUMNS_VECTORS, AHEAD = FC_COLUMNS_AHEAD * NV * FC_VECTOR_BYTES / sizeof(real) };
    const real *a = run->a, *b = run->b;
    vec sum[FC_COLUMNS_ROWS * NV];
    FC_UNROLL for (int i = 0; i < MR * NV; i++) sum[i] = (vec){0};
    FC_ROLLED for (ptrdiff_t k = run->depth; k; k--, a += run->a_step, b += b_step, panel += NV * LANES) {
        vec held[NV];
        FC_UNROLL for (int line = 0; line < NV * FC_VECTOR_BYTES; line += FC_LINE)
            __builtin_prefetch((const char *)(b + AHEAD) + line);
        FC_UNROLL for (int v = 0; v < NV; v++) held[v] = FC(load)(b + v * LANES);
        FC_UNROLL for (int r = 0; r < MR; r++) {
            const vec weight = FC(splat)(a[r]);
            FC_UNROLL for (int v = 0; v < NV; v++) sum[r * NV + v] += weight * held[v];
        }
        FC_UNROLL for (int v = 0; v < NV; v++) FC(store)(panel + v * LANES, held[v]);
    }
    real *c = run->c;
    if (run->add)
        FC_UNROLL for (int r = 0; r < MR; r++)
            FC_UNROLL for (int v = 0; v < NV; v++) sum[r * NV + v] += FC(load)(c + r * run->c_row + v * LANES);
    FC_UNROLL for (int r = 0; r < MR; r++)
        FC_UNROLL for (int v = 0; v < NV; v++) FC(store)(c + r * run->c_row + v * LANES, sum[r * NV + v]);
}

FC_NOINLINE void FC(run_columns)(ptrdiff_t mr, const FC(gemm_run) *run, ptrdiff_t b_step, real *panel) {
    switch (mr) {
    case 1: FC(columns_tile)(1, run, b_step, panel); break;
    case 2: FC(columns_tile)(2, run, b_step, panel); break;
    case 3: FC(columns_tile)(3, run, b_step, panel); break;
    case 4: FC(columns_tile)(4, run, b_step, panel); break;
    case 5: FC(columns_tile)(5, run, b_step, panel); break;
    case 6: FC(columns_tile)(6, run, b_step, panel); break;
#if FC_REGISTERS == 32
    case 7: FC(columns_tile)(7, run, b_step, panel); break;
    case 8: FC(columns_tile)(8, run, b_step, panel); break;
#endif
    }
}

/* All rows of the product for one panel of pixels, `depth` steps of k. */
static void FC(columns_panel)(const FC(columns) *d, FC(gemm_run) run, ptrdiff_t b_step, real *panel) {
    const ptrdiff_t parts = fc_ceil_div(d->rows, FC_COLUMNS_ROWS), less = d->rows / parts, longer = d->rows % parts;
    for (ptrdiff_t i = 0; i < parts; i++) {
        const ptrdiff_t mr = less + (i < longer);
        if (i) {
            FC(run_gemm)(1, (int)mr, FC_COLUMNS_VECTORS, &run);
        } else {
            FC(run_columns)(mr, &run, b_step, panel);
            run.b = panel;
        }
        run.a += mr;
        run.c += mr * run.c_row;
    }
}

/* The product for `pixels` pixels of the planes at y, whole panels of them. */
static void FC(columns_product)(const FC(columns) *d, const real *w, const real *y, ptrdiff_t pixels, real *panel,
                                real *sums) {
    enum { TILE = FC_COLUMNS_VECTORS * FC_VECTOR_BYTES / sizeof(real) };
    const ptrdiff_t outputs = d->g.K / d->g.groups, plane = d->g.P * d->g.Q;
    for (ptrdiff_t k = 0; k < outputs; k += FC_COLUMNS_DEPTH) {
        FC(gemm_run) run = {.a = w + k * d->rows, .a_step = d->rows, .c_row = d->sums_row, .add = k > 0};
        run.depth = fc_min(FC_COLUMNS_DEPTH, outputs - k);
        for (ptrdiff_t i = 0; i < pixels; i += TILE) {
            run.b = y + k * plane + i;
            run.c = sums + i;
            FC(columns_panel)(d, run, plane, panel);
        }
    }
}

/* ---- adding to x
 *
 * Element by element this takes 1.5 cycles each, a third of the time of 64 channels of 7x7; with vectors that hold what
 * lies side by side in x, 0.3 to 0.5. Taps are taken `unit` at a time, those that are not there as zeros. */

/* Taps that one pass adds; 1 where the stride is not: element by element. Vectors of a pixel's taps would overlap where
 * LANES is more than the stride, and each load of x wait for the store before it. */
static inline ptrdiff_t FC(columns_unit)(const fc_geometry *g) {
    if (g->dilation_w > 1)
        return 1;
    if (g->stride_w == 2 || g->stride_w == 4)
        return g->stride_w;
    return g->stride_w >= LANES && 2 * g->S >= LANES ? LANES : 1;
}

FC_INLINE void FC(columns_more)(real *x, vec more) { FC(store)(x, FC(load)(x) + more); }

/* `taps` taps of `count` pixels, a whole number of vectors, from x on. Rows of `sums` are `row` apart. */
FC_INLINE void FC(columns_pairs)(const real *sums, ptrdiff_t row, ptrdiff_t taps, ptrdiff_t count, real *x) {
    for (ptrdiff_t j = 0; j < count; j += LANES, x += 2 * LANES) {
        const vec even = FC(load)(sums + j), odd = taps > 1 ? FC(load)(sums + row + j) : (vec){0};
        FC(columns_more)(x, FC(zip_low)(even, odd));
        FC(columns_more)(x + LANES, FC(zip_high)(even, odd));
    }
}

FC_INLINE void FC(columns_fours)(const real *sums, ptrdiff_t row, ptrdiff_t taps, ptrdiff_t count, real *x) {
    for (ptrdiff_t j = 0; j < count; j += LANES, x += 4 * LANES) {
        const vec a = FC(load)(sums + j), b = taps > 1 ? FC(load)(sums + row + j) : (vec){0};
        const vec c = taps > 2 ? FC(load)(sums + 2 * row + j) : (vec){0};
        const vec d = taps > 3 ? FC(load)(sums + 3 * row + j) : (vec){0};
        const vec even = FC(zip_low)(a, c), odd = FC(zip_low)(b, d);
        const vec later_even = FC(zip_high)(a, c), later_odd = FC(zip_high)(b, d);
        FC(columns_more)(x, FC(zip_low)(even, odd));
        FC(columns_more)(x + LANES, FC(zip_high)(even, odd));
        FC(columns_more)(x + 2 * LANES, FC(zip_low)(later_even, later_odd));
        FC(columns_more)(x + 3 * LANES, FC(zip_high)(later_even, later_odd));
    }
}

FC_INLINE void FC(columns_turned)(const real *sums, ptrdiff_t row, ptrdiff_t taps, ptrdiff_t count, ptrdiff_t hop,
                                  real *x) {
    FC(ints) there;
    for (int l = 0; l < (int)LANES; l++)
        there[l] = -(l < taps);
    for (ptrdiff_t j = 0; j < count; j += FC_TURN) {
        vec turned[FC_TURN];
        FC(turn)(sums + j, row, turned);
        FC_UNROLL for (int i = 0; i < FC_TURN; i++)
            FC(columns_more)(x + (j + i) * hop, (vec)((FC(ints))turned[i] & there));
    }
}

/* x[j * hop] += sums[j], four at a time, as compilers do not know that they are apart. */
FC_INLINE void FC(columns_apart)(const real *sums, ptrdiff_t count, ptrdiff_t hop, real *x) {
    ptrdiff_t j = 0;
    for (; j + 4 <= count; j += 4, x += 4 * hop) {
        const real a = x[0] + sums[j], b = x[hop] + sums[j + 1];
        const real c = x[2 * hop] + sums[j + 2], e = x[3 * hop] + sums[j + 3];
        x[0] = a, x[hop] = b, x[2 * hop] = c, x[3 * hop] = e;
    }
    for (; j < count; j++, x += hop)
        *x += sums[j];
}

/* All taps of a kernel row for `count` pixels, a whole number of vectors, all of which lie in the row. */
static void FC(columns_whole)(const FC(columns) *d, const real *sums, ptrdiff_t count, real *x) {
    const ptrdiff_t row = d->sums_row, S = d->g.S, hop = d->g.stride_w, unit = d->unit;
    for (ptrdiff_t s = 0; s < S; s += unit, sums += unit * row) {
        real *const at = x + s * d->g.dilation_w;
        if (hop == 1)
            for (ptrdiff_t j = 0; j < count; j += LANES)
                FC(columns_more)(at + j, FC(load)(sums + j));
        else if (unit == 1)
            FC(columns_apart)(sums, count, hop, at);
        else if (hop == 2)
            FC(columns_pairs)(sums, row, S - s, count, at);
        else if (hop == 4)
            FC(columns_fours)(sums, row, S - s, count, at);
        else
            FC(columns_turned)(sums, row, S - s, count, hop, at);
    }
}

/* Those of pixels first .. end that lie in v0 .. v1 of the row at x. */
static void FC(columns_edge)(const FC(columns) *d, const FC(columns_slab) *slab, const real *sums, ptrdiff_t first,
                             ptrdiff_t end, real *x) {
    const ptrdiff_t S = d->g.S, row = d->sums_row, step = d->g.dilation_w;
    for (ptrdiff_t j = first; j < end; j++) {
        ptrdiff_t v = j * d->g.stride_w - d->g.pad_w;
        for (ptrdiff_t s = 0; s < S; s++, v += step)
            if (v >= slab->v0 && v < slab->v1)
                x[v] += sums[s * row + j];
    }
}

/* Pixels first .. end of row p of y to the slab; `sums` is that of pixel 0 in the first row of the product. */
static void FC(columns_scatter)(const FC(columns) *d, const FC(columns_slab) *slab, ptrdiff_t p, ptrdiff_t first,
                                ptrdiff_t end, const real *sums, real *x) {
    const fc_geometry *g = &d->g;
    const ptrdiff_t stride = g->stride_w, start = slab->v0 + g->pad_w;
    const ptrdiff_t reach = fc_ceil_div(g->S, d->unit) * d->unit * g->dilation_w, room = slab->v1 + g->pad_w - reach;
    const ptrdiff_t lo = start > 0 ? fc_clip(fc_ceil_div(start, stride), first, end) : first;
    const ptrdiff_t most = room < 0 ? 0 : fc_clip(room / stride + 1, lo, end) - lo, hi = lo + most / LANES * LANES;
    for (ptrdiff_t c = 0; c < g->C / g->groups; c++, x += g->H * g->W)
        for (ptrdiff_t r = 0; r < g->R; r++, sums += g->S * d->sums_row) {
            const ptrdiff_t h = p * g->stride_h + r * g->dilation_h - g->pad_h;
            if (h < slab->h0 || h >= slab->h1)
                continue;
            real *const row = x + h * g->W;
            FC(columns_edge)(d, slab, sums, first, lo, row);
            if (lo < hi)
                FC(columns_whole)(d, sums + lo, hi - lo, row + lo * stride - g->pad_w);
            FC(columns_edge)(d, slab, sums, hi, end, row);
        }
}

/* Positions 0 .. count of y along an axis that reach x0 .. x1. */
static inline void FC(columns_reach)(ptrdiff_t x0, ptrdiff_t x1, ptrdiff_t stride, ptrdiff_t pad, ptrdiff_t reach,
                                     ptrdiff_t count, ptrdiff_t *first, ptrdiff_t *end) {
    *first = x0 + pad > reach ? fc_min(fc_ceil_div(x0 + pad - reach, stride), count) : 0;
    *end = fc_min(fc_ceil_div(x1 + pad, stride), count);
}

static FC(columns_slab) FC(columns_slab_at)(const fc_geometry *g, ptrdiff_t slabs, ptrdiff_t i) {
    FC(columns_slab) s = {0, g->H, 0, g->W, 0, 0};
    if (g->P == 1) {
        s.v0 = fc_part(g->W, slabs, i), s.v1 = fc_part(g->W, slabs, i + 1);
        FC(columns_reach)(s.v0, s.v1, g->stride_w, g->pad_w, (g->S - 1) * g->dilation_w, g->Q, &s.first, &s.end);
        return s;
    }
    s.h0 = fc_part(g->H, slabs, i), s.h1 = fc_part(g->H, slabs, i + 1);
    FC(columns_reach)(s.h0, s.h1, g->stride_h, g->pad_h, (g->R - 1) * g->dilation_h, g->P, &s.first, &s.end);
    s.first *= g->Q, s.end *= g->Q;
    return s;
}

static void FC(columns_item)(void *context, ptrdiff_t i, int number) {
    enum { TILE = FC_COLUMNS_VECTORS * FC_VECTOR_BYTES / sizeof(real) };
    const FC(columns) *d = context;
    const fc_geometry *g = &d->g;
    char *own = d->workers + (size_t)number * (d->panel_bytes + d->sums_bytes);
    real *const panel = (real *)own, *const sums = (real *)(own + d->panel_bytes);
    const FC(columns_slab) slab = FC(columns_slab_at)(g, d->slabs, i % d->slabs);
    const ptrdiff_t unit = i / d->slabs, group = unit % g->groups, channels = g->C / g->groups; /* image, group */
    const ptrdiff_t plane = g->P * g->Q, outputs = g->K / g->groups;
    const real *w = (const real *)d->call->w + group * outputs * d->rows;
    const real *y = (const real *)d->call->y + unit * outputs * plane;
    real *x = (real *)d->call->x + unit * channels * g->H * g->W;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t h = slab.h0; h < slab.h1; h++)
            memset(x + (c * g->H + h) * g->W + slab.v0, 0, (size_t)(slab.v1 - slab.v0) * sizeof(real));
    for (ptrdiff_t done = slab.first, now; done < slab.end; done += now) {
        now = fc_min(d->block, slab.end - done);
        const ptrdiff_t pixels = fc_ceil_div(now, TILE) * TILE, from = fc_min(done, plane - pixels);
        FC(columns_product)(d, w, y + from, pixels, panel, sums);
        for (ptrdiff_t at = done, p = done / g->Q, end; at < done + now; at = end, p++) {
            end = fc_min((p + 1) * g->Q, done + now);
            FC(columns_scatter)(d, &slab, p, at - p * g->Q, end - p * g->Q, sums + p * g->Q - from, x);
        }
    }
}

/* ---- plan, workspace, run */

static FC(columns) FC(columns_plan)(const fc_geometry *g, int threads) {
    enum { TILE = FC_COLUMNS_VECTORS * FC_VECTOR_BYTES / sizeof(real) };
    FC(columns) d = {.g = *g, .rows = g->C / g->groups * g->R * g->S, .slabs = 1};
    if (threads > 1) { /* some four items a thread, none so thin that most of it is what reaches two */
        const int along = g->P == 1;
        const ptrdiff_t reach = along ? g->S * g->dilation_w : g->R * g->dilation_h, size = along ? g->W : g->H;
        const ptrdiff_t least = along ? fc_max(8 * reach, 16 * TILE * g->stride_w) : fc_max(2 * reach, 4 * g->stride_h);
        d.slabs = fc_clip(fc_ceil_div(4 * (ptrdiff_t)threads, g->N * g->groups), 1, fc_max(1, size / least));
    }
    const ptrdiff_t panels = FC_COLUMNS_SUMS_BYTES / (d.rows * TILE * (ptrdiff_t)sizeof(real));
    d.block = fc_min(fc_clip(panels, 1, FC_COLUMNS_PANELS), g->P * g->Q / TILE) * TILE;
    d.sums_row = d.block + LANES; /* rows of 2^n vectors would share cache sets */
    d.panel_bytes = fc_round_up(FC_COLUMNS_DEPTH * TILE * sizeof(real));
    d.unit = FC(columns_unit)(g);
    d.sums_bytes = fc_round_up((size_t)((d.rows + d.unit) * d.sums_row) * sizeof(real)); /* a last pass reads so many */
    return d;
}

static size_t FC(columns_bytes)(const fc_geometry *g, int threads) {
    const FC(columns) d = FC(columns_plan)(g, threads);
    return (size_t)threads * (d.panel_bytes + d.sums_bytes);
}

static void FC(columns_backward_input)(const fc_call *call, int threads) {
    FC(columns) d = FC(columns_plan)(&call->geometry, threads);
    d.call = call;
    d.workers = call->workspace;
    fc_parallel(threads, d.g.N * d.g.groups * d.slabs, call->keep_denormals, FC(columns_item), &d);
}
