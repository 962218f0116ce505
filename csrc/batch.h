/* batch: forward and backward_input of small planes with an image in each lane.
 *
 *     to[k][i][j] = sum over taps t = (c, r, s) of  w[k][t] * packed[offset[t] + i * pitch + j]        a vector each
 *
 * Rows of 10 or 14 pixels leave lanes empty, or share vectors with the columns between them that are computed for
 * nothing (stencil.h); LANES images at a time fill them whatever the plane. Their pixels are turned to vectors
 * (simd.h), padded, stride phases apart, and stay in level 2 while all output channels pass, a register tile of CB
 * channels x VB pixels of a row at a time (tile.h), the bias in its sums; the planes of a block of channels, one run of
 * outputs in each image, are turned back into place. The last images come with some of those before them, which are
 * not stored again.
 *
 * backward_input (stride 1) is forward with w turned round, but what its taps find beyond the edges of y is no summand:
 * kernel rows that lie outside are left out for every row, kernel columns for every tile. That is a third of the work
 * of 5x5 on a 10x10 y.
 *
 * An item is LANES images, a group and a part of the output channels. Workspace: where each pixel goes, the table of
 * taps, the turned weights (backward_input); for each worker the packed pixels and the planes of a block of channels.
 */

#ifndef FC_BATCH
#define FC_BATCH
enum { FC_BATCH_PLANE = 1024 }; /* most pixels of a plane of the result: larger ones fill vectors themselves */
#endif

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_stencil s;                         /* distances in vectors: one vector holds a pixel of LANES images */
    fc_operation operation;
    ptrdiff_t pixels;                     /* of the source, an image and group */
    ptrdiff_t outputs, taps;              /* a group */
    ptrdiff_t cb, vb, parts, blocks;      /* tiles, parts of the outputs, blocks of images */
    const real *from, *w;
    real *to;
    int32_t *place;                       /* of each pixel: its vector; those that no tap reaches go past the end */
    ptrdiff_t *offsets;
    real *weights;
    char *workers;
    size_t place_bytes, offsets_bytes, weights_bytes, box_bytes, planes_bytes;
} FC(batch);

/* Numbers from .. end, in their order. */
typedef struct {
    ptrdiff_t from, end;
} FC(span);

/* Of `taps` taps `step` apart, those that reach one of `size` pixels from some position first .. last. */
FC_INLINE FC(span) FC(reaching)(ptrdiff_t first, ptrdiff_t last, ptrdiff_t pad, ptrdiff_t step, ptrdiff_t taps,
                                ptrdiff_t size) {
    const ptrdiff_t before = pad - last, after = size - 1 + pad - first;
    const ptrdiff_t from = before > 0 ? fc_min(fc_ceil_div(before, step), taps) : 0;
    return (FC(span)){from, after < 0 ? from : fc_clip(after / step + 1, from, taps)};
}

/* Tiles of fewest cycles: multiply-adds, loads, start-up of each; columns of taps that a tile leaves out count. */
static void FC(choose_batch_tile)(FC(batch) *d) {
    static const int vectors[] = FC_TILES;
    const fc_stencil *s = &d->s;
    const ptrdiff_t S = d->g.S;
    double best = 0;
    for (ptrdiff_t most = 1; most <= FC_MAX_CB; most++) {
        const ptrdiff_t kb = fc_ceil_div(d->outputs, most), nb = fc_ceil_div(s->cols, vectors[most - 1]);
        const double cb = (double)d->outputs / (double)kb;
        double cost = 0;
        for (ptrdiff_t n = 0; n < nb; n++) {
            const ptrdiff_t j0 = fc_part(s->cols, nb, n), j1 = fc_part(s->cols, nb, n + 1);
            FC(span) across = {0, S};
            if (d->operation == FC_BACKWARD_INPUT)
                across = FC(reaching)(j0, j1 - 1, s->pad_w, s->step_w, S, s->W);
            const double vb = (double)(j1 - j0), products = 0.5 * cb * vb, loads = 0.5 * (cb + vb);
            double step = products > loads ? products : loads;
            step = (step > 4 ? step : 4) + 0.5;
            cost += (double)kb * (step * (double)(d->taps / S * (across.end - across.from)) + 40);
        }
        if (most == 1 || cost < best) {
            best = cost;
            d->cb = fc_ceil_div(d->outputs, kb);
            d->vb = fc_ceil_div(s->cols, nb);
        }
    }
}

