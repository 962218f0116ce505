/* depthwise: backward_weight of one filter a channel, of two to seven kernel rows (depthwise.h packs x and cuts it; one
 * row: depthwise_row_weight.h).
 *
 *     w[r][s] = sum over images, p, q of  y[p][q] * x[p * stride + r * step][column(s) + q]
 *
 * y is read where it is, pixels in the lanes. A tile is RB rows of y under R kernel rows and SB taps: it holds the rows
 * of y and meets each vector of x once for all of them, so 4 rows under 3x3 cost 22 loads for 36 multiply-adds,
 * where direct_weight.h has 10 for 9 (Zen 3: 2.5 times as fast). The R * SB sums stay in registers for a whole block; a
 * tree over lanes ends them.
 * The lanes beyond the end of a row are masked in x as well as in y: 0 times inf would be NaN.
 *
 * An item is a channel and a part of the outputs that read it, so results do not depend on the number of threads.
 * Workspace: the columns of the taps, and for each worker a packed block and a vector of sums for every weight. */

#ifndef FC_DEPTHWISE_WEIGHT
#define FC_DEPTHWISE_WEIGHT
enum { FC_TAP_ROWS = 4, FC_TAP_SUMS = 10 };

static const char *depthwise_unsupported_weight(const fc_geometry *g) {
    if (g->R > 1)
        return depthwise_unsupported_rows(g);
    return depthwise_row_weight_able(g) ? depthwise_unsupported(g) : "one kernel row, strided, padded above or long";
}

static const char *depthwise_unwise_weight(const fc_geometry *g, int threads) {
    if (g->R == 1 && g->Q < fc_max(64, 8 * g->S))
        return "rows so short that their ends weigh";
    if (g->R == 1 && g->K > g->groups && (g->S > 12 || g->K / g->groups > 8))
        return "several outputs a channel with many taps: tiles of several of them share more";
    if (g->K / g->groups > 32)
        return "more than 32 outputs a channel: tiles of several of them share more";
    if (threads > 1 && g->K < threads)
        return "fewer channels than threads";
    return NULL;
}

/* Taps that a tile takes at a time. */
static ptrdiff_t depthwise_taps(const fc_geometry *g, ptrdiff_t left) {
    static const int most[] = {0, 0, 4, 3, 2, 2, 1, 1};
    return left < most[g->R] ? 1 : most[g->R];
}
#endif

/* What a tile works on: `tiles` times RB rows of y, `cols` columns of them. */
typedef struct {
    const real *x, *y;
    ptrdiff_t x_row, y_row, tiles, cols;
    const ptrdiff_t *column;
    real *sum; /* a vector for every tap of the first kernel row; those of the next sum_row further */
    ptrdiff_t sum_row;
} FC(tap_run);

/* PART: a single vector of which only `cols` lanes are there. */
FC_INLINE void FC(tap_tile)(const int R, const int STRIDE, const int SB, const int RB, const int PART,
                            const FC(tap_run) *run) {
    vec sum[FC_TAP_SUMS];
    FC_UNROLL for (int i = 0; i < R * SB; i++) sum[i] = (vec){0};
    ptrdiff_t column[4];
    FC_UNROLL for (int s = 0; s < SB; s++) column[s] = run->column[s];
    const ptrdiff_t x_row = run->x_row, y_row = run->y_row, cols = PART ? 1 : run->cols;
    const FC(lanes) lanes = FC(between)(0, PART ? run->cols : LANES);
    const FC(mask) mask = FC(mask_between)(0, PART ? run->cols : LANES);
    for (ptrdiff_t j = 0; j < cols; j += LANES) {
        const real *x = run->x + j, *y = run->y + j;
        FC_ROLLED for (ptrdiff_t tile = 0; tile < run->tiles; tile++, x += RB * STRIDE * x_row, y += RB * y_row) {
            vec held[FC_TAP_ROWS];
            FC_UNROLL for (int i = 0; i < RB; i++)
                held[i] = PART ? FC(load_lanes)(y + i * y_row, lanes) : FC(load)(y + i * y_row);
            FC_UNROLL for (int s = 0; s < SB; s++) {
                const real *at = x + column[s];
                FC_UNROLL for (int i = 0; i < (RB - 1) * STRIDE + R; i++, at += x_row) {
                    const vec pixels = PART ? FC(load_masked)(at, mask) : FC(load)(at);
                    FC_UNROLL for (int r = 0; r < R; r++)
                        if (i >= r && (i - r) % STRIDE == 0 && (i - r) / STRIDE < RB)
                            sum[r * SB + s] += held[(i - r) / STRIDE] * pixels;
                }
            }
        }
    }
    FC_UNROLL for (int r = 0; r < R; r++)
        FC_UNROLL for (int s = 0; s < SB; s++) {
            real *to = run->sum + r * run->sum_row + s * LANES;
            FC(store)(to, FC(load)(to) + sum[r * SB + s]);
        }
}

