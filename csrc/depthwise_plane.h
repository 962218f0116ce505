/* depthwise: 3x3 kernels of stride 1, on planes read where they are: one output a channel, or any number of them in
 * backward_input.
 *
 * With 9 products to a sum, packing takes a third of the time: 0.4 of 1.1 us for 28 rows of 112 (Zen 3). So tiles of
 * row_tap go down the plane itself. Vectors whose taps reach beyond a row read the lanes inside alone; a row of y whose
 * taps reach above or below the plane is a tile of its own, of the kernel rows that lie inside. Weights that are not
 * finite must meet the padding in forward: then planes are packed after all.
 *
 * These layers are as much memory as arithmetic, and tiles go across the plane, so no row is read long enough in one
 * piece for the processor to see what comes next. Where x and y are large, a tile asks for those rows of both that the
 * one below it needs (Zen 3, other cores busy: 96 planes of 112x112, 9.6 MB, 1.4 to 2 times as fast; 768 of 28x28, 4.8
 * MB, 0.93).
 *
 * A gradient of several outputs a channel is the sum of as many planes. Tiles go over some of them at a time, whose
 * rows stay in level 1, and add to what is there (Zen 3, against direct, which packs them: 32 planes of 28x28, 64
 * images, 1.8 times as fast; 64 planes of 180x180, 2.4 times; of 512x512, 1.9 times).
 *
 * An item is a plane or a part of its rows. Workspace: the turned weights (backward_input). */

typedef struct {
    const fc_call *call;
    ptrdiff_t H, W, rows, cols; /* of the source and of the result */
    ptrdiff_t pad_h, pad_w, groups, parts;
    ptrdiff_t sources, taps; /* planes that a result is summed over, and their taps of one kernel row */
    ptrdiff_t together; /* sources that a tile goes over at a time */
    ptrdiff_t ahead;    /* elements from what a sum reads to what it asks for */
    int far; /* x and y do not stay near the core from one call to the next */
    const real *from, *w;
    real *to;
} FC(depthwise_plane);

/* What a run of tiles works on: rows of y from the first column on, and x below the first of their kernel rows. */
typedef struct {
    const real *x, *w;
    real *y;
    const real *bias;
    ptrdiff_t bias_row;
} FC(plane_run);

static FC(depthwise_plane) FC(plan_depthwise_plane)(const fc_geometry *g, fc_operation operation, int threads) {
    FC(depthwise_plane) d = {.H = g->H, .W = g->W, .rows = g->P, .cols = g->Q, .pad_h = g->pad_h, .pad_w = g->pad_w};
    d.sources = 1;
    if (operation == FC_BACKWARD_INPUT) {
        d = (FC(depthwise_plane)){.H = g->P, .W = g->Q, .rows = g->H, .cols = g->W};
        d.pad_h = 2 - g->pad_h;
        d.pad_w = 2 - g->pad_w;
        d.sources = g->K / g->groups;
    }
    d.taps = 3 * d.sources;
    const ptrdiff_t wide = d.W >= FC_PLANE_WIDE, row = fc_min(d.W, FC_PLANE_WIDE / 2) * (ptrdiff_t)sizeof(real);
    d.together = fc_clip(FC_PLANE_BYTES / ((FC_ROWS_TILE + 2) * row), 4, d.sources);
    d.ahead = wide ? FC_PLANE_WIDE : d.sources * d.H * d.W; /* further along the row, or the next result's source */
    d.groups = g->groups;
    d.far = g->N * g->groups * (d.sources * d.H * d.W + d.rows * d.cols) * (ptrdiff_t)sizeof(real) > FC_PLANES_FAR;
    const ptrdiff_t planes = g->N * g->groups;
    d.parts = threads > 1 && planes < 4 * threads ? fc_ceil_div(4 * (ptrdiff_t)threads, planes) : 1;
    d.parts = fc_clip(d.rows / FC_ROWS_TILE, 1, d.parts);
    return d;
}

/* RB rows under R kernel rows of one source. */
FC_INLINE void FC(plane_tile)(const int R, const int RB, const FC(depthwise_plane) *d, const FC(plane_run) *run) {
    const ptrdiff_t W = d->W, cols = d->cols, pad = d->pad_w, last = cols - LANES, bias_row = run->bias_row;
    const ptrdiff_t line = FC_LINE / (ptrdiff_t)sizeof(real);
    const real *const w = run->w;
    for (ptrdiff_t j = 0; j < cols; j += LANES) {
        const ptrdiff_t at = fc_min(j, last), left = at - pad;
        const real *const x = run->x + left;
        real *const y = run->y + at;
        if (RB > 2 && d->far && j % line == 0)
            FC_UNROLL for (int i = 0; i < RB; i++) {
                __builtin_prefetch(x + (RB + R - 1 + i) * W, 0, 3);
                __builtin_prefetch(y + (RB + i) * cols, 1, 3);
            }
        vec sum[FC_ROWS_SUMS];
        FC_UNROLL for (int i = 0; i < RB; i++) sum[i] = (vec){0};
        if (left >= 0 && left + 2 + LANES <= W)
            FC_UNROLL for (int t = 0; t < 3; t++)
                FC(row_tap)(R, 1, RB, 1, 0, x + t, W, FC(between)(0, LANES), w + t, 3, sum);
        else
            FC_UNROLL for (int t = 0; t < 3; t++)
                FC(row_tap)(R, 1, RB, 1, 1, x + t, W, FC(inside)(left + t, W), w + t, 3, sum);
        FC(row_store)(RB, 1, sum, run->bias ? run->bias + (bias_row ? at : 0) : NULL, bias_row, y, cols);
    }
}