static FC(batch) FC(plan_batch)(const fc_geometry *g, fc_operation operation, int threads) {
    FC(batch) d = {.g = *g, .operation = operation};
    fc_stencil *s = &d.s;
    if (operation == FC_FORWARD) {
        *s = fc_x_stencil(g);
        s->rows = g->P; /* images are lanes, not rows */
        s->H = g->H;
        d.outputs = g->K / g->groups;
    } else {
        *s = (fc_stencil){.channels = g->K / g->groups, .H = g->P, .W = g->Q, .rows = g->H, .cols = g->W};
        s->stride_h = s->stride_w = s->phases_h = s->phases_w = 1;
        s->step_h = g->dilation_h;
        s->step_w = g->dilation_w;
        s->halo_h = (g->R - 1) * g->dilation_h;
        s->halo_w = (g->S - 1) * g->dilation_w;
        s->pad_h = s->halo_h - g->pad_h;
        s->pad_w = s->halo_w - g->pad_w;
        d.outputs = g->C / g->groups;
        d.weights_bytes = fc_round_up((size_t)(g->K * (g->C / g->groups) * g->R * g->S) * sizeof(real));
    }
    s->packed_rows = s->rows + s->halo_h;
    s->pitch = s->cols + s->halo_w;
    s->plane = s->packed_rows * s->pitch;
    s->channel = s->phases_h * s->phases_w * s->plane;
    s->packed = s->channels * s->channel;
    d.pixels = s->channels * s->H * s->W;
    d.taps = s->channels * g->R * g->S;
    FC(choose_batch_tile)(&d);
    d.blocks = fc_ceil_div(g->N, LANES);
    const ptrdiff_t items = d.blocks * g->groups;
    d.parts = threads > 1 ? fc_clip(fc_ceil_div(4 * (ptrdiff_t)threads, items), 1, fc_ceil_div(d.outputs, d.cb)) : 1;
    d.place_bytes = fc_round_up((size_t)d.pixels * sizeof(int32_t));
    d.offsets_bytes = fc_round_up((size_t)d.taps * sizeof(ptrdiff_t));
    d.box_bytes = fc_round_up((size_t)(s->packed + 1) * FC_VECTOR_BYTES);
    d.planes_bytes = fc_round_up((size_t)(d.cb * s->rows * s->cols + LANES) * FC_VECTOR_BYTES);
    return d;
}

static const char *FC(batch_unsupported)(const fc_geometry *g) {
    if (g->N < LANES)
        return "fewer images than lanes";
    if (g->C / g->groups * g->H * g->W < FC_TURN || g->K / g->groups * g->P * g->Q < FC_TURN)
        return "images of less than 16 bytes";
    const double rows = (double)(g->P + g->H) + (double)(g->R * g->dilation_h);
    const double cols = (double)(g->Q + g->W) + (double)(g->S * g->dilation_w);
    if ((double)(g->C + g->K) * (double)(g->R * g->S) * rows * cols > 1e9)
        return "images whose pixels do not count in 32 bits";
    return NULL;
}

static const char *FC(batch_unsupported_backward_input)(const fc_geometry *g) {
    return g->stride_h > 1 || g->stride_w > 1 ? "strided" : FC(batch_unsupported)(g);
}

/* Against direct.h and gemm.h, 100 random small layers on Zen 3: 1.4 times as fast in the middle, behind where a pixel
 * is used little after it was turned. */
static const char *FC(batch_unwise)(const fc_geometry *g, fc_operation operation, int threads) {
    const ptrdiff_t blocks = fc_ceil_div(g->N, LANES);
    const ptrdiff_t outputs = (operation == FC_FORWARD ? g->K : g->C) / g->groups;
    const double uses = (double)(outputs * g->R * g->S) / (double)(g->stride_h * g->stride_w); /* of a source pixel */
    if (4 * g->N < 3 * blocks * LANES)
        return "so few images that a quarter of the lanes or more is empty";
    if ((operation == FC_FORWARD ? g->P * g->Q : g->H * g->W) > FC_BATCH_PLANE)
        return "planes that fill vectors themselves";
    if (uses < 5 || uses * (double)blocks < 16)
        return "pixels are used too little to turn them";
    if (FC(plan_batch)(g, operation, threads).box_bytes > fc_level2_bytes() / 2)
        return "the pixels of so many images do not stay in level 2";
    return NULL;
}
static const char *FC(batch_unwise_forward)(const fc_geometry *g, int threads) {
    if (g->K / g->groups >= 4 && direct_along_rows(g->C / g->groups * g->R * g->S, g->Q))
        return "few products to a sum, and rows that fill vectors: direct reads and writes them in place";
    if (direct_short_rows(g))
        return "short rows with few products to a sum: direct writes them in place";
    return FC(batch_unwise)(g, FC_FORWARD, threads);
}
static const char *FC(batch_unwise_backward_input)(const fc_geometry *g, int threads) {
    return FC(batch_unwise)(g, FC_BACKWARD_INPUT, threads);
}

