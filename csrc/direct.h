/* direct: forward and backward_input by direct summation over a table of taps (stencil.h, pack.h, tile.h).
 *
 * Work is cut into items: an image, a group, a box of the grid, a part of the output channels. A worker packs the box,
 * then runs register tiles over it: CB channels x VB vectors of pixels, all taps. Tiles of pixels are the outer loop where
 * the weights of the group fit the level-2 cache: the pixels of a tile then stay in level 1 while the channels pass; else
 * channels are outer, so that each weight is fetched once.
 *
 * forward reads the weights where they are: a row of w, (C/groups, R, S), has its taps in the order of the table.
 * backward_input first copies w to rows (channel, phase) x taps (K/groups, r, s). A result of stride 1 goes straight to
 * its place; the phases of a strided one are collected a block of channels at a time and interleaved.
 *
 * Workspace: the table, the copied weights, and for each worker one packed box, one table of pieces and the phases. */

/* A run of lanes of one vector of pixels that lies in one row: lanes lo <= l < hi go to `to + l` of the output plane. */
typedef struct {
    ptrdiff_t to, bias;
    int32_t lo, hi;
} FC(piece);

typedef struct {
    FC(piece) *pieces;
    int32_t *first;        /* pieces of vector v: first[v] to first[v + 1] */
    ptrdiff_t rows, cols;  /* the box that they are for */
} FC(layout);

/* Taps of a stencil: `repeat` of them a source channel, the table holds those of a whole number of channels, or of one. */
typedef struct {
    const ptrdiff_t *offset;
    ptrdiff_t repeat, channels;
} FC(taps);

/* Where tiles go. `bias`: of the first channel, or NULL. */
typedef struct {
    const FC(layout) *layout; /* NULL: whole vectors, a plane of `flat` of them a channel */
    real *to;
    ptrdiff_t channel;
    const real *bias;
    ptrdiff_t bias_channel;
    int bias_per_position;
} FC(sink);

typedef struct {
    const fc_call *call;
    fc_geometry g;
    fc_stencil s;
    fc_phase_axis ah, aw;      /* backward_input */
    ptrdiff_t parts;           /* of the output channels */
    ptrdiff_t outputs;         /* output channels a group */
    ptrdiff_t block;           /* strided backward_input: channels that are interleaved at a time */
    ptrdiff_t *offsets;
    real *weights;             /* backward_input: the copy of w */
    char *workers;
    size_t offsets_bytes, weights_bytes, box_bytes, pieces_bytes, first_bytes, phases_bytes;
} FC(direct);

static size_t FC(direct_worker_bytes)(const FC(direct) *d) {
    return d->box_bytes + d->pieces_bytes + d->first_bytes + d->phases_bytes + FC_LINE;
}

/* Channels that one pass over the table of taps covers, and the taps in it. */
FC_INLINE ptrdiff_t FC(channels_a_pass)(ptrdiff_t repeat, ptrdiff_t channels) {
    return fc_clip(FC_CHUNK / repeat, 1, channels);
}

/* ---- tiles */

/* Fewest cycles for `count` channels x `flat` vectors: multiply-adds, loads, start-up of each tile. */
static void FC(choose_tile)(ptrdiff_t count, ptrdiff_t flat, double taps, ptrdiff_t *cb_best, ptrdiff_t *vb_best) {
    static const int vectors[] = FC_TILES;
    double best = 0;
    for (ptrdiff_t most = 1; most <= FC_MAX_CB; most++) {
        const ptrdiff_t kb = fc_ceil_div(count, most), nb = fc_ceil_div(flat, vectors[most - 1]);
        const double cb = (double)count / (double)kb, vb = (double)flat / (double)nb;
        double step = 0.5 * cb * vb;
        const double loads = vb + 0.5 * cb;
        step = step > loads ? step : loads;
        step = (step > 4 ? step : 4) + 0.5;
        const double cost = (double)(kb * nb) * (step * taps + 30);
        if (most == 1 || cost < best) {
            best = cost;
            *cb_best = fc_ceil_div(count, kb);
            *vb_best = fc_ceil_div(flat, nb);
        }
    }
}

