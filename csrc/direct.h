/* direct: forward and backward_input by direct summation over a table of taps (stencil.h, pack.h, tile.h).
 *
 * Work is cut into items: an image, a group, a box of the grid, a part of the output channels. A worker packs the box,
 * then runs register tiles over it: CB channels x VB vectors of pixels, all taps. Pixels are one flat run across the
 * ends of rows, and sums go through a buffer to the pieces of rows that they belong to; or, where that takes fewer
 * cycles, tiles go along each row, the last one overlapping the one before, and sums go straight to their place (3
 * channels of 3x3: 1.8 times as fast, of 7x7: 1.2).
 *
 * Channels are the outer loop, so that each weight is fetched once and every channel's output is written in one sweep
 * (10 taps into 512 channels: 3 times as fast as the other way round); except where that would fetch pixels from level
 * 2 for every tile: 1x1 and 1x2 kernels, and rows of many channels. One channel under a long filter takes tile_filter.
 * forward of 1-D layers with few products to a sum goes to direct_row.h, backward_input to few channels to
 * direct_columns.h.
 *
 * forward reads the weights where they are: a row of w, (C/groups, R, S), has its taps in the order of the table.
 * backward_input first copies w to rows (channel, phase) x taps (K/groups, r, s). A result of stride 1 goes straight to
 * its place; the phases of a strided one are collected a block of channels at a time and interleaved.
 *
 * Workspace: the table, the copied weights, and for each worker one packed box, one table of pieces and the phases. */

/* A run of lanes of one vector of pixels that lies in one row: lane l goes to `to + l` of the output plane. */
typedef struct {
    ptrdiff_t to, bias;
    FC(lanes) lanes;
} FC(piece);

/* One row of pixels for a tile VB vectors wide: `tiles` of them, and a last one of `rest` vectors that ends with the
 * row and may overlap the one before. */
typedef struct {
    ptrdiff_t cb, vb, tiles, rest;
} FC(row_tiles);

/* What a worker has worked out and may use again for its next item. */
typedef struct {
    FC(piece) *pieces;
    int32_t *first;        /* pieces of vector v: first[v] to first[v + 1] */
    ptrdiff_t rows, cols;  /* the box that they are for */
    ptrdiff_t count, flat, cb, vb; /* the tile chosen for so many channels and vectors; no channels: none yet */
    FC(row_tiles) row;     /* those taken instead `by_rows` */
    int by_rows;
    int poisoned;          /* backward_input: a weight that this worker copied is not finite */
} FC(layout);

/* Taps of a stencil: `repeat` of them a source channel; the table holds those of the channels of one pass. */
typedef struct {
    const real *w; /* output channel c has its weights at w + c * w_step */
    ptrdiff_t w_step;
    const ptrdiff_t *offset;
    ptrdiff_t repeat, channels;
    ptrdiff_t consecutive; /* taps come in runs of so many, each 1 further than the one before */
} FC(taps);

/* Where tiles go. `bias`: of the first channel, or NULL. */
typedef struct {
    FC(layout) *layout;
    int whole; /* vectors are stored as they are, one after the other, not in the pieces of the layout */
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
    int rising;                /* backward_input: taps of a row are in the order of rising distance, for tile_filter */
    ptrdiff_t block;           /* strided backward_input: channels that are interleaved at a time */
    ptrdiff_t *offsets;
    real *weights;             /* backward_input: the copy of w */
    char *workers;
    size_t offsets_bytes, weights_bytes, box_bytes, pieces_bytes, first_bytes, phases_bytes;
} FC(direct);

static size_t FC(direct_worker_bytes)(const FC(direct) *d) {
    return d->box_bytes + d->pieces_bytes + d->first_bytes + d->phases_bytes + fc_round_up(sizeof(FC(layout)));
}

/* Channels that one pass over the table of taps covers, and the taps in it. */
FC_INLINE ptrdiff_t FC(channels_a_pass)(ptrdiff_t repeat, ptrdiff_t channels) {
    if (channels * repeat <= FC_LONG_CHUNK)
        return channels;
    const ptrdiff_t passes = fc_ceil_div(channels * repeat, FC_CHUNK);
    return passes > channels ? 1 : fc_ceil_div(channels, passes);
}

