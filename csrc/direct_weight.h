/* direct: backward_weight, the products of every output channel's pixels with every tap's.
 *
 *     w[k][t] = sum over images and pixels j of  y[k][j] * x[offset[t] + j]
 *
 * x is packed as for forward (stencil.h), y to rows of the same pitch with zeros between them. A register tile is CB
 * rows of y times TB taps; pixels run in the lanes, so each of its CB * TB accumulators becomes one number of w, by a
 * tree of shuffles that yields LANES numbers at a time. A box is about 6400 bytes of pixels a row (100 vectors of
 * AVX-512): CB rows of y and the taps of one channel stay in level 1. Small planes go several images to a call.
 *
 * Between the rows the x of a vector is masked as well as the y, as 0 * inf would be NaN.
 *
 * Threads take groups, or ranges of output channels, or (small w) runs of boxes with a sum each, added in order at the
 * end: what is added to what depends on the geometry and the number of threads alone.
 *
 * Workspace: the table of taps, the sums of the runs, and for each worker the packed x and y of a box and the masks. */

#if !defined(FC_WEIGHT_TILES)
#if FC_REGISTERS == 32
#define FC_WEIGHT_TILES {8, 8, 8, 6, 5, 4, 3, 3} /* most taps for 1, 2, ... rows of y; 8: a pointer register each */
#else
#define FC_WEIGHT_TILES {8, 5, 3, 2, 2, 1}
#endif
#define FC_MAX_TB 8
#endif

/* The pixels of one call: `vectors` of them in each of `images`. */
typedef struct {
    const real *x, *y;
    const ptrdiff_t *offset;
    ptrdiff_t y_step, images, x_image, y_image, vectors;
    const FC(mask) *mask;
} FC(run);

FC_INLINE void FC(weight_tile)(const int CB, const int TB, const FC(run) *run, real *out) {
    vec sum[FC_MAX_TILE];
    FC_UNROLL for (int i = 0; i < CB * TB; i++) sum[i] = (vec){0};
    ptrdiff_t offset[FC_MAX_TB];
    FC_UNROLL for (int t = 0; t < TB; t++) offset[t] = run->offset[t];
    const ptrdiff_t vectors = run->vectors, y_step = run->y_step;
    const FC(mask) *mask = run->mask;
    for (ptrdiff_t image = 0; image < run->images; image++) {
        const real *x = run->x + image * run->x_image, *y = run->y + image * run->y_image;
        FC_ROLLED for (ptrdiff_t v = 0; v < vectors; v++, x += LANES, y += LANES) {
            const FC(mask) inside = mask[v];
            vec held[FC_MAX_CB];
            if (CB <= TB) { /* hold the rows of y, stream the taps */
                FC_UNROLL for (int c = 0; c < CB; c++) held[c] = FC(load)(y + c * y_step);
                FC_UNROLL for (int t = 0; t < TB; t++) {
                    const vec pixels = FC(load_masked)(x + offset[t], inside);
                    FC_UNROLL for (int c = 0; c < CB; c++) sum[c * TB + t] += held[c] * pixels;
                }
            } else {
                FC_UNROLL for (int t = 0; t < TB; t++) held[t] = FC(load_masked)(x + offset[t], inside);
                FC_UNROLL for (int c = 0; c < CB; c++) {
                    const vec gradient = FC(load)(y + c * y_step);
                    FC_UNROLL for (int t = 0; t < TB; t++) sum[c * TB + t] += gradient * held[t];
                }
            }
        }
    }
    FC_UNROLL for (int i = 0; i < CB * TB; i++) FC(store)(out + i * LANES, sum[i]);
}

FC_NOINLINE void FC(weight_tiles_1)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(1, 1, run, out); break;
    case 2: FC(weight_tile)(1, 2, run, out); break;
    case 3: FC(weight_tile)(1, 3, run, out); break;
    case 4: FC(weight_tile)(1, 4, run, out); break;
    case 5: FC(weight_tile)(1, 5, run, out); break;
    case 6: FC(weight_tile)(1, 6, run, out); break;
    case 7: FC(weight_tile)(1, 7, run, out); break;
    case 8: FC(weight_tile)(1, 8, run, out); break;
    }
}