/* ---- items */

/* The pixels of LANES images, `image` elements apart, to their vectors. */
static void FC(pack_batch)(const FC(batch) *d, const real *from, ptrdiff_t image, real *box) {
    for (ptrdiff_t next = 0; next < d->pixels; next += FC_TURN) {
        const ptrdiff_t at = fc_min(next, d->pixels - FC_TURN);
        vec turned[FC_TURN];
        FC(turn)(from + at, image, turned);
        FC_UNROLL for (int i = 0; i < FC_TURN; i++) FC(store)(box + d->place[at + i] * LANES, turned[i]);
    }
}

/* `count` outputs of LANES images into place: lane l goes to `to` + l * image, lanes before `skip` are there already.
 * PART: there are such lanes, or the outputs do not fill a vector. */
FC_INLINE void FC(unpack_batch)(const int PART, const real *planes, ptrdiff_t count, ptrdiff_t skip, const real *bias,
                                real *to, ptrdiff_t image) {
    const FC(lanes) part = FC(between)(0, fc_min(count, LANES));
    for (ptrdiff_t next = 0; next < count; next += LANES) {
        const ptrdiff_t at = count < LANES ? 0 : fc_min(next, count - LANES);
        vec more = {0};
        if (bias)
            more = PART ? FC(load_lanes)(bias + at, part) : FC(load)(bias + at);
        real *row = to + at;
        FC_UNROLL for (ptrdiff_t l = 0; l < LANES; l += FC_TURN) {
            vec turned[FC_TURN];
            FC(turn)(planes + at * LANES + l, LANES, turned);
            FC_UNROLL for (int i = 0; i < FC_TURN; i++, row += image)
                if (!PART)
                    FC(store)(row, turned[i] + more);
                else if (l + i >= skip)
                    FC(store_lanes)(row, turned[i] + more, part);
        }
    }
}
static void FC(unpack_batch_whole)(const real *planes, ptrdiff_t count, const real *bias, real *to, ptrdiff_t image) {
    FC(unpack_batch)(0, planes, count, 0, bias, to, image);
}
static void FC(unpack_batch_part)(const real *planes, ptrdiff_t count, ptrdiff_t skip, const real *bias, real *to,
                                  ptrdiff_t image) {
    FC(unpack_batch)(1, planes, count, skip, bias, to, image);
}

/* `taps` more of them for a tile. */
static void FC(add_taps)(FC(tile_run) *run, ptrdiff_t first, ptrdiff_t taps, const real *w, const ptrdiff_t *offset,
                         ptrdiff_t cb, ptrdiff_t vb) {
    run->w = w + first;
    run->offset = offset + first;
    for (ptrdiff_t left = taps; left > 0; left -= run->taps) {
        run->taps = fc_ceil_div(left, fc_ceil_div(left, FC_CHUNK + FC_CHUNK / 2));
        FC(run_tile)((int)cb, (int)vb, run);
        run->w += run->taps;
        run->offset += run->taps;
        run->bias = NULL;
        run->add = 1;
    }
}

/* Rows from i on that have all kernel rows, and at least one row. */
static ptrdiff_t FC(rows_alike)(const FC(batch) *d, ptrdiff_t i) {
    const fc_stencil *s = &d->s;
    if (d->operation == FC_FORWARD)
        return s->rows - i;
    const ptrdiff_t whole = s->H - 1 + s->pad_h - (d->g.R - 1) * s->step_h; /* the last such row */
    return i < s->pad_h || i > whole ? 1 : fc_min(whole + 1, s->rows) - i;
}