/* ---- tiles */

/* Cycles of a tile: multiply-adds or loads, and its start-up. */
static double FC(tile_cost)(double cb, double vb, double taps) {
    double step = 0.5 * cb * vb;
    const double loads = vb + 0.5 * cb;
    step = step > loads ? step : loads;
    step = (step > 4 ? step : 4) + 0.5;
    return step * taps + 30;
}

/* Fewest cycles for `count` channels x `flat` vectors. */
static double FC(choose_tile)(ptrdiff_t count, ptrdiff_t flat, double taps, ptrdiff_t *cb_best, ptrdiff_t *vb_best) {
    static const int vectors[] = FC_TILES;
    double best = 0;
    for (ptrdiff_t most = 1; most <= FC_MAX_CB; most++) {
        const ptrdiff_t kb = fc_ceil_div(count, most), nb = fc_ceil_div(flat, vectors[most - 1]);
        const double cb = (double)count / (double)kb, vb = (double)flat / (double)nb;
        const double cost = (double)(kb * nb) * FC(tile_cost)(cb, vb, taps);
        if (most == 1 || cost < best) {
            best = cost;
            *cb_best = fc_ceil_div(count, kb);
            *vb_best = fc_ceil_div(flat, nb);
        }
    }
    return best;
}

static FC(row_tiles) FC(divide_row)(ptrdiff_t cols, ptrdiff_t cb, ptrdiff_t vb) {
    FC(row_tiles) t = {cb, fc_min(vb, cols / LANES), 0, 0};
    t.tiles = cols / (t.vb * LANES);
    t.rest = fc_ceil_div(cols - t.tiles * t.vb * LANES, LANES);
    return t;
}

/* Fewest cycles for `count` channels of one row of LANES pixels or more. */
static double FC(choose_row_tiles)(ptrdiff_t count, ptrdiff_t cols, double taps, FC(row_tiles) *chosen) {
    static const int vectors[] = FC_TILES;
    double best = 0;
    for (ptrdiff_t most = 1; most <= FC_MAX_CB; most++) {
        const ptrdiff_t kb = fc_ceil_div(count, most);
        const double cb = (double)count / (double)kb;
        const FC(row_tiles) t = FC(divide_row)(cols, fc_ceil_div(count, kb), vectors[most - 1]);
        double cost = (double)t.tiles * FC(tile_cost)(cb, (double)t.vb, taps);
        if (t.rest)
            cost += FC(tile_cost)(cb, (double)t.rest, taps);
        cost *= (double)kb;
        if (most == 1 || cost < best)
            best = cost, *chosen = t;
    }
    return best;
}

/* Channels c0 .. c0 + cb of vectors v0 .. v0 + vb: bias added, each element written once. */
static void FC(store_tile)(const FC(sink) *sink, const real *tile, ptrdiff_t c0, ptrdiff_t cb, ptrdiff_t v0,
                           ptrdiff_t vb) {
    real *to = sink->to + c0 * sink->channel;
    const real *bias = sink->bias ? sink->bias + c0 * sink->bias_channel : NULL;
    if (sink->whole) {
        for (ptrdiff_t c = 0; c < cb; c++, to += sink->channel)
            for (ptrdiff_t v = 0; v < vb; v++, tile += LANES)
                FC(store)(to + (v0 + v) * LANES, FC(load)(tile));
        return;
    }
    const int32_t *first = sink->layout->first + v0;
    const FC(piece) *const pieces = sink->layout->pieces + first[0];
    for (ptrdiff_t c = 0; c < cb; c++, to += sink->channel) {
        const vec shared = FC(splat)(bias && !sink->bias_per_position ? *bias : 0);
        if (sink->bias_per_position) {
            for (ptrdiff_t v = 0; v < vb; v++, tile += LANES)
                for (ptrdiff_t i = first[v] - first[0]; i < first[v + 1] - first[0]; i++) {
                    const vec more = FC(load_lanes)(bias + pieces[i].bias, pieces[i].lanes);
                    FC(store_lanes)(to + pieces[i].to, FC(load)(tile) + more, pieces[i].lanes);
                }
        } else if (first[vb] - first[0] == vb) { /* every vector in one piece */
            for (ptrdiff_t v = 0; v < vb; v++, tile += LANES)
                FC(store_lanes)(to + pieces[v].to, FC(load)(tile) + shared, pieces[v].lanes);
        } else {
            for (ptrdiff_t v = 0; v < vb; v++, tile += LANES) {
                const vec values = FC(load)(tile) + shared;
                for (ptrdiff_t i = first[v] - first[0]; i < first[v + 1] - first[0]; i++)
                    FC(store_lanes)(to + pieces[i].to, values, pieces[i].lanes);
            }
        }
        if (bias)
            bias += sink->bias_channel;
    }
}