/* RB rows of the sum over `sources` sources, added to what is there. The loop goes over single taps, as compilers mix
 * three of them into spills. */
FC_INLINE void FC(plane_sum)(const int RB, const FC(depthwise_plane) *d, const FC(plane_run) *run, ptrdiff_t sources,
                             int add) {
    const ptrdiff_t W = d->W, cols = d->cols, last = cols - LANES, taps = d->taps, down = d->H * W - 2;
    const real *const end = run->w + 3 * sources;
    for (ptrdiff_t j = 0; j < cols; j += LANES) {
        const ptrdiff_t at = fc_min(j, last), left = at - d->pad_w;
        const real *x = run->x + left;
        real *const y = run->y + at;
        vec sum[FC_ROWS_SUMS];
        FC_UNROLL for (int i = 0; i < RB; i++) sum[i] = add ? FC(load)(y + i * cols) : (vec){0};
        if (left >= 0 && left + 2 + LANES <= W) {
            ptrdiff_t t = 0;
            for (const real *w = run->w; w < end; w++) {
                if (t == 0 && d->far)
                    FC_UNROLL for (int i = 0; i < RB; i++) __builtin_prefetch(x + d->ahead + (1 + i) * W, 0, 2);
                FC(row_tap)(3, 1, RB, 1, 0, x, W, FC(between)(0, LANES), w, taps, sum);
                x += t < 2 ? 1 : down;
                t = t < 2 ? t + 1 : 0;
            }
        } else {
            const FC(lanes) inside[3] = {FC(inside)(left, W), FC(inside)(left + 1, W), FC(inside)(left + 2, W)};
            ptrdiff_t t = 0;
            for (const real *w = run->w; w < end; w++) {
                FC(row_tap)(3, 1, RB, 1, 1, x, W, inside[t], w, taps, sum);
                x += t < 2 ? 1 : down;
                t = t < 2 ? t + 1 : 0;
            }
        }
        if (j == at)
            FC(row_store)(RB, 1, sum, NULL, 0, y, cols);
        else /* its first lanes are done */
            FC_UNROLL for (int i = 0; i < RB; i++) FC(store_lanes)(y + i * cols, sum[i], FC(between)(j - at, LANES));
    }
}

/* One row under R kernel rows, of all sources: a sum for each tap, as one alone would wait for its own additions. */
FC_INLINE void FC(plane_row)(const int R, const FC(depthwise_plane) *d, const FC(plane_run) *run, ptrdiff_t sources,
                             int add) {
    const ptrdiff_t W = d->W, cols = d->cols, last = cols - LANES, plane = d->H * W;
    for (ptrdiff_t j = 0; j < cols; j += LANES) {
        const ptrdiff_t at = fc_min(j, last), left = at - d->pad_w;
        const real *x = run->x + left, *w = run->w;
        vec sum[9];
        FC_UNROLL for (int i = 0; i < 3 * R; i++) sum[i] = (vec){0};
        for (ptrdiff_t s = 0; s < sources; s++, x += plane, w += 3)
            FC_UNROLL for (int t = 0; t < 3; t++)
                FC_UNROLL for (int r = 0; r < R; r++)
                    sum[r * 3 + t] += FC(splat)(w[r * d->taps + t]) *
                                      FC(load_lanes)(x + r * W + t, FC(inside)(left + t, W));
        FC_UNROLL for (int i = 1; i < 3 * R; i++) sum[0] += sum[i];
        if (add)
            sum[0] += FC(load)(run->y + at);
        FC(store_lanes)(run->y + at, sum[0], FC(between)(j - at, LANES)); /* those before are done */
    }
}