FC_NOINLINE void FC(weight_tiles_2)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(2, 1, run, out); break;
    case 2: FC(weight_tile)(2, 2, run, out); break;
    case 3: FC(weight_tile)(2, 3, run, out); break;
    case 4: FC(weight_tile)(2, 4, run, out); break;
    case 5: FC(weight_tile)(2, 5, run, out); break;
#if FC_REGISTERS == 32
    case 6: FC(weight_tile)(2, 6, run, out); break;
    case 7: FC(weight_tile)(2, 7, run, out); break;
    case 8: FC(weight_tile)(2, 8, run, out); break;
#endif
    }
}

FC_NOINLINE void FC(weight_tiles_3)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(3, 1, run, out); break;
    case 2: FC(weight_tile)(3, 2, run, out); break;
    case 3: FC(weight_tile)(3, 3, run, out); break;
#if FC_REGISTERS == 32
    case 4: FC(weight_tile)(3, 4, run, out); break;
    case 5: FC(weight_tile)(3, 5, run, out); break;
    case 6: FC(weight_tile)(3, 6, run, out); break;
    case 7: FC(weight_tile)(3, 7, run, out); break;
    case 8: FC(weight_tile)(3, 8, run, out); break;
#endif
    }
}

FC_NOINLINE void FC(weight_tiles_4)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(4, 1, run, out); break;
    case 2: FC(weight_tile)(4, 2, run, out); break;
#if FC_REGISTERS == 32
    case 3: FC(weight_tile)(4, 3, run, out); break;
    case 4: FC(weight_tile)(4, 4, run, out); break;
    case 5: FC(weight_tile)(4, 5, run, out); break;
    case 6: FC(weight_tile)(4, 6, run, out); break;
#endif
    }
}

FC_NOINLINE void FC(weight_tiles_5)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(5, 1, run, out); break;
    case 2: FC(weight_tile)(5, 2, run, out); break;
#if FC_REGISTERS == 32
    case 3: FC(weight_tile)(5, 3, run, out); break;
    case 4: FC(weight_tile)(5, 4, run, out); break;
    case 5: FC(weight_tile)(5, 5, run, out); break;
#endif
    }
}

FC_NOINLINE void FC(weight_tiles_6)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(6, 1, run, out); break;
#if FC_REGISTERS == 32
    case 2: FC(weight_tile)(6, 2, run, out); break;
    case 3: FC(weight_tile)(6, 3, run, out); break;
    case 4: FC(weight_tile)(6, 4, run, out); break;
#endif
    }
}

#if FC_REGISTERS == 32
FC_NOINLINE void FC(weight_tiles_7)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(7, 1, run, out); break;
    case 2: FC(weight_tile)(7, 2, run, out); break;
    case 3: FC(weight_tile)(7, 3, run, out); break;
    }
}

FC_NOINLINE void FC(weight_tiles_8)(int tb, const FC(run) *run, real *out) {
    switch (tb) {
    case 1: FC(weight_tile)(8, 1, run, out); break;
    case 2: FC(weight_tile)(8, 2, run, out); break;
    case 3: FC(weight_tile)(8, 3, run, out); break;
    }
}

#endif

static void FC(run_weight_tile)(int cb, int tb, const FC(run) *run, real *out) {
    switch (cb) {
    case 1: FC(weight_tiles_1)(tb, run, out); break;
    case 2: FC(weight_tiles_2)(tb, run, out); break;
    case 3: FC(weight_tiles_3)(tb, run, out); break;
    case 4: FC(weight_tiles_4)(tb, run, out); break;
    case 5: FC(weight_tiles_5)(tb, run, out); break;
    case 6: FC(weight_tiles_6)(tb, run, out); break;
#if FC_REGISTERS == 32
    case 7: FC(weight_tiles_7)(tb, run, out); break;
    case 8: FC(weight_tiles_8)(tb, run, out); break;
#endif
    }
}

/* The sums of LANES vectors as one vector. zip_low + zip_high halves two vectors into one that alternates between them;
 * done log2(LANES) times with partners half the count apart, the sums come out in order. */