/* All taps of one channel for FC_FILTER_VB vectors, where taps come in long runs: tile_filter, by up to FC_FILTER_TAPS
 * taps LANES apart. */
static void FC(filter)(const fc_stencil *s, const FC(taps) *taps, const real *from, real *tile) {
    const real *w = taps->w;
    int add = 0;
    for (ptrdiff_t c = 0; c < taps->channels; c++, from += s->channel)
        for (ptrdiff_t t = 0; t < taps->repeat; t += taps->consecutive)
            for (ptrdiff_t left = taps->consecutive, now, at = 0; left; left -= now, at += now) {
                now = fc_min(left, FC_FILTER_TAPS * LANES);
                const ptrdiff_t deep = fc_ceil_div(now, LANES), full = now - (deep - 1) * LANES;
                const real *x = from + taps->offset[t] + at;
                FC(run_filter)((int)deep, x, w, full, tile, add);
                if (full < LANES && deep > 1)
                    FC(run_filter)((int)deep - 1, x + full, w + full, LANES - full, tile, 1);
                w += now;
                add = 1;
            }
}

/* All passes of one run of tiles, `most` taps each. */
FC_INLINE void FC(run_passes)(const fc_stencil *s, const FC(taps) *taps, ptrdiff_t most, int cb, int vb,
                              FC(tile_run) run) {
    const ptrdiff_t pass = FC(channels_a_pass)(taps->repeat, taps->channels);
    for (ptrdiff_t c = 0; c < taps->channels; c += pass, run.x += pass * s->channel) {
        ptrdiff_t left = fc_min(pass, taps->channels - c) * taps->repeat;
        for (run.offset = taps->offset; left > 0; run.add = 1, run.bias = NULL) {
            run.taps = fc_ceil_div(left, fc_ceil_div(left, most));
            FC(run_tile)(cb, vb, &run);
            run.offset += run.taps;
            run.w += run.taps;
            left -= run.taps;
        }
    }
}

/* Tiles of a row whose pixels stay in level 1 while all channels pass, where those of whole rows would not. */
FC_INLINE ptrdiff_t FC(tiles_together)(const fc_stencil *s, FC(row_tiles) t, ptrdiff_t cols) {
    const ptrdiff_t deep = s->channels * s->phases_h * s->phases_w * (1 + s->halo_h) * (ptrdiff_t)sizeof(real);
    if (deep * (cols + s->halo_w) <= FC_SEGMENT_BYTES)
        return t.tiles;
    return fc_clip(FC_SEGMENT_BYTES / (deep * t.vb * LANES), 2, t.tiles);
}