/* `cb` channels of the group into planes; `bias`: of the first of them, or NULL. */
static void FC(batch_planes)(const FC(batch) *d, const real *box, const real *w, const real *bias, ptrdiff_t cb,
                             real *planes) {
    const fc_stencil *s = &d->s;
    const ptrdiff_t R = d->g.R, S = d->g.S, nb = fc_ceil_div(s->cols, d->vb), inner = d->taps / S;
    const ptrdiff_t plane = s->rows * s->cols * LANES;
    FC(tile_run) run = {.w_step = d->taps, .out_step = plane};
    run.x_row = s->pitch * LANES;
    run.out_row = s->cols * LANES;
    run.tiles = d->operation == FC_FORWARD && s->cols % nb == 0 ? nb : 1; /* all in one call: they are alike */
    for (ptrdiff_t n = 0; n < nb; n += run.tiles) {
        const ptrdiff_t j0 = fc_part(s->cols, nb, n), vb = fc_part(s->cols, nb, n + 1) - j0;
        FC(span) across = {0, S};
        if (d->operation == FC_BACKWARD_INPUT)
            across = FC(reaching)(j0, j0 + vb - 1, s->pad_w, s->step_w, S, s->W);
        for (ptrdiff_t i = 0; i < s->rows; i += run.rows) {
            FC(span) down = {0, R};
            if (d->operation == FC_BACKWARD_INPUT)
                down = FC(reaching)(i, i, s->pad_h, s->step_h, R, s->H);
            run.rows = FC(rows_alike)(d, i);
            run.x = box + (i * s->pitch + j0) * LANES;
            run.out = planes + (i * s->cols + j0) * LANES;
            run.bias = bias;
            run.add = 0;
            if (down.from == 0 && down.end == R)
                FC(add_taps)(&run, across.from * inner, (across.end - across.from) * inner, w, d->offsets, cb, vb);
            else
                for (ptrdiff_t q = across.from; q < across.end; q++)
                    FC(add_taps)(&run, q * inner + down.from * s->channels, (down.end - down.from) * s->channels, w,
                                 d->offsets, cb, vb);
            for (ptrdiff_t c = 0; !run.add && c < cb; c++) /* nothing reaches these pixels */
                for (ptrdiff_t row = 0; row < run.rows; row++)
                    memset(run.out + c * plane + row * run.out_row, 0, (size_t)(vb * LANES) * sizeof(real));
        }
    }
}

static void FC(batch_item)(void *context, ptrdiff_t item, int number) {
    const FC(batch) *d = context;
    const fc_stencil *s = &d->s;
    real *const box = (real *)(d->workers + (size_t)number * (d->box_bytes + d->planes_bytes));
    real *const planes = (real *)((char *)box + d->box_bytes);
    const ptrdiff_t part = item % d->parts, group = item / d->parts % d->g.groups;
    const ptrdiff_t first_image = item / d->parts / d->g.groups * LANES, image = fc_min(first_image, d->g.N - LANES);
    const ptrdiff_t plane = s->rows * s->cols, from_image = d->g.groups * d->pixels;
    const ptrdiff_t to_image = d->g.groups * d->outputs * plane;
    FC(pack_batch)(d, d->from + image * from_image + group * d->pixels, from_image, box);
    const ptrdiff_t first = fc_part(d->outputs, d->parts, part), end = fc_part(d->outputs, d->parts, part + 1);
    const ptrdiff_t kb = fc_ceil_div(end - first, d->cb);
    const real *const bias = d->operation == FC_FORWARD ? d->call->bias : NULL;
    const int each = d->call->bias_per_position;
    for (ptrdiff_t b = 0; b < kb; b++) {
        const ptrdiff_t c0 = first + fc_part(end - first, kb, b), cb = first + fc_part(end - first, kb, b + 1) - c0;
        const ptrdiff_t channel = group * d->outputs + c0, at = channel * plane, count = cb * plane;
        const real *const more = bias && each ? bias + at : NULL;
        real *const to = d->to + image * to_image + at;
        FC(batch_planes)(d, box, d->w + channel * d->taps, bias && !each ? bias + channel : NULL, cb, planes);
        if (image == first_image && count >= LANES)
            FC(unpack_batch_whole)(planes, count, more, to, to_image);
        else
            FC(unpack_batch_part)(planes, count, first_image - image, more, to, to_image);
    }
}

/* ---- workspace, run */

static size_t FC(batch_bytes)(const fc_geometry *g, fc_operation operation, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    const FC(batch) d = FC(plan_batch)(g, operation, threads);
    return d.place_bytes + d.offsets_bytes + d.weights_bytes + (size_t)threads * (d.box_bytes + d.planes_bytes);
}
static size_t FC(batch_forward_workspace)(const fc_geometry *g, int threads) {
    return FC(batch_bytes)(g, FC_FORWARD, threads);
}
static size_t FC(batch_backward_input_workspace)(const fc_geometry *g, int threads) {
    return FC(batch_bytes)(g, FC_BACKWARD_INPUT, threads);
}