FC_NOINLINE void FC(plane_tiles)(ptrdiff_t R, ptrdiff_t rows, const FC(depthwise_plane) *d, const FC(plane_run) *run) {
    switch (16 * R + rows) {
    case 16 + 1: FC(plane_tile)(1, 1, d, run); break;
    case 32 + 1: FC(plane_tile)(2, 1, d, run); break;
    case 48 + 1: FC(plane_tile)(3, 1, d, run); break;
    case 48 + 2: FC(plane_tile)(3, 2, d, run); break;
    case 48 + 4: FC(plane_tile)(3, 4, d, run); break;
    case 48 + 5: FC(plane_tile)(3, 5, d, run); break;
    case 48 + 6: FC(plane_tile)(3, 6, d, run); break;
    case 48 + 7: FC(plane_tile)(3, 7, d, run); break;
    case 48 + 8: FC(plane_tile)(3, 8, d, run); break;
    case 48 + 9: FC(plane_tile)(3, 9, d, run); break;
    case 48 + 10: FC(plane_tile)(3, 10, d, run); break;
    }
}

FC_NOINLINE void FC(plane_sums)(ptrdiff_t R, ptrdiff_t rows, const FC(depthwise_plane) *d, const FC(plane_run) *run,
                                ptrdiff_t sources, int add) {
    switch (16 * R + rows) {
    case 16 + 1: FC(plane_row)(1, d, run, sources, add); break;
    case 32 + 1: FC(plane_row)(2, d, run, sources, add); break;
    case 48 + 1: FC(plane_row)(3, d, run, sources, add); break;
    case 48 + 4: FC(plane_sum)(4, d, run, sources, add); break;
    case 48 + 5: FC(plane_sum)(5, d, run, sources, add); break;
    case 48 + 6: FC(plane_sum)(6, d, run, sources, add); break;
    case 48 + 7: FC(plane_sum)(7, d, run, sources, add); break;
    case 48 + 8: FC(plane_sum)(8, d, run, sources, add); break;
    case 48 + 9: FC(plane_sum)(9, d, run, sources, add); break;
    case 48 + 10: FC(plane_sum)(10, d, run, sources, add); break;
    }
}

static void FC(depthwise_plane_item)(void *context, ptrdiff_t i, int number) {
    (void)number;
    const FC(depthwise_plane) *d = context;
    const ptrdiff_t plane = i / d->parts, part = i % d->parts, channel = plane % d->groups;
    const ptrdiff_t end = fc_part(d->rows, d->parts, part + 1), whole = d->H + d->pad_h - 2; /* pad_h .. whole */
    const int many = d->sources > 1, each = d->call->bias && d->call->bias_per_position;
    const int sizes = depthwise_sizes(3, 1, FC_THREE_BY_THREE) & ~(many << 2);
    const real *const x = d->from + plane * d->sources * d->H * d->W, *const w = d->w + channel * 3 * d->taps;
    const real *bias = d->call->bias;
    real *const y = d->to + plane * d->rows * d->cols;
    if (bias)
        bias += each ? channel * d->rows * d->cols : channel;
    for (ptrdiff_t p = fc_part(d->rows, d->parts, part), size; p < end; p += size) {
        const ptrdiff_t above = fc_clip(d->pad_h - p, 0, 3), below = fc_clip(d->H + d->pad_h - p, above, 3);
        size = 1;
        if (p >= d->pad_h && p < whole) {
            const ptrdiff_t left = fc_min(end, whole) - p;
            size = depthwise_tile_rows(sizes, left, fc_ceil_div(left, FC_ROWS_TILE), left);
        }
        FC(plane_run) run = {x + (p - d->pad_h + above) * d->W, w + above * d->taps, y + p * d->cols,
                                   bias ? bias + (each ? p * d->cols : 0) : NULL, each ? d->cols : 0};
        if (!many) {
            FC(plane_tiles)(below - above, size, d, &run);
            continue;
        }
        for (ptrdiff_t first = 0; first < d->sources; first += d->together) {
            FC(plane_sums)(below - above, size, d, &run, fc_min(d->together, d->sources - first), first > 0);
            run.x += d->together * d->H * d->W;
            run.w += d->together * 3;
        }
    }
}

static size_t FC(depthwise_plane_bytes)(const fc_geometry *g) {
    return fc_round_up((size_t)g->K * 9 * sizeof(real));
}

/* Whether forward may leave out what lies in the padding: 0 times inf is NaN there. */
static int FC(all_finite)(const real *w, ptrdiff_t count) {
    int finite = 1;
    for (ptrdiff_t i = 0; i < count; i++)
        finite &= w[i] - w[i] == 0;
    return finite;
}

static void FC(depthwise_plane_run)(const fc_call *call, fc_operation operation, int threads) {
    const fc_geometry *g = &call->geometry;
    FC(depthwise_plane) d = FC(plan_depthwise_plane)(g, operation, threads);
    d.call = call;
    d.from = call->x;
    d.to = call->y;
    d.w = call->w;
    if (operation == FC_BACKWARD_INPUT) {
        if (!FC(turn_kernels)(call->w, g->groups, d.sources, 3, 3, call->workspace)) {
            FC(small_backward_input)(call);
            return;
        }
        d.from = call->y;
        d.to = call->x;
        d.w = call->workspace;
    }
    fc_parallel(threads, g->N * g->groups * d.parts, call->keep_denormals, FC(depthwise_plane_item), &d);
}