/* `count` channels over a packed box, row by row, sums straight to where they belong. */
static void FC(sweep_rows)(const fc_stencil *s, const FC(taps) *taps, const real *box, ptrdiff_t count,
                           const FC(sink) *sink) {
    const FC(layout) *known = sink->layout;
    const FC(row_tiles) t = known->row;
    const ptrdiff_t cols = known->cols, kb = fc_ceil_div(count, t.cb);
    const ptrdiff_t near = kb > 1 ? FC(tiles_together)(s, t, cols) : t.tiles;
    const int reused = taps->repeat > 2 * s->phases_h * s->phases_w; /* packed pixels, by the taps of a channel */
    /* else the next row's pixels, or sums that are not complete, would come from level 2 */
    const int whole = near == t.tiles && reused && taps->repeat * taps->channels <= FC_LONG_CHUNK;
    const ptrdiff_t rows = whole ? known->rows : 1;
    for (ptrdiff_t i = 0; i < known->rows; i += rows)
        for (ptrdiff_t n = 0; n < t.tiles; n += near)
            for (ptrdiff_t k = 0; k < kb; k++) {
                const ptrdiff_t c0 = fc_part(count, kb, k), c1 = fc_part(count, kb, k + 1);
                const ptrdiff_t first = n * t.vb * LANES, last = cols - t.rest * LANES;
                FC(tile_run) run = {.w = taps->w + c0 * taps->w_step, .w_step = taps->w_step, .rows = rows};
                real *const out = sink->to + c0 * sink->channel + i * s->dst_row;
                run.out_step = sink->channel;
                run.x_row = s->pitch;
                run.out_row = s->dst_row;
                run.bias = sink->bias ? sink->bias + c0 : NULL;
                run.x = box + i * s->pitch + first;
                run.out = out + first;
                run.tiles = fc_min(near, t.tiles - n);
                FC(run_passes)(s, taps, FC_LONG_CHUNK, (int)(c1 - c0), (int)t.vb, run);
                if (t.rest && n + near >= t.tiles) {
                    run.x = box + i * s->pitch + last;
                    run.out = out + last;
                    run.tiles = 1;
                    FC(run_passes)(s, taps, FC_LONG_CHUNK, (int)(c1 - c0), (int)t.rest, run);
                }
            }
}

/* The tile for `count` channels of the box, and whether it goes row by row: the columns between rows are not computed
 * then, and what a tile writes needs no copy (3.5 cycles a vector). */
static void FC(choose_sweep)(const FC(taps) *taps, ptrdiff_t count, ptrdiff_t flat, const FC(sink) *sink) {
    FC(layout) *known = sink->layout;
    const double total = (double)(taps->repeat * taps->channels);
    known->count = count;
    known->flat = flat;
    const double cost = FC(choose_tile)(count, flat, total, &known->cb, &known->vb) + 3.5 * (double)(count * flat);
    known->by_rows = !sink->whole && !sink->bias_per_position && known->cols >= LANES &&
                     (double)known->rows * FC(choose_row_tiles)(count, known->cols, total, &known->row) < cost;
}