/* One function for each number of kernel rows and stride; the case says taps, rows, and whether lanes are missing. */
FC_NOINLINE void FC(tap_tiles_2)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(2, 1, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(2, 1, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(2, 1, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(2, 1, 1, 4, 1, run); break;
    case 410: FC(tap_tile)(2, 1, 4, 1, 0, run); break;
    case 411: FC(tap_tile)(2, 1, 4, 1, 1, run); break;
    case 440: FC(tap_tile)(2, 1, 4, 4, 0, run); break;
    case 441: FC(tap_tile)(2, 1, 4, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_3)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(3, 1, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(3, 1, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(3, 1, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(3, 1, 1, 4, 1, run); break;
    case 310: FC(tap_tile)(3, 1, 3, 1, 0, run); break;
    case 311: FC(tap_tile)(3, 1, 3, 1, 1, run); break;
    case 340: FC(tap_tile)(3, 1, 3, 4, 0, run); break;
    case 341: FC(tap_tile)(3, 1, 3, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_4)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(4, 1, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(4, 1, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(4, 1, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(4, 1, 1, 4, 1, run); break;
    case 210: FC(tap_tile)(4, 1, 2, 1, 0, run); break;
    case 211: FC(tap_tile)(4, 1, 2, 1, 1, run); break;
    case 240: FC(tap_tile)(4, 1, 2, 4, 0, run); break;
    case 241: FC(tap_tile)(4, 1, 2, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_5)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(5, 1, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(5, 1, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(5, 1, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(5, 1, 1, 4, 1, run); break;
    case 210: FC(tap_tile)(5, 1, 2, 1, 0, run); break;
    case 211: FC(tap_tile)(5, 1, 2, 1, 1, run); break;
    case 240: FC(tap_tile)(5, 1, 2, 4, 0, run); break;
    case 241: FC(tap_tile)(5, 1, 2, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_6)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(6, 1, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(6, 1, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(6, 1, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(6, 1, 1, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_7)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(7, 1, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(7, 1, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(7, 1, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(7, 1, 1, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_3_apart)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(3, 2, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(3, 2, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(3, 2, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(3, 2, 1, 4, 1, run); break;
    case 310: FC(tap_tile)(3, 2, 3, 1, 0, run); break;
    case 311: FC(tap_tile)(3, 2, 3, 1, 1, run); break;
    case 340: FC(tap_tile)(3, 2, 3, 4, 0, run); break;
    case 341: FC(tap_tile)(3, 2, 3, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_5_apart)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(5, 2, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(5, 2, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(5, 2, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(5, 2, 1, 4, 1, run); break;
    case 210: FC(tap_tile)(5, 2, 2, 1, 0, run); break;
    case 211: FC(tap_tile)(5, 2, 2, 1, 1, run); break;
    case 240: FC(tap_tile)(5, 2, 2, 4, 0, run); break;
    case 241: FC(tap_tile)(5, 2, 2, 4, 1, run); break;
    }
}

FC_NOINLINE void FC(tap_tiles_7_apart)(ptrdiff_t taps, ptrdiff_t rows, int part, const FC(tap_run) *run) {
    switch (100 * taps + 10 * rows + part) {
    case 110: FC(tap_tile)(7, 2, 1, 1, 0, run); break;
    case 111: FC(tap_tile)(7, 2, 1, 1, 1, run); break;
    case 140: FC(tap_tile)(7, 2, 1, 4, 0, run); break;
    case 141: FC(tap_tile)(7, 2, 1, 4, 1, run); break;
    }
}

static void FC(run_tap_tile)(ptrdiff_t R, ptrdiff_t stride, ptrdiff_t taps, ptrdiff_t rows, int part,
                             const FC(tap_run) *run) {
    switch (8 * stride + R) {
    case 8 + 2: FC(tap_tiles_2)(taps, rows, part, run); break;
    case 8 + 3: FC(tap_tiles_3)(taps, rows, part, run); break;
    case 8 + 4: FC(tap_tiles_4)(taps, rows, part, run); break;
    case 8 + 5: FC(tap_tiles_5)(taps, rows, part, run); break;
    case 8 + 6: FC(tap_tiles_6)(taps, rows, part, run); break;
    case 8 + 7: FC(tap_tiles_7)(taps, rows, part, run); break;
    case 16 + 3: FC(tap_tiles_3_apart)(taps, rows, part, run); break;
    case 16 + 5: FC(tap_tiles_5_apart)(taps, rows, part, run); break;
    case 16 + 7: FC(tap_tiles_7_apart)(taps, rows, part, run); break;
    }
}

/* ---- items */

typedef struct {
    FC(depthwise) d;
    ptrdiff_t parts;           /* of the outputs of a channel */
    ptrdiff_t sums;            /* vectors for the weights of one output, a multiple of LANES */
    size_t sums_bytes;
} FC(depthwise_weight);

/* All sums of one output over one packed block of `rows` rows and `cols` columns. */
static void FC(sum_taps)(const FC(depthwise) *d, FC(tap_run) run, ptrdiff_t rows, ptrdiff_t cols) {
    const real *const x = run.x, *const y = run.y;
    real *const sum = run.sum;
    const ptrdiff_t S = d->g.S, whole = cols / LANES * LANES, by_four = rows / FC_TAP_ROWS;
    for (ptrdiff_t s = 0, taps; s < S; s += taps) {
        taps = depthwise_taps(&d->g, S - s);
        run.column = d->column + s;
        run.sum = sum + s * LANES;
        for (int part = 0; part < 2; part++) {
            const ptrdiff_t j = part ? whole : 0;
            run.cols = part ? cols - whole : whole;
            for (int rest = 0; rest < 2 && run.cols; rest++) {
                const ptrdiff_t row = rest ? by_four * FC_TAP_ROWS : 0;
                run.tiles = rest ? rows - row : by_four;
                run.x = x + row * d->stride * run.x_row + j;
                run.y = y + row * run.y_row + j;
                if (run.tiles)
                    FC(run_tap_tile)(d->g.R, d->stride, taps, rest ? 1 : FC_TAP_ROWS, part, &run);
            }
        }
    }
}

static void FC(depthwise_weight_item)(void *context, ptrdiff_t item, int number) {
    const FC(depthwise_weight) *dw = context;
    const FC(depthwise) *d = &dw->d;
    const fc_stencil *s = &d->s;
    char *const space = d->boxes + (size_t)number * (d->box_bytes + dw->sums_bytes);
    real *const sums = (real *)space;
    const ptrdiff_t channel = item / dw->parts, part = item % dw->parts, numbers = d->g.R * d->g.S;
    const ptrdiff_t first = fc_part(d->outputs, dw->parts, part), end = fc_part(d->outputs, dw->parts, part + 1);
    memset(sums, 0, dw->sums_bytes);
    for (ptrdiff_t b = 0; b < d->g.N * d->blocks_h * d->blocks_w; b++) {
        const ptrdiff_t j0 = b % d->blocks_w * d->block_cols, cols = fc_min(d->block_cols, s->cols - j0);
        const ptrdiff_t i0 = b / d->blocks_w % d->blocks_h * d->block_rows, rows = fc_min(d->block_rows, s->rows - i0);
        const ptrdiff_t plane = b / d->blocks_w / d->blocks_h * d->g.groups + channel;
        const real *x = (const real *)d->call->x + plane * s->src_channel;
        const real *box = FC(pack_depthwise)(d, x, i0 * d->stride, j0, rows, (real *)(space + dw->sums_bytes));
        const real *y = (const real *)d->call->y + plane * d->outputs * s->dst_channel + i0 * s->dst_row + j0;
        for (ptrdiff_t o = first; o < end; o++)
            for (ptrdiff_t row = 0; row < fc_min(d->step, rows); row++) { /* rows `step` apart share their input */
                FC(tap_run) run = {.x_row = d->step * s->pitch, .y_row = d->step * s->dst_row};
                run.sum_row = d->g.S * LANES;
                run.x = box + row * s->pitch;
                run.y = y + o * s->dst_channel + row * s->dst_row;
                run.sum = sums + (o - first) * dw->sums * LANES;
                FC(sum_taps)(d, run, fc_ceil_div(rows - row, d->step), cols);
            }
    }
    real *w = (real *)d->call->w + (channel * d->outputs + first) * numbers;
    for (ptrdiff_t o = first; o < end; o++, w += numbers)
        for (ptrdiff_t i = 0; i < numbers; i += LANES) {
            const vec values = FC(sum_each)(sums + ((o - first) * dw->sums + i) * LANES);
            FC(store_lanes)(w + i, values, FC(between)(0, fc_min(LANES, numbers - i)));
        }
}

/* ---- plan, workspace, run */

static FC(depthwise_weight) FC(plan_depthwise_weight)(const fc_geometry *g, int threads) {
    FC(depthwise_weight) dw = {.d = FC(plan_depthwise)(g, FC_FORWARD, 1)};
    dw.parts = threads > 1 ? fc_min(dw.d.outputs, fc_ceil_div(2 * (ptrdiff_t)threads, g->groups)) : 1;
    dw.sums = fc_ceil_div(g->R * g->S, LANES) * LANES;
    dw.sums_bytes = fc_round_up((size_t)(fc_ceil_div(dw.d.outputs, dw.parts) * dw.sums) * FC_VECTOR_BYTES);
    return dw;
}

static size_t FC(depthwise_backward_weight_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    if (g->R == 1)
        return FC(depthwise_row_bytes)(g, FC_FORWARD, threads);
    const FC(depthwise_weight) dw = FC(plan_depthwise_weight)(g, threads);
    return dw.d.column_bytes + (size_t)threads * (dw.d.box_bytes + dw.sums_bytes);
}

static void FC(depthwise_backward_weight)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    if (call->geometry.R == 1) {
        FC(depthwise_row_weight)(call, threads);
        return;
    }
    FC(depthwise_weight) dw = FC(plan_depthwise_weight)(&call->geometry, threads);
    dw.d = FC(begin_depthwise)(call, FC_FORWARD, 1);
    FC(clear_margins)(&dw.d, dw.d.boxes + dw.sums_bytes, dw.d.box_bytes + dw.sums_bytes, threads);
    fc_parallel(threads, dw.d.g.groups * dw.parts, call->keep_denormals, FC(depthwise_weight_item), &dw);
}