static void FC(store_tile)(const FC(sink) *sink, const real *tile, ptrdiff_t c0, ptrdiff_t cb, ptrdiff_t v0, ptrdiff_t vb) {
    real *to = sink->to + c0 * sink->channel;
    if (!sink->layout) {
        for (ptrdiff_t c = 0; c < cb; c++, to += sink->channel)
            for (ptrdiff_t v = 0; v < vb; v++, tile += LANES)
                FC(store)(to + (v0 + v) * LANES, FC(load)(tile));
        return;
    }
    const int32_t *first = sink->layout->first + v0;
    const real *bias = sink->bias ? sink->bias + c0 * sink->bias_channel : NULL;
    for (ptrdiff_t c = 0; c < cb; c++, to += sink->channel) {
        const vec shared = FC(splat)(bias && !sink->bias_per_position ? *bias : 0);
        const FC(piece) *piece = sink->layout->pieces + first[0];
        for (ptrdiff_t v = 0; v < vb; v++, tile += LANES) {
            const vec sums = FC(load)(tile) + shared;
            for (const FC(piece) *end = sink->layout->pieces + first[v + 1]; piece < end; piece++) {
                vec values = sums;
                if (sink->bias_per_position)
                    values += FC(load_lanes)(bias + piece->bias, piece->lo, piece->hi);
                FC(store_lanes)(to + piece->to, values, piece->lo, piece->hi);
            }
        }
        if (bias)
            bias += sink->bias_channel;
    }
}