FC_NOINLINE vec FC(sum_each)(const real *vectors) {
    vec part[FC_VECTOR_BYTES / sizeof(real)];
    FC_UNROLL for (int i = 0; i < (int)LANES; i++) part[i] = FC(load)(vectors + i * LANES);
    FC_UNROLL for (int half = (int)LANES / 2; half; half /= 2)
        FC_UNROLL for (int i = 0; i < half; i++)
            part[i] = FC(zip_low)(part[i], part[i + half]) + FC(zip_high)(part[i], part[i + half]);
    return part[0];
}

/* ---- plan */

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_stencil s, y;           /* how x is packed, and y */
    ptrdiff_t taps, outputs;   /* a group */
    ptrdiff_t images;          /* in a box: side by side in each plane, x_image and y_image apart */
    ptrdiff_t x_image, y_image;
    ptrdiff_t cb, tb;
    ptrdiff_t boxes;           /* in all */
    ptrdiff_t parts, runs;     /* of the output channels of a group, of the boxes */
    ptrdiff_t *offsets;
    real *sums;                /* runs > 1: a whole w for each but the first, which has w itself */
    char *workers;
    size_t offsets_bytes, sums_bytes, x_bytes, y_bytes, masks_bytes;
} FC(weight);

static void FC(choose_weight_tile)(FC(weight) *d, ptrdiff_t rows) {
    static const int most_taps[] = FC_WEIGHT_TILES;
    const double vectors = (double)(d->s.flat * d->images);
    double best = 0;
    for (ptrdiff_t most = 1; most <= FC_MAX_CB; most++) {
        const ptrdiff_t kb = fc_ceil_div(rows, most), nb = fc_ceil_div(d->taps, most_taps[most - 1]);
        const double cb = (double)rows / (double)kb, tb = (double)d->taps / (double)nb;
        double step = 0.5 * cb * tb;
        const double loads = tb + 0.5 * cb;
        step = step > loads ? step : loads;
        step = (step > 4 ? step : 4) + 0.5;
        const double trees = (double)fc_ceil_div((ptrdiff_t)(cb * tb), LANES);
        const double cost = (double)(kb * nb) * (step * vectors + 40 + 30 * trees);
        if (most == 1 || cost < best) {
            best = cost;
            d->cb = fc_ceil_div(rows, kb);
            d->tb = fc_ceil_div(d->taps, nb);
        }
    }
}

static size_t FC(weight_worker_bytes)(const FC(weight) *d) {
    return FC_LINE + d->x_bytes + d->y_bytes + d->masks_bytes;
}

static FC(weight) FC(plan_weight)(const fc_geometry *given, int threads) {
    FC(weight) d = {0};
    d.g = fc_flattened(given);
    d.s = fc_weight_stencil(&d.g, LANES, sizeof(real), threads);
    d.outputs = d.g.K / d.g.groups;
    d.taps = d.s.channels * d.g.R * d.g.S;
    d.images = 1;
    if (d.s.boxes_h * d.s.boxes_w == 1) {
        const ptrdiff_t fill = FC_ROW_BYTES / FC_VECTOR_BYTES / d.s.flat;
        const ptrdiff_t fit = FC_BOX_BYTES / (ptrdiff_t)sizeof(real) / d.s.packed;
        d.images = fc_clip(fc_min(fill, fit), 1, fc_ceil_div(d.s.images, threads));
        d.images = fc_ceil_div(d.s.images, fc_ceil_div(d.s.images, d.images));
    }
    d.x_image = d.s.plane;
    fc_widen_planes(&d.s, d.images, LANES);
    d.boxes = fc_ceil_div(d.s.images, d.images) * d.s.boxes_h * d.s.boxes_w;
    const size_t w_bytes = (size_t)(d.g.K * d.taps) * sizeof(real);
    d.parts = d.runs = 1;
    if (threads > 1 && d.g.groups < 4 * threads) {
        if (w_bytes <= FC_SUM_BYTES && d.boxes >= threads)
            d.runs = threads;
        else
            d.parts = fc_min(d.outputs, 2 * threads);
    }
    d.y = d.s;
    d.y.channels = fc_ceil_div(d.outputs, d.parts);
    d.y.stride_h = d.y.stride_w = d.y.step_h = d.y.step_w = d.y.phases_h = d.y.phases_w = 1;
    d.y.pad_h = d.y.pad_w = d.y.halo_h = d.y.halo_w = 0;
    d.y.H = d.s.rows;
    d.y.src_row = d.s.dst_row;
    d.y.src_channel = d.s.dst_channel;
    d.y.src_image = d.s.dst_image;
    d.y.plane = d.y_image = d.s.box_rows * d.s.pitch + LANES;
    fc_widen_planes(&d.y, d.images, LANES);
    FC(choose_weight_tile)(&d, d.y.channels);
    d.offsets_bytes = fc_round_up((size_t)d.taps * sizeof(ptrdiff_t));
    d.sums_bytes = fc_round_up((size_t)(d.runs - 1) * w_bytes);
    d.x_bytes = fc_round_up((size_t)d.s.packed * sizeof(real));
    d.y_bytes = fc_round_up((size_t)d.y.packed * sizeof(real));
    d.masks_bytes = fc_round_up((size_t)d.s.flat * sizeof(FC(mask)));
    return d;
}