/* The vector of each source pixel. */
static void FC(place_pixels)(const FC(batch) *d) {
    const fc_stencil *s = &d->s;
    for (ptrdiff_t i = 0; i < d->pixels; i++)
        d->place[i] = (int32_t)s->packed;
    for (ptrdiff_t f = 0; f < s->phases_h * s->phases_w; f++) {
        const ptrdiff_t h0 = f / s->phases_w * s->step_h % s->stride_h - s->pad_h;
        const ptrdiff_t w0 = f % s->phases_w * s->step_w % s->stride_w - s->pad_w;
        for (ptrdiff_t i = 0; i < s->packed_rows; i++)
            for (ptrdiff_t j = 0; j < s->pitch; j++) {
                const ptrdiff_t h = h0 + i * s->stride_h, w = w0 + j * s->stride_w;
                if (h >= 0 && h < s->H && w >= 0 && w < s->W)
                    for (ptrdiff_t c = 0; c < s->channels; c++)
                        d->place[(c * s->H + h) * s->W + w] =
                            (int32_t)(c * s->channel + f * s->plane + i * s->pitch + j);
            }
    }
}

static void FC(run_batch)(FC(batch) *d, int threads) {
    FC(place_pixels)(d);
    for (ptrdiff_t i = 0; i < threads; i++) /* the padding stays zero: no pixel is ever put there */
        memset(d->workers + (size_t)i * (d->box_bytes + d->planes_bytes), 0, d->box_bytes);
    fc_parallel(threads, d->blocks * d->g.groups * d->parts, d->call->keep_denormals, FC(batch_item), d);
}

static FC(batch) FC(begin_batch)(const fc_call *call, fc_operation operation, int threads) {
    FC(batch) d = FC(plan_batch)(&call->geometry, operation, threads);
    char *at = call->workspace;
    d.call = call;
    d.place = (int32_t *)at;
    d.offsets = (ptrdiff_t *)(at += d.place_bytes);
    d.weights = (real *)(at += d.offsets_bytes);
    d.workers = at + d.weights_bytes;
    return d;
}

static void FC(batch_forward)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    FC(batch) d = FC(begin_batch)(call, FC_FORWARD, threads);
    d.from = call->x;
    d.to = call->y;
    d.w = call->w;
    ptrdiff_t *offset = d.offsets;
    for (ptrdiff_t c = 0; c < d.s.channels; c++)
        for (ptrdiff_t r = 0; r < d.g.R; r++)
            for (ptrdiff_t q = 0; q < d.g.S; q++)
                *offset++ = fc_forward_offset(&d.s, c, r, q) * LANES;
    FC(run_batch)(&d, threads);
}

/* weights[c][s][r][k] = w[k][c][R - 1 - r][S - 1 - s], of each group; whether one is not finite. */
static int FC(turn_batch_weights)(const FC(batch) *d) {
    const ptrdiff_t R = d->g.R, S = d->g.S, channels = d->s.channels;
    const real *w = d->call->w;
    int poisoned = 0;
    for (ptrdiff_t group = 0; group < d->g.groups; group++)
        for (ptrdiff_t k = 0; k < channels; k++)
            for (ptrdiff_t c = 0; c < d->outputs; c++) {
                real *const to = d->weights + (group * d->outputs + c) * d->taps + k;
                for (ptrdiff_t r = R - 1; r >= 0; r--)
                    for (ptrdiff_t s = S - 1; s >= 0; s--) {
                        const real weight = *w++;
                        to[(s * R + r) * channels] = weight;
                        poisoned |= weight - weight != 0;
                    }
            }
    return poisoned;
}

static void FC(batch_backward_input)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    FC(batch) d = FC(begin_batch)(call, FC_BACKWARD_INPUT, threads);
    if (FC(turn_batch_weights)(&d)) { /* see turn_kernels */
        FC(small_backward_input)(call);
        return;
    }
    d.from = call->y;
    d.to = call->x;
    d.w = d.weights;
    ptrdiff_t *offset = d.offsets;
    for (ptrdiff_t q = 0; q < d.g.S; q++)
        for (ptrdiff_t r = 0; r < d.g.R; r++)
            for (ptrdiff_t k = 0; k < d.s.channels; k++)
                *offset++ = fc_forward_offset(&d.s, k, r, q) * LANES;
    FC(run_batch)(&d, threads);
}