/* `count` channels over `flat` vectors of a packed box. */
static void FC(sweep)(const fc_stencil *s, const FC(taps) *taps, const real *box, ptrdiff_t count, ptrdiff_t flat,
                      const FC(sink) *sink) {
    real tile[FC_MAX_TILE * (FC_VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const FC(layout) *known = sink->layout;
    const ptrdiff_t total = taps->repeat * taps->channels;
    if (known->count != count || known->flat != flat)
        FC(choose_sweep)(taps, count, flat, sink);
    if (count == 1 && flat >= FC_FILTER_VB && taps->consecutive >= LANES) {
        for (ptrdiff_t v = 0; v < flat; v += FC_FILTER_VB) {
            const ptrdiff_t v0 = fc_min(v, flat - FC_FILTER_VB); /* the last one overlaps: the same numbers once more */
            FC(filter)(s, taps, box + v0 * LANES, tile);
            FC(store_tile)(sink, tile, 0, 1, v0, FC_FILTER_VB);
        }
        return;
    }
    if (known->by_rows) {
        FC(sweep_rows)(s, taps, box, count, sink);
        return;
    }
    const ptrdiff_t cb = known->cb, vb = known->vb;
    const ptrdiff_t kb = fc_ceil_div(count, cb), nb = fc_ceil_div(flat, vb);
    const int pixels_outer = taps->repeat <= 2 && count * total * (ptrdiff_t)sizeof(real) <= (1 << 20);
    for (ptrdiff_t i = 0; i < kb * nb; i++) {
        const ptrdiff_t k = pixels_outer ? i % kb : i / nb, n = pixels_outer ? i / kb : i % nb;
        const ptrdiff_t c0 = fc_part(count, kb, k), c1 = fc_part(count, kb, k + 1);
        const ptrdiff_t v0 = fc_part(flat, nb, n), v1 = fc_part(flat, nb, n + 1);
        FC(tile_run) run = {.x = box + v0 * LANES, .w = taps->w + c0 * taps->w_step, .out = tile};
        run.w_step = taps->w_step;
        run.out_step = (v1 - v0) * LANES;
        run.rows = run.tiles = 1;
        FC(run_passes)(s, taps, FC_CHUNK + FC_CHUNK / 2, (int)(c1 - c0), (int)(v1 - v0), run);
        FC(store_tile)(sink, tile, c0, c1 - c0, v0, v1 - v0);
    }
}

/* ---- items */

static void FC(lay_out)(const fc_stencil *s, ptrdiff_t rows, ptrdiff_t cols, FC(layout) *layout) {
    if (layout->rows == rows && layout->cols == cols)
        return;
    layout->rows = rows;
    layout->cols = cols;
    layout->count = 0;
    const ptrdiff_t flat = fc_ceil_div((rows - 1) * s->pitch + cols, LANES);
    ptrdiff_t row = 0, col = 0; /* of the next lane; col >= cols: between rows */
    int32_t count = 0;
    for (ptrdiff_t v = 0; v < flat; v++) {
        layout->first[v] = count;
        for (ptrdiff_t lane = 0; lane < LANES && row < rows;) {
            const ptrdiff_t rest = (col < cols ? cols : s->pitch) - col, run = fc_min(rest, LANES - lane);
            if (col < cols)
                layout->pieces[count++] = (FC(piece)){row * s->dst_row + col - lane, row * s->bias_row + col - lane,
                                                      FC(between)(lane, lane + run)};
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
    FC(layout) *layout;
    real *box, *phases;
} FC(worker);

static FC(worker) FC(worker_space)(const FC(direct) *d, int number) {
    char *at = d->workers + (size_t)number * FC(direct_worker_bytes)(d);
    FC(worker) space;
    space.layout = (FC(layout) *)at;
    at += fc_round_up(sizeof(FC(layout)));
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
    x += it.image * s->src_image + it.group * s->channels * s->src_channel;
    FC(pack_box)(s, x, it.i0, it.j0, it.rows, space.box);
    FC(lay_out)(s, it.rows, it.cols, space.layout);
    const ptrdiff_t from = fc_part(d->outputs, d->parts, it.part), end = fc_part(d->outputs, d->parts, it.part + 1);
    const ptrdiff_t k = it.group * d->outputs + from;
    const ptrdiff_t repeat = d->g.R * d->g.S, w_step = repeat * s->channels;
    const int unit = s->stride_w == 1 && s->step_w == 1;
    const FC(taps) taps = {w + k * w_step, w_step, d->offsets, repeat, s->channels, unit ? d->g.S : 1};
    real *y = (real *)d->call->y + it.image * s->dst_image + k * s->dst_channel + it.i0 * s->dst_row + it.j0;
    FC(sink) sink = {space.layout, 0, y, s->dst_channel, NULL, 1, bias && d->call->bias_per_position};
    if (sink.bias_per_position) {
        sink.bias_channel = d->g.P * d->g.Q;
        sink.bias = bias + k * sink.bias_channel + it.i0 * s->bias_row + it.j0;
    } else if (bias)
        sink.bias = bias + k;
    FC(sweep)(s, &taps, space.box, end - from, it.flat, &sink);
}

/* `rows` rows of one row phase, its column phases interleaved: x[stride * j + phase], rows x_row elements apart. */
static void FC(interleave_rows)(const FC(direct) *d, const FC(item) *it, const real *from, ptrdiff_t rows, real *x,
                                ptrdiff_t x_row) {
    const ptrdiff_t plane = d->s.flat * LANES, j0 = it->j0, cols = it->cols;
    const fc_phase_axis *a = &d->aw;
    const ptrdiff_t W = d->g.W, pitch = d->s.pitch;
    if (a->stride == 2 && a->phases == 2) { /* their phases are 0 and 1 in this order: 2 and the dilation are coprime */
        const ptrdiff_t start = 2 * (j0 + a->origin) - a->pad, end = fc_min(W, start + 2 * cols);
        for (ptrdiff_t j = 0; j < cols; j += LANES) {
            const ptrdiff_t at = start + 2 * j;
            const FC(lanes) low = FC(inside)(at, end), high = FC(inside)(at + LANES, end);
            for (ptrdiff_t i = 0; i < rows; i++) {
                const vec even = FC(load)(from + i * pitch + j), odd = FC(load)(from + i * pitch + plane + j);
                FC(store_lanes)(x + i * x_row + at, FC(zip_low)(even, odd), low);
                FC(store_lanes)(x + i * x_row + at + LANES, FC(zip_high)(even, odd), high);
            }
        }
        return;
    }
    const ptrdiff_t stride = a->stride;
    for (ptrdiff_t f = 0; f < a->phases; f++, from += plane) {
        const ptrdiff_t start = stride * (j0 + a->origin) + f * a->step % stride - a->pad;
        const ptrdiff_t first = start < 0 ? fc_ceil_div(-start, stride) : 0;
        const ptrdiff_t end = start < W ? fc_min(cols, fc_ceil_div(W - start, stride)) : 0;
        for (ptrdiff_t i = 0; i < rows; i++)
            for (ptrdiff_t j = first; j < end; j++)
                x[i * x_row + start + j * stride] = from[i * pitch + j];
    }
}

/* The phases of `channels` channels of one item into x. */
static void FC(interleave)(const FC(direct) *d, const FC(item) *it, const real *phases, ptrdiff_t channels, real *x) {
    const fc_stencil *s = &d->s;
    const fc_phase_axis *ah = &d->ah;
    const ptrdiff_t plane = s->flat * LANES, stride = ah->stride;
    const ptrdiff_t H = fc_one_row(&d->g) ? s->rows : d->g.H; /* images as rows */
    for (ptrdiff_t f = 0; f < ah->phases; f++) {
        const ptrdiff_t h = stride * (it->i0 + ah->origin) + f * ah->step % stride - ah->pad;
        const ptrdiff_t first = h < 0 ? fc_ceil_div(-h, stride) : 0;
        const ptrdiff_t end = h < H ? fc_min(it->rows, fc_ceil_div(H - h, stride)) : 0;
        for (ptrdiff_t c = 0; c < channels; c++)
            FC(interleave_rows)(d, it, phases + (c * ah->phases + f) * d->aw.phases * plane + first * s->pitch,
                                end - first, x + c * s->dst_channel + (h + first * stride) * s->dst_row,
                                stride * s->dst_row);
    }
}

static void FC(backward_item)(void *context, ptrdiff_t i, int number) {
    const FC(direct) *d = context;
    const fc_stencil *s = &d->s;
    const FC(item) it = FC(locate)(d, i);
    const FC(worker) space = FC(worker_space)(d, number);
    const ptrdiff_t first = fc_part(d->outputs, d->parts, it.part), end = fc_part(d->outputs, d->parts, it.part + 1);
    const ptrdiff_t plane = s->flat * LANES, all = d->ah.phases * d->aw.phases;
    const real *y = (const real *)d->call->y + it.image * s->src_image + it.group * s->channels * s->src_channel;
    FC(pack_box)(s, y, it.i0, it.j0, it.rows, space.box);
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
                const ptrdiff_t across = fc_phase_taps(&d->aw, w0), repeat = fc_phase_taps(&d->ah, h0) * across;
                const ptrdiff_t w_step = repeat * s->channels, consecutive = d->rising ? across : 1;
                FC(taps) taps = {w + c0 * phases * w_step, w_step, offset, repeat, s->channels, consecutive};
                FC(sink) sink = {space.layout, 0, x + it.i0 * s->dst_row + it.j0, s->dst_channel, NULL, 0, 0};
                if (!d->block) {
                    FC(sweep)(s, &taps, space.box, channels, it.flat, &sink);
                } else if (phases == all) {
                    sink = (FC(sink)){space.layout, 1, space.phases, plane, NULL, 0, 0};
                    FC(sweep)(s, &taps, space.box, channels * all, it.flat, &sink);
                } else { /* phase by phase: those of a channel are not all side by side */
                    taps.w_step *= phases;
                    for (ptrdiff_t run = 0; run < phases; run++, taps.w += w_step) {
                        const ptrdiff_t f = (h0 + run / (w1 - w0)) * d->aw.phases + w0 + run % (w1 - w0);
                        sink = (FC(sink)){space.layout, 1, space.phases + f * plane, all * plane, NULL, 0, 0};
                        FC(sweep)(s, &taps, space.box, channels, it.flat, &sink);
                    }
                }
                w += d->outputs * phases * w_step;
                offset += FC(channels_a_pass)(repeat, s->channels) * repeat;
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
    d.rising = d.outputs == 1 && d.aw.hop == 1;
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
        /* few channels stay together even so: better register tiles are worth more than phases that stay in level 1
         * (7x7 of stride 2 to 3 channels: 1.4 times as fast, 5x5 to 4 and 6 channels 1.4 and 1.5) */
        if (d.outputs <= FC_MAX_CB && d.outputs * channel <= 512 << 10)
            d.block = d.outputs;
        d.block = fc_ceil_div(d.outputs, fc_ceil_div(d.outputs, d.block));
        /* one vector more, as the last row is read past its end */
        d.phases_bytes = fc_round_up((size_t)(d.block * channel) + FC_VECTOR_BYTES);
    }
    return d;
}

static size_t FC(direct_bytes)(const FC(direct) *d, int threads) {
    return d->offsets_bytes + d->weights_bytes + (size_t)threads * FC(direct_worker_bytes)(d);
}

static size_t FC(direct_forward_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    if (direct_one_row(g))
        return FC(direct_row_bytes)(g, threads);
    if (FC(direct_by_planes)(g))
        return FC(direct_plane_bytes)(g, threads);
    const FC(direct) d = FC(plan_forward)(g, threads);
    return FC(direct_bytes)(&d, threads);
}

static size_t FC(direct_backward_input_workspace)(const fc_geometry *g, int threads) {
    threads = fc_worthwhile_threads(g, threads);
    if (direct_by_columns(g, LANES))
        return FC(columns_bytes)(g, threads);
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
        *space.layout = (FC(layout)){.pieces = (FC(piece) *)pieces, .first = (int32_t *)(pieces + d->pieces_bytes)};
    }
}

static void FC(direct_forward)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    if (direct_one_row(&call->geometry)) {
        FC(direct_row_forward)(call, threads);
        return;
    }
    if (FC(direct_by_planes)(&call->geometry)) {
        FC(direct_plane_forward)(call, threads);
        return;
    }
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

/* The table of taps of phases h0 .. and w0 ..; where `rising`, in the order that makes neighbours ascend. */
static ptrdiff_t *FC(backward_offsets)(const FC(direct) *d, ptrdiff_t h0, ptrdiff_t w0, ptrdiff_t *offset) {
    const ptrdiff_t down = fc_phase_taps(&d->ah, h0), across = fc_phase_taps(&d->aw, w0);
    const ptrdiff_t pass = FC(channels_a_pass)(down * across, d->s.channels);
    for (ptrdiff_t k = 0; k < pass; k++)
        for (ptrdiff_t i = 0; i < down; i++)
            for (ptrdiff_t j = 0; j < across; j++) {
                const ptrdiff_t row = fc_phase_start(&d->ah, h0) + i * d->ah.hop;
                const ptrdiff_t column = fc_phase_start(&d->aw, w0) + (d->rising ? across - 1 - j : j) * d->aw.hop;
                *offset++ = k * d->s.channel + (d->s.halo_h - row) * d->s.pitch + d->s.halo_w - column;
            }
    return offset;
}

enum { FC(gather_block) = 16 }; /* channels whose rows are written side by side, so that w is read in longer runs */

/* An item: the weights of some channels of one group, for all phases: to[c][phase][k][i][j] = w[k][c][r][s]. */
static void FC(gather_item)(void *context, ptrdiff_t item, int number) {
    const FC(direct) *d = context;
    const fc_phase_axis *ah = &d->ah, *aw = &d->aw;
    const ptrdiff_t plane = d->g.R * d->g.S, channels = d->s.channels, S = d->g.S;
    const ptrdiff_t blocks = fc_ceil_div(d->outputs, FC(gather_block)), group = item / blocks;
    const ptrdiff_t c0 = item % blocks * FC(gather_block), c1 = fc_min(c0 + FC(gather_block), d->outputs);
    const real *w = (const real *)d->call->w + group * channels * d->outputs * plane;
    real *to = d->weights + group * d->outputs * channels * plane;
    vec poison = {0}; /* stays 0 as long as the weights are finite: 0 * inf and 0 * NaN are NaN */
    int poisoned = 0;
    for (ptrdiff_t h0 = 0, h1; h0 < ah->phases; h0 = h1) {
        h1 = fc_phase_run(ah, h0);
        for (ptrdiff_t w0 = 0, w1; w0 < aw->phases; w0 = w1) {
            w1 = fc_phase_run(aw, w0);
            const ptrdiff_t down = fc_phase_taps(ah, h0), across = fc_phase_taps(aw, w0), repeat = down * across;
            const ptrdiff_t runs = (h1 - h0) * (w1 - w0);
            for (ptrdiff_t run = 0; run < runs; run++) {
                const real *phase = w + (h0 + run / (w1 - w0)) * S + w0 + run % (w1 - w0);
                for (ptrdiff_t k = 0; k < channels; k++)
                    for (ptrdiff_t c = c0; c < c1; c++) {
                        const real *from = phase + (k * d->outputs + c) * plane;
                        real *row = to + ((c * runs + run) * channels + k) * repeat;
                        if (repeat == plane && !d->rising) {
                            for (ptrdiff_t t = 0; t < plane; t += LANES) {
                                const FC(lanes) rest = FC(between)(0, fc_min(plane - t, LANES));
                                const vec weights = FC(load_lanes)(from + t, rest);
                                FC(store_lanes)(row + t, weights, rest);
                                poison += weights * 0;
                            }
                            continue;
                        }
                        for (ptrdiff_t i = 0; i < down; i++)
                            for (ptrdiff_t j = 0; j < across; j++) {
                                const ptrdiff_t s = d->rising ? across - 1 - j : j;
                                const real weight = from[i * ah->period * S + s * aw->period];
                                *row++ = weight;
                                poisoned |= weight - weight != 0;
                            }
                    }
            }
            to += d->outputs * runs * channels * repeat;
        }
    }
    for (ptrdiff_t l = 0; l < LANES; l++)
        poisoned |= poison[l] != 0;
    if (poisoned)
        FC(worker_space)(d, number).layout->poisoned = 1;
}

static void FC(direct_backward_input)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    if (direct_by_columns(&call->geometry, LANES)) {
        FC(columns_backward_input)(call, threads);
        return;
    }
    FC(direct) d = FC(plan_backward)(&call->geometry, threads);
    FC(divide_workspace)(&d, call, threads);
    ptrdiff_t *offset = d.offsets;
    for (ptrdiff_t h0 = 0; h0 < d.ah.phases; h0 = fc_phase_run(&d.ah, h0))
        for (ptrdiff_t w0 = 0; w0 < d.aw.phases; w0 = fc_phase_run(&d.aw, w0))
            offset = FC(backward_offsets)(&d, h0, w0, offset);
    fc_parallel(d.weights_bytes > FC_SUM_BYTES / 4 ? threads : 1, d.g.groups * fc_ceil_div(d.outputs, FC(gather_block)),
                call->keep_denormals, FC(gather_item), &d);
    int poisoned = 0;
    for (int i = 0; i < threads; i++)
        poisoned |= FC(worker_space)(&d, i).layout->poisoned;
    if (poisoned) { /* the zeros around y times an infinite weight would be NaN where x does not depend on it */
        FC(small_backward_input)(call);
        return;
    }
    if (d.ah.phases < d.ah.stride || d.aw.phases < d.aw.stride) /* elements that no tap reaches */
        memset(call->x, 0, (size_t)(d.g.N * d.g.C * d.g.H * d.g.W) * sizeof(real));
    fc_parallel(threads, d.s.images * d.s.groups * d.s.boxes_h * d.s.boxes_w * d.parts, call->keep_denormals,
                FC(backward_item), &d);
}