/* `count` channels over `flat` vectors of a packed box; weights: row c at w + c * w_step. */
static void FC(sweep)(const fc_stencil *s, const FC(taps) *taps, const real *box, const real *w, ptrdiff_t w_step,
                      ptrdiff_t count, ptrdiff_t flat, const FC(sink) *sink) {
    real tile[FC_MAX_TILE * (FC_VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    ptrdiff_t cb, vb;
    const ptrdiff_t total = taps->repeat * taps->channels;
    FC(choose_tile)(count, flat, (double)total, &cb, &vb);
    const ptrdiff_t pass = FC(channels_a_pass)(taps->repeat, taps->channels);
    const ptrdiff_t kb = fc_ceil_div(count, cb), nb = fc_ceil_div(flat, vb);
    const int pixels_outer = count * total * (ptrdiff_t)sizeof(real) <= (1 << 20);
    for (ptrdiff_t i = 0; i < kb * nb; i++) {
        const ptrdiff_t k = pixels_outer ? i % kb : i / nb, n = pixels_outer ? i / kb : i % nb;
        const ptrdiff_t c0 = fc_part(count, kb, k), c1 = fc_part(count, kb, k + 1);
        const ptrdiff_t v0 = fc_part(flat, nb, n), v1 = fc_part(flat, nb, n + 1);
        const real *from = box + v0 * LANES, *row = w + c0 * w_step;
        int add = 0;
        for (ptrdiff_t c = 0; c < taps->channels; c += pass, from += pass * s->channel) {
            ptrdiff_t left = fc_min(pass, taps->channels - c) * taps->repeat;
            for (const ptrdiff_t *offset = taps->offset; left > 0; add = 1) {
                const ptrdiff_t now = fc_min(left, FC_CHUNK + FC_CHUNK / 2);
                FC(run_tile)((int)(c1 - c0), (int)(v1 - v0), from, offset, row, w_step, now, tile, add);
                offset += now;
                row += now;
                left -= now;
            }
        }
        FC(store_tile)(sink, tile, c0, c1 - c0, v0, v1 - v0);
    }
}

/* ---- items */

static void FC(lay_out)(const fc_stencil *s, ptrdiff_t rows, ptrdiff_t cols, FC(layout) *layout) {
    if (layout->rows == rows && layout->cols == cols)
        return;
    layout->rows = rows;
    layout->cols = cols;
    const ptrdiff_t flat = fc_ceil_div((rows - 1) * s->pitch + cols, LANES);
    ptrdiff_t row = 0, col = 0; /* of the next lane; col >= cols: between rows */
    int32_t count = 0;
    for (ptrdiff_t v = 0; v < flat; v++) {
        layout->first[v] = count;
        for (ptrdiff_t lane = 0; lane < LANES && row < rows;) {
            const ptrdiff_t rest = (col < cols ? cols : s->pitch) - col, run = fc_min(rest, LANES - lane);
            if (col < cols)
                layout->pieces[count++] = (FC(piece)){row * s->dst_row + col - lane, row * s->bias_row + col - lane,
                                                      (int32_t)lane, (int32_t)(lane + run)};
            lane += run;
            col += run;
            if (col == s->pitch) {
                col = 0;
                row++;
            }
        }
    }
    layout->first[flat] = count;
}

/* One item's coordinates. */
typedef struct {
    ptrdiff_t image, group, part, i0, j0, rows, cols, flat;
} FC(item);

static FC(item) FC(locate)(const FC(direct) *d, ptrdiff_t i) {
    const fc_stencil *s = &d->s;
    FC(item) it;
    it.part = i % d->parts;
    i /= d->parts;
    it.j0 = i % s->boxes_w * s->box_cols;
    i /= s->boxes_w;
    it.i0 = i % s->boxes_h * s->box_rows;
    i /= s->boxes_h;
    it.group = i % s->groups;
    it.image = i / s->groups;
    it.rows = fc_min(s->box_rows, s->rows - it.i0);
    it.cols = fc_min(s->box_cols, s->cols - it.j0);
    it.flat = fc_ceil_div((it.rows - 1) * s->pitch + it.cols, LANES);
    return it;
}

/* The parts of a worker's share of the workspace. Its table of pieces begins with the layout that describes it. */
typedef struct {
    real *box, *phases;
    FC(layout) *layout;
} FC(worker);

static FC(worker) FC(worker_space)(const FC(direct) *d, int number) {
    char *at = d->workers + (size_t)number * FC(direct_worker_bytes)(d);
    FC(worker) space;
    space.layout = (FC(layout) *)at;
    at += FC_LINE;
    space.box = (real *)at;
    at += d->box_bytes + d->pieces_bytes + d->first_bytes;
    space.phases = (real *)at;
    return space;
}

static void FC(forward_item)(void *context, ptrdiff_t i, int number) {
    const FC(direct) *d = context;
    const fc_stencil *s = &d->s;
    const FC(item) it = FC(locate)(d, i);
    const FC(worker) space = FC(worker_space)(d, number);
    const real *x = d->call->x, *w = d->call->w, *bias = d->call->bias;
    FC(pack_box)(s, x + it.image * s->src_image + it.group * s->channels * s->src_channel, it.i0, it.j0, it.rows, space.box);
    FC(lay_out)(s, it.rows, it.cols, space.layout);
    const ptrdiff_t from = fc_part(d->outputs, d->parts, it.part), end = fc_part(d->outputs, d->parts, it.part + 1);
    const ptrdiff_t k = it.group * d->outputs + from;
    const FC(taps) taps = {d->offsets, d->g.R * d->g.S, s->channels};
    const ptrdiff_t w_step = taps.repeat * taps.channels;
    FC(sink) sink = {space.layout, (real *)d->call->y + it.image * s->dst_image + k * s->dst_channel +
                     it.i0 * s->dst_row + it.j0, s->dst_channel, NULL, 1, d->call->bias && d->call->bias_per_position};
    if (sink.bias_per_position) {
        sink.bias_channel = d->g.P * d->g.Q;
        sink.bias = bias + k * sink.bias_channel + it.i0 * s->bias_row + it.j0;
    } else if (bias)
        sink.bias = bias + k;
    FC(sweep)(s, &taps, space.box, w + k * w_step, w_step, end - from, it.flat, &sink);
}

/* Columns of the phases of one row, interleaved: x[stride * j + phase]. phases are `pitch` apart in `from`. */
static void FC(interleave_row)(const FC(direct) *d, const real *from, ptrdiff_t plane, ptrdiff_t j0, ptrdiff_t cols, real *x) {
    const fc_phase_axis *a = &d->aw;
    const ptrdiff_t W = d->g.W;
    if (a->stride == 2 && a->phases == 2) { /* their phases are 0 and 1 in this order: 2 and the dilation are coprime */
        const ptrdiff_t start = 2 * (j0 + a->origin) - a->pad;
        for (ptrdiff_t j = 0; j < cols; j += LANES) {
            const ptrdiff_t n = 2 * fc_min(cols - j, LANES);
            const vec even = FC(load)(from + j), odd = FC(load)(from + plane + j);
            FC(store_outer)(x, FC(zip_low)(even, odd), start + 2 * j, n, W);
            FC(store_outer)(x, FC(zip_high)(even, odd), start + 2 * j + LANES, n - LANES, W);
        }
        return;
    }
    for (ptrdiff_t f = 0; f < a->phases; f++, from += plane) {
        const ptrdiff_t start = a->stride * (j0 + a->origin) + f * a->step % a->stride - a->pad;
        ptrdiff_t j = start < 0 ? fc_ceil_div(-start, a->stride) : 0;
        for (; j < cols && start + j * a->stride < W; j++)
            x[start + j * a->stride] = from[j];
    }
}

/* The phases of channels c0 .. c1 of one item into x. */
static void FC(interleave)(const FC(direct) *d, const FC(item) *it, const real *phases, ptrdiff_t channels, real *x) {
    const fc_stencil *s = &d->s;
    const fc_phase_axis *ah = &d->ah;
    const ptrdiff_t plane = s->flat * LANES;
    const int as_rows = s->src_row == s->src_image && fc_one_row(&d->g);
    const ptrdiff_t H = as_rows ? s->rows : d->g.H;
    for (ptrdiff_t c = 0; c < channels; c++, x += s->dst_channel)
        for (ptrdiff_t f = 0; f < ah->phases; f++, phases += d->aw.phases * plane) {
            ptrdiff_t h = ah->stride * (it->i0 + ah->origin) + f * ah->step % ah->stride - ah->pad;
            for (ptrdiff_t i = 0; i < it->rows; i++, h += ah->stride)
                if (h >= 0 && h < H)
                    FC(interleave_row)(d, phases + i * s->pitch, plane, it->j0, it->cols, x + h * s->dst_row);
        }
}

static void FC(backward_item)(void *context, ptrdiff_t i, int number) {
    const FC(direct) *d = context;
    const fc_stencil *s = &d->s;
    const FC(item) it = FC(locate)(d, i);
    const FC(worker) space = FC(worker_space)(d, number);
    const ptrdiff_t first = fc_part(d->outputs, d->parts, it.part), end = fc_part(d->outputs, d->parts, it.part + 1);
    const ptrdiff_t from_channel = it.group * s->channels, plane = s->flat * LANES;
    FC(pack_box)(s, (const real *)d->call->y + it.image * s->src_image + from_channel * s->src_channel, it.i0, it.j0,
                 it.rows, space.box);
    if (!d->block)
        FC(lay_out)(s, it.rows, it.cols, space.layout);
    const ptrdiff_t block = d->block ? d->block : end - first;
    for (ptrdiff_t c0 = first; c0 < end; c0 += block) {
        const ptrdiff_t channels = fc_min(block, end - c0);
        real *x = (real *)d->call->x + it.image * s->dst_image + (it.group * d->outputs + c0) * s->dst_channel;
        const ptrdiff_t *offset = d->offsets;
        const real *w = d->weights + it.group * d->outputs * s->channels * d->g.R * d->g.S;
        for (ptrdiff_t h0 = 0, h1; h0 < d->ah.phases; h0 = h1) {
            h1 = fc_phase_run(&d->ah, h0);
            for (ptrdiff_t w0 = 0, w1; w0 < d->aw.phases; w0 = w1) {
                w1 = fc_phase_run(&d->aw, w0);
                const ptrdiff_t phases = (h1 - h0) * (w1 - w0);
                const FC(taps) taps = {offset, fc_phase_taps(&d->ah, h0) * fc_phase_taps(&d->aw, w0), s->channels};
                const ptrdiff_t w_step = taps.repeat * taps.channels;
                if (d->block) {
                    /* channel by channel where the run is not all phases: their planes are not evenly spaced */
                    const ptrdiff_t all = d->ah.phases * d->aw.phases, runs = phases == all ? 1 : phases;
                    for (ptrdiff_t run = 0; run < runs; run++) {
                        const ptrdiff_t f = phases == all ? 0 : (h0 + run / (w1 - w0)) * d->aw.phases + w0 + run % (w1 - w0);
                        const FC(sink) sink = {NULL, space.phases + f * plane, phases == all ? plane : all * plane, NULL, 0, 0};
                        FC(sweep)(s, &taps, space.box, w + (c0 * phases + run) * w_step, w_step * (phases == all ? 1 : phases),
                                  phases == all ? channels * all : channels, it.flat, &sink);
                    }
                } else {
                    const FC(sink) sink = {space.layout, x + it.i0 * s->dst_row + it.j0, s->dst_channel, NULL, 0, 0};
                    FC(sweep)(s, &taps, space.box, w + c0 * w_step, w_step, channels, it.flat, &sink);
                }
                w += d->outputs * phases * w_step;
                offset += FC(channels_a_pass)(taps.repeat, taps.channels) * taps.repeat;
            }
        }
        if (d->block)
            FC(interleave)(d, &it, space.phases, channels, x);
    }
}

/* ---- plan, workspace, run */

static void FC(plan_workers)(FC(direct) *d, int threads) {
    const fc_stencil *s = &d->s;
    const ptrdiff_t items = s->images * s->groups * s->boxes_h * s->boxes_w;
    d->parts = threads > 1 ? fc_clip(fc_ceil_div(2 * (ptrdiff_t)threads, items), 1, d->outputs) : 1;
    d->box_bytes = fc_round_up((size_t)s->packed * sizeof(real));
    d->pieces_bytes = fc_round_up((size_t)(s->flat + s->box_rows) * sizeof(FC(piece)));
    d->first_bytes = fc_round_up((size_t)(s->flat + 1) * sizeof(int32_t));
}

static FC(direct) FC(plan_forward)(const fc_geometry *given, int threads) {
    FC(direct) d = {0};
    d.g = fc_flattened(given);
    d.s = fc_forward_stencil(&d.g, LANES, sizeof(real), threads);
    d.outputs = d.g.K / d.g.groups;
    FC(plan_workers)(&d, threads);
    const ptrdiff_t repeat = d.g.R * d.g.S;
    d.offsets_bytes = fc_round_up((size_t)(FC(channels_a_pass)(repeat, d.s.channels) * repeat) * sizeof(ptrdiff_t));
    return d;
}

static FC(direct) FC(plan_backward)(const fc_geometry *given, int threads) {
    FC(direct) d = {0};
    d.g = fc_flattened(given);
    d.ah = fc_phases(d.g.R, d.g.stride_h, d.g.dilation_h, d.g.pad_h);
    d.aw = fc_phases(d.g.S, d.g.stride_w, d.g.dilation_w, d.g.pad_w);
    d.s = fc_backward_stencil(&d.g, &d.ah, &d.aw, LANES, sizeof(real), threads);
    d.outputs = d.g.C / d.g.groups;
    FC(plan_workers)(&d, threads);
    ptrdiff_t table = 0;
    for (ptrdiff_t h0 = 0; h0 < d.ah.phases; h0 = fc_phase_run(&d.ah, h0))
        for (ptrdiff_t w0 = 0; w0 < d.aw.phases; w0 = fc_phase_run(&d.aw, w0)) {
            const ptrdiff_t repeat = fc_phase_taps(&d.ah, h0) * fc_phase_taps(&d.aw, w0);
            table += FC(channels_a_pass)(repeat, d.s.channels) * repeat;
        }
    d.offsets_bytes = fc_round_up((size_t)table * sizeof(ptrdiff_t));
    d.weights_bytes = fc_round_up((size_t)(d.g.C * d.s.channels * d.g.R * d.g.S) * sizeof(real));
    if (d.g.stride_h > 1 || d.g.stride_w > 1) {
        const ptrdiff_t channel = d.ah.phases * d.aw.phases * d.s.flat * FC_VECTOR_BYTES;
        d.block = fc_clip((64 << 10) / channel, 1, d.outputs);
        d.block = fc_ceil_div(d.outputs, fc_ceil_div(d.outputs, d.block));
        d.phases_bytes = fc_round_up((size_t)(d.block * channel));
    }
    return d;
}

static size_t FC(direct_bytes)(const FC(direct) *d, int threads) {
    return d->offsets_bytes + d->weights_bytes + (size_t)threads * FC(direct_worker_bytes)(d);
}

static size_t FC(direct_forward_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    const FC(direct) d = FC(plan_forward)(g, threads);
    return FC(direct_bytes)(&d, threads);
}

static size_t FC(direct_backward_input_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    const FC(direct) d = FC(plan_backward)(g, threads);
    return FC(direct_bytes)(&d, threads);
}

static void FC(divide_workspace)(FC(direct) *d, const fc_call *call, int threads) {
    char *at = call->workspace;
    d->call = call;
    d->offsets = (ptrdiff_t *)at;
    at += d->offsets_bytes;
    d->weights = (real *)at;
    d->workers = at + d->weights_bytes;
    for (int i = 0; i < threads; i++) {
        const FC(worker) space = FC(worker_space)(d, i);
        char *pieces = (char *)space.box + d->box_bytes;
        *space.layout = (FC(layout)){(FC(piece) *)pieces, (int32_t *)(pieces + d->pieces_bytes), 0, 0};
    }
}

static void FC(direct_forward)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    FC(direct) d = FC(plan_forward)(&call->geometry, threads);
    FC(divide_workspace)(&d, call, threads);
    ptrdiff_t *offset = d.offsets;
    const ptrdiff_t pass = FC(channels_a_pass)(d.g.R * d.g.S, d.s.channels);
    for (ptrdiff_t c = 0; c < pass; c++)
        for (ptrdiff_t r = 0; r < d.g.R; r++)
            for (ptrdiff_t q = 0; q < d.g.S; q++)
                *offset++ = fc_forward_offset(&d.s, c, r, q);
    fc_parallel(threads, d.s.images * d.s.groups * d.s.boxes_h * d.s.boxes_w * d.parts, call->keep_denormals,
                FC(forward_item), &d);
}

/* The table of taps and the rows of weights of phases h0 .. h1 x w0 .. w1; returns their ends through the pointers.
 * True where all weights are finite. */
static int FC(gather_run)(const FC(direct) *d, ptrdiff_t h0, ptrdiff_t h1, ptrdiff_t w0, ptrdiff_t w1, ptrdiff_t **offset,
                          real *to) {
    const fc_phase_axis *ah = &d->ah, *aw = &d->aw;
    const ptrdiff_t down = fc_phase_taps(ah, h0), across = fc_phase_taps(aw, w0), plane = d->g.R * d->g.S;
    const ptrdiff_t pass = FC(channels_a_pass)(down * across, d->s.channels), channels = d->s.channels;
    for (ptrdiff_t k = 0; k < pass; k++)
        for (ptrdiff_t i = 0; i < down; i++)
            for (ptrdiff_t j = 0; j < across; j++)
                *(*offset)++ = k * d->s.channel + (d->s.halo_h - fc_phase_start(ah, h0) - i * ah->hop) * d->s.pitch +
                               d->s.halo_w - fc_phase_start(aw, w0) - j * aw->hop;
    real poison = 0; /* stays 0 as long as the weights are finite: 0 * inf and 0 * NaN are NaN */
    for (ptrdiff_t group = 0; group < d->g.groups; group++, to += d->outputs * channels * plane) {
        real *row = to;
        for (ptrdiff_t c = 0; c < d->outputs; c++)
            for (ptrdiff_t r0 = h0; r0 < h1; r0++)
                for (ptrdiff_t s0 = w0; s0 < w1; s0++) {
                    const real *w = (const real *)d->call->w + (group * channels * d->outputs + c) * plane + r0 * d->g.S + s0;
                    for (ptrdiff_t k = 0; k < channels; k++, w += d->outputs * plane)
                        for (ptrdiff_t i = 0; i < down; i++)
                            for (ptrdiff_t j = 0; j < across; j++) {
                                const real weight = w[i * ah->period * d->g.S + j * aw->period];
                                *row++ = weight;
                                poison += weight * 0;
                            }
                }
    }
    return poison == 0;
}

static void FC(direct_backward_input)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    FC(direct) d = FC(plan_backward)(&call->geometry, threads);
    FC(divide_workspace)(&d, call, threads);
    ptrdiff_t *offset = d.offsets;
    real *weights = d.weights;
    int finite = 1;
    for (ptrdiff_t h0 = 0, h1; h0 < d.ah.phases; h0 = h1) {
        h1 = fc_phase_run(&d.ah, h0);
        for (ptrdiff_t w0 = 0, w1; w0 < d.aw.phases; w0 = w1) {
            w1 = fc_phase_run(&d.aw, w0);
            finite &= FC(gather_run)(&d, h0, h1, w0, w1, &offset, weights);
            weights += d.outputs * (h1 - h0) * (w1 - w0) * d.s.channels * fc_phase_taps(&d.ah, h0) * fc_phase_taps(&d.aw, w0);
        }
    }
    if (!finite) { /* the zeros around y times an infinite weight would be NaN where x does not depend on it */
        FC(small_backward_input)(call);
        return;
    }
    if (d.ah.phases < d.ah.stride || d.aw.phases < d.aw.stride) /* elements that no tap reaches */
        memset(call->x, 0, (size_t)(d.g.N * d.g.C * d.g.H * d.g.W) * sizeof(real));
    fc_parallel(threads, d.s.images * d.s.groups * d.s.boxes_h * d.s.boxes_w * d.parts, call->keep_denormals,
                FC(backward_item), &d);
}