/* ---- items */

static void FC(lay_masks)(const fc_stencil *s, ptrdiff_t rows, ptrdiff_t cols, FC(mask) *masks) {
    const ptrdiff_t flat = fc_ceil_div((rows - 1) * s->pitch + cols, LANES);
    ptrdiff_t row = 0, col = 0;
    for (ptrdiff_t v = 0; v < flat; v++) {
        FC(mask) mask = FC(mask_between)(0, 0);
        for (ptrdiff_t lane = 0; lane < LANES && row < rows;) {
            const ptrdiff_t rest = (col < cols ? cols : s->pitch) - col, run = fc_min(rest, LANES - lane);
            if (col < cols)
                mask |= FC(mask_between)(lane, lane + run);
            lane += run;
            col += run;
            if (col == s->pitch) {
                col = 0;
                row++;
            }
        }
        masks[v] = mask;
    }
}

/* What one item does: rows first .. end of a group of w, summed over boxes b0 .. b1 into w (the group's). */
typedef struct {
    ptrdiff_t group, first, end, b0, b1;
    real *w;
} FC(share);

static void FC(weight_boxes)(const FC(weight) *d, const FC(share) *share, char *space) {
    const ptrdiff_t group = share->group, first = share->first, end = share->end;
    real *w = share->w;
    enum { STEP = FC_VECTOR_BYTES / sizeof(real) };
    real tile[(FC_MAX_TILE + STEP) * STEP] __attribute__((aligned(64)));
    real *const x = (real *)(space + FC_LINE), *const y = (real *)(space + FC_LINE + d->x_bytes);
    FC(mask) *const masks = (FC(mask) *)(space + FC_LINE + d->x_bytes + d->y_bytes);
    const fc_stencil *s = &d->s;
    fc_stencil ys = d->y;
    ys.channels = end - first;
    const ptrdiff_t kb = fc_ceil_div(end - first, d->cb), nb = fc_ceil_div(d->taps, d->tb);
    memset(tile, 0, sizeof tile); /* the last tree may take in vectors that no tile wrote */
    for (ptrdiff_t k = first; k < end; k++)
        memset(w + k * d->taps, 0, (size_t)d->taps * sizeof(real));
    ptrdiff_t masked_rows = 0, masked_cols = 0;
    for (ptrdiff_t b = share->b0; b < share->b1; b++) {
        const ptrdiff_t j0 = b % s->boxes_w * s->box_cols, i0 = b / s->boxes_w % s->boxes_h * s->box_rows;
        const ptrdiff_t image = b / s->boxes_w / s->boxes_h * d->images, images = fc_min(d->images, s->images - image);
        const ptrdiff_t rows = fc_min(s->box_rows, s->rows - i0), cols = fc_min(s->box_cols, s->cols - j0);
        ys.W = j0 + cols;
        for (ptrdiff_t i = 0; i < images; i++) {
            const real *from_x = (const real *)d->call->x + (image + i) * s->src_image;
            const real *from_y = (const real *)d->call->y + (image + i) * ys.src_image;
            FC(pack_box)(s, from_x + group * s->channels * s->src_channel, i0, j0, rows, x + i * d->x_image);
            FC(pack_box)(&ys, from_y + (group * d->outputs + first) * ys.src_channel, i0, j0, rows, y + i * d->y_image);
        }
        if (rows != masked_rows || cols != masked_cols) {
            FC(lay_masks)(s, rows, cols, masks);
            masked_rows = rows;
            masked_cols = cols;
        }
        FC(run) run = {x, y, d->offsets, ys.channel, images, d->x_image, d->y_image,
                       fc_ceil_div((rows - 1) * s->pitch + cols, LANES), masks};
        for (ptrdiff_t k = 0; k < kb; k++) {
            const ptrdiff_t c0 = fc_part(end - first, kb, k), c1 = fc_part(end - first, kb, k + 1);
            run.y = y + c0 * ys.channel;
            for (ptrdiff_t n = 0; n < nb; n++) {
                const ptrdiff_t t0 = fc_part(d->taps, nb, n), t1 = fc_part(d->taps, nb, n + 1);
                run.offset = d->offsets + t0;
                FC(run_weight_tile)((int)(c1 - c0), (int)(t1 - t0), &run, tile);
                const ptrdiff_t numbers = (c1 - c0) * (t1 - t0);
                for (ptrdiff_t i = 0; i < numbers; i += LANES) /* in place: the sums end where their vectors began */
                    FC(store)(tile + i, FC(sum_each)(tile + i * LANES));
                const real *sum = tile;
                for (ptrdiff_t c = first + c0; c < first + c1; c++)
                    for (ptrdiff_t t = t0; t < t1; t++)
                        w[c * d->taps + t] += *sum++;
            }
        }
    }
}

static void FC(weight_item)(void *context, ptrdiff_t i, int number) {
    const FC(weight) *d = context;
    const ptrdiff_t part = i % d->parts, run = i / d->parts % d->runs, group = i / d->parts / d->runs;
    real *w = run ? d->sums + (run - 1) * d->g.K * d->taps : d->call->w;
    const FC(share) share = {group, fc_part(d->outputs, d->parts, part), fc_part(d->outputs, d->parts, part + 1),
                             fc_part(d->boxes, d->runs, run), fc_part(d->boxes, d->runs, run + 1),
                             w + group * d->outputs * d->taps};
    FC(weight_boxes)(d, &share, d->workers + (size_t)number * FC(weight_worker_bytes)(d));
}

static size_t FC(direct_backward_weight_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    const FC(weight) d = FC(plan_weight)(g, threads);
    return d.offsets_bytes + d.sums_bytes + (size_t)threads * FC(weight_worker_bytes)(&d);
}

static void FC(direct_backward_weight)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    FC(weight) d = FC(plan_weight)(&call->geometry, threads);
    d.call = call;
    d.offsets = call->workspace;
    d.sums = (real *)((char *)call->workspace + d.offsets_bytes);
    d.workers = (char *)d.sums + d.sums_bytes;
    ptrdiff_t *offset = d.offsets;
    for (ptrdiff_t c = 0; c < d.s.channels; c++)
        for (ptrdiff_t r = 0; r < d.g.R; r++)
            for (ptrdiff_t q = 0; q < d.g.S; q++)
                *offset++ = fc_forward_offset(&d.s, c, r, q);
    fc_parallel(threads, d.g.groups * d.parts * d.runs, call->keep_denormals, FC(weight_item), &d);
    real *w = call->w;
    const ptrdiff_t all = d.g.K * d.taps;
    const fc_fpmode before = fc_fpmode_enter(call->keep_denormals);
    for (ptrdiff_t run = 1; run < d.runs; run++)
        for (ptrdiff_t i = 0; i < all; i++)
            w[i] += d.sums[(run - 1) * all + i];
    fc_fpmode_leave(before);
}
