/* winograd: backward_weight with the fewer multiplications of winograd.h, for the same kernels.
 *
 * A tile of forward is bilinear in its inputs d and the weights g,  A^T [(G g G^T) * (B^T d B)] A.  So what a gradient
 * e of its outputs gives to g is  G^T [(A e A^T) * (B^T d B)] G  (the transposition principle), the product again
 * element by element: G^T and G are applied once, to the sum over all tiles. Each of the 36 points of a 3x3 kernel is a
 * matrix product, output channels x tiles by tiles x input channels. There are as many products as in forward: a
 * quarter of those of direct summation for 3x3, 56% at stride 2, 44% for rows of 3 taps, 71% at stride 2. Errors in
 * float32, of the largest weight: 5e-7 to 4e-6 (gemm 4e-7 to 1e-6, PyTorch 2e-7 to 8e-6).
 *
 * Channels are in the lanes of both operands and tiles the loop, so that nothing is summed over lanes:
 *     v, u (inputs, gradients) [some tiles][chunk of LANES channels][f][tile][LANES]
 *     m (sums) [part of the output channels][input channel][weight f][vectors of the part][LANES]
 * An item is a chunk of the planes of one operand; then one part of the output channels and some input channels, whose
 * sums stay in level 2 until they are turned to rows of w. Where not all tiles fit a block, m is kept between blocks.
 *
 * A number of x or y that is not finite, or an overflow on the way, leaves each weight that depends on it not finite,
 * as in winograd.h, and may do so to others: the whole call is then done again by gemm.
 *
 * Workspace: that of gemm, or v, u, m where it is kept, and for each worker m where not, half transformed tiles, and
 * the weights of some channels before they are turned: whichever is more. */
#ifndef FC_WINOGRAD_WEIGHT_H
#define FC_WINOGRAD_WEIGHT_H

enum {
    FC_WINOGRAD_VECTORS = 3,        /* of output channels in a register tile */
    FC_WINOGRAD_TOGETHER = 1 << 10, /* bytes of one f of the tiles that lie together in v and u */
    FC_WINOGRAD_OPERANDS = 4 << 20, /* bytes of v and u of a block: they stay in level 3 */
    FC_WINOGRAD_FEWEST = 64,        /* tiles of a block, if there are as many: else m is fetched too often */
    FC_WINOGRAD_MOST = 512,
    FC_WINOGRAD_SUMS = 112 << 10,   /* bytes of m of an item */
    FC_WINOGRAD_TURNED = 144        /* weights of each output channel that are turned together, some more */
};

typedef struct {
    const fc_call *call;
    fc_winograd x, y;                   /* how planes of each become tiles: the same tiles */
    ptrdiff_t weights;                  /* points whose weights differ */
    ptrdiff_t vectors, parts;           /* of the output channels of a group; a part has up to FC_WINOGRAD_VECTORS */
    ptrdiff_t runs;                     /* of the chunks of input channels: an item has one */
    ptrdiff_t channel, part;            /* elements of m */
    ptrdiff_t together;                 /* channels that are turned together */
    ptrdiff_t block, tiles;             /* the one that is being worked on, and its tiles */
    int kept;
    size_t v_bytes, u_bytes, m_bytes, columns_bytes, turned_bytes;
    char *shared, *workers;
} fc_winograd_weight;

/* The planes of y in tiles: a tile's outputs are its inputs, side by side, without padding. */
static inline fc_winograd_axis fc_winograd_gradient_axis(fc_winograd_axis a) {
    a.from = a.to, a.pad = 0;
    a.inputs = a.advance = a.outputs;
    a.apart = 1, a.second = 0;
    return a;
}

static inline void fc_lay_winograd_tiles(fc_winograd *p, ptrdiff_t lanes, size_t size) {
    p->chunks = fc_ceil_div(p->in, lanes);
    p->rows = fc_min(p->tiles, fc_max(FC_WINOGRAD_TOGETHER / (lanes * (ptrdiff_t)size), 1));
    p->v_point = p->rows * lanes + lanes; /* else stores to all f would share a few cache sets */
    p->v_chunk = p->points * p->v_point;
    p->v_group = fc_ceil_div(p->tiles, p->rows) * p->chunks * p->v_chunk;
    p->span = fc_even_part(p->block_w, fc_max((FC_WINOGRAD_COLUMNS - p->w.inputs) / p->w.advance + 1, 1), p->w.step);
    p->columns = fc_tile_source(&p->w, p->span - 1) + (p->w.inputs - 1) * p->w.step + 1;
}

static inline fc_winograd_weight fc_winograd_weight_plan(const fc_geometry *g, int threads, ptrdiff_t lanes,
                                                         size_t size) {
    fc_winograd p = fc_winograd_problem(g, FC_FORWARD);
    fc_winograd_weight d = {.weights = p.weights};
    const ptrdiff_t total = p.images * p.h.tiles * p.w.tiles, all = p.groups * (p.in + p.out) * p.points;
    const ptrdiff_t fit = FC_WINOGRAD_OPERANDS / (all * (ptrdiff_t)size);
    const ptrdiff_t most = fc_clip(fit, FC_WINOGRAD_FEWEST, FC_WINOGRAD_MOST);
    fc_winograd_blocks(&p, fc_ceil_div(total, fc_ceil_div(total, most)));
    d.x = d.y = p;
    d.y.in = p.out, d.y.flipped = 1;
    d.y.h = fc_winograd_gradient_axis(p.h), d.y.w = fc_winograd_gradient_axis(p.w);
    fc_lay_winograd_tiles(&d.x, lanes, size);
    fc_lay_winograd_tiles(&d.y, lanes, size);
    d.vectors = d.y.chunks;
    d.parts = fc_ceil_div(d.vectors, FC_WINOGRAD_VECTORS);
    d.channel = d.weights * fc_ceil_div(d.vectors, d.parts) * lanes;
    d.part = d.x.chunks * lanes * d.channel;
    const ptrdiff_t room = fc_max(FC_WINOGRAD_SUMS / (lanes * d.channel * (ptrdiff_t)size), 1);
    d.runs = fc_ceil_div(d.x.chunks, room);
    if (threads > 1)
        d.runs = fc_clip(fc_ceil_div(4 * (ptrdiff_t)threads, p.groups * d.parts), d.runs, d.x.chunks);
    const ptrdiff_t chunks = fc_ceil_div(d.x.chunks, d.runs); /* of a run, at most */
    d.kept = p.blocks > 1;
    const ptrdiff_t taps = p.h.taps * p.w.taps;
    d.together = fc_ceil_div(FC_WINOGRAD_TURNED, taps);
    d.v_bytes = fc_round_up((size_t)d.x.v_group * size);
    d.u_bytes = fc_round_up((size_t)d.y.v_group * size);
    d.m_bytes = fc_round_up((size_t)(d.kept ? p.groups * d.parts * d.part : chunks * lanes * d.channel) * size);
    d.columns_bytes = fc_round_up((size_t)(fc_max(d.x.columns, d.y.columns) * p.h.points * lanes) * size);
    d.turned_bytes = fc_round_up((size_t)((d.together * taps + lanes) * FC_WINOGRAD_VECTORS * lanes) * size);
    return d;
}

static inline size_t fc_winograd_weight_shared(const fc_winograd_weight *d) {
    return (size_t)d->x.groups * (d->v_bytes + d->u_bytes) + (d->kept ? d->m_bytes : 0);
}

static inline size_t fc_winograd_weight_own(const fc_winograd_weight *d) {
    return FC_LINE + d->columns_bytes + d->turned_bytes + (d->kept ? 0 : d->m_bytes);
}

#endif

/* Where a worker's space begins, and in it whether a weight was not finite. */
static char *FC(winograd_weight_space)(const fc_winograd_weight *d, int number) {
    return d->workers + (size_t)number * fc_winograd_weight_own(d);
}

static real *FC(winograd_weight_operand)(const fc_winograd_weight *d, ptrdiff_t group, int gradient) {
    return (real *)(d->shared + (size_t)group * (d->v_bytes + d->u_bytes) + (gradient ? d->v_bytes : 0));
}

/* One chunk of the channels of one segment, of x or of y. */
static void FC(winograd_operands_item)(void *context, ptrdiff_t i, int number) {
    const fc_winograd_weight *d = context;
    const ptrdiff_t both = d->x.chunks + d->y.chunks, group = i / both % d->x.groups;
    const int gradient = i % both >= d->x.chunks;
    const fc_winograd *p = gradient ? &d->y : &d->x;
    const ptrdiff_t chunk = i % both - (gradient ? d->x.chunks : 0);
    const fc_segment s = fc_segment_of(p, d->block, i / both / d->x.groups);
    real *to = FC(winograd_weight_operand)(d, group, gradient) + chunk * p->v_chunk;
    real *columns = (real *)(FC(winograd_weight_space)(d, number) + FC_LINE);
    const real *from = FC(winograd_source)(p, s.image, group, chunk);
    const ptrdiff_t channels = fc_min(LANES, p->in - chunk * LANES);
    if (gradient)
        FC(winograd_transform_gradients)(p, &s, from, channels, columns, to);
    else
        FC(winograd_transform)(p, &s, from, channels, columns, to);
}

/* ---- the products */

/* `rows` x `columns` points from f0 on, which have one weight, of chunks c0 .. c1 of the input channels. */
typedef struct {
    ptrdiff_t f0, rows, columns, c0, c1;
} FC(winograd_products);

/* Sums over all tiles of I input channels, the first at v, times V vectors of output channels: m[i][vector] (+)= */
FC_INLINE void FC(winograd_weight_tile)(const int I, const int V, const fc_winograd_weight *d,
                                        const FC(winograd_products) *p, const real *v, const real *u, real *m) {
    const ptrdiff_t v_rows = d->x.chunks * d->x.v_chunk, u_rows = d->y.chunks * d->y.v_chunk, chunk = d->y.v_chunk;
    const ptrdiff_t point = d->x.v_point, line = d->x.w.points * point, together = d->x.rows, channel = d->channel;
    const int add = d->block > 0;
    vec sum[24];
    FC_UNROLL for (int i = 0; i < I * V; i++) sum[i] = (vec){0};
    for (ptrdiff_t r = 0; r < p->rows; r++)
        for (ptrdiff_t c = 0; c < p->columns; c++) {
            const real *b = v + r * line + c * point, *a = u + r * line + c * point;
            for (ptrdiff_t left = d->tiles; left > 0; left -= together, a += u_rows, b += v_rows) {
                const ptrdiff_t end = fc_min(left, together) * LANES;
                FC_ROLLED for (ptrdiff_t t = 0; t < end; t += LANES) {
                    vec held[FC_WINOGRAD_VECTORS];
                    FC_UNROLL for (int k = 0; k < V; k++) held[k] = FC(load)(a + k * chunk + t);
                    FC_UNROLL for (int i = 0; i < I; i++) {
                        const vec s = FC(splat)(b[t + i]);
                        FC_UNROLL for (int k = 0; k < V; k++) sum[i * V + k] += s * held[k];
                    }
                }
            }
        }
    FC_UNROLL for (int i = 0; i < I; i++)
        FC_UNROLL for (int k = 0; k < V; k++) {
            real *to = m + i * channel + k * LANES;
            FC(store)(to, add ? FC(load)(to) + sum[i * V + k] : sum[i * V + k]);
        }
}

FC_INLINE void FC(winograd_weight_tiles_of)(const int I, const int V, const fc_winograd_weight *d,
                                            const FC(winograd_products) *p, const real *v, const real *u, real *m) {
    const ptrdiff_t at = p->f0 * d->x.v_point, step = I * d->channel;
    for (ptrdiff_t c = p->c0; c < p->c1; c++, m += LANES * d->channel)
        for (ptrdiff_t k = 0; k < fc_min(LANES, d->x.in - c * LANES); k += I)
            FC(winograd_weight_tile)(I, V, d, p, v + c * d->x.v_chunk + at + k, u + at, m + k / I * step);
}

FC_NOINLINE void FC(winograd_weight_tiles)(const fc_winograd_weight *d, ptrdiff_t vectors,
                                           const FC(winograd_products) *p, const real *v, const real *u, real *m) {
    enum { MANY = FC_REGISTERS == 32 ? 8 : 4, LANES_ = FC_VECTOR_BYTES / sizeof(real) };
    enum { I = LANES_ < MANY ? LANES_ : MANY, ALONE = LANES_ < 8 ? LANES_ : 8 };
    if (vectors == 3)
        FC(winograd_weight_tiles_of)(I, 3, d, p, v, u, m);
    else if (vectors == 2)
        FC(winograd_weight_tiles_of)(I, 2, d, p, v, u, m);
    else
        FC(winograd_weight_tiles_of)(ALONE, 1, d, p, v, u, m);
}

/* Chunks c0 .. c1 of the input channels under `vectors` vectors of output channels, of which u is the first. */
static void FC(winograd_weight_multiply)(const fc_winograd_weight *d, ptrdiff_t group, ptrdiff_t c0, ptrdiff_t c1,
                                         const real *u, ptrdiff_t vectors, real *m) {
    const fc_winograd *x = &d->x;
    const real *v = FC(winograd_weight_operand)(d, group, 0);
    for (ptrdiff_t f = 0; f < d->weights; f++, m += vectors * LANES) {
        const ptrdiff_t i = f / x->w.weights, j = f % x->w.weights;
        const FC(winograd_products) p = {.f0 = i * x->w.points + j, .c0 = c0, .c1 = c1,
                                         .rows = i < x->h.weights - 1 ? 1 : x->h.points - i,
                                         .columns = j < x->w.weights - 1 ? 1 : x->w.points - j};
        FC(winograd_weight_tiles)(d, vectors, &p, v, u, m);
    }
}

/* ---- the sums to w */

/* g = G^T t of one phase */
FC_INLINE void FC(winograd_taps_phase)(const int points, const int taps, const vec *t, vec *g) {
    FC_UNROLL for (int i = 0; i < taps; i++) g[i] = i ? (vec){0} : t[0];
    FC_UNROLL for (int pair = 0; pair < (points - 1) / 2; pair++) {
        const vec even = t[1 + 2 * pair] + t[2 + 2 * pair], odd = t[1 + 2 * pair] - t[2 + 2 * pair];
        FC_UNROLL for (int i = 0; i < taps; i++)
            g[i] += FC(winograd_power)(points, pair, i) * (i % 2 ? odd : even);
    }
    if (points % 2 == 0)
        g[taps - 1] += t[points - 1];
}

/* g = G^T t, t of the points whose weights differ */
FC_INLINE void FC(winograd_taps)(const int points, const int taps, const vec *t, vec *g) {
    const int first = (int)fc_first_phase(points);
    if (points == 1) {
        g[0] = t[0];
    } else if (first == points) {
        FC(winograd_taps_phase)(points, taps, t, g);
    } else {
        vec ends[2];
        FC(winograd_taps_phase)(first, 2, t, ends);
        g[0] = ends[0], g[1] = t[first], g[2] = ends[1];
    }
}

/* `channels` of m to turned[channel][tap][vectors]. Returns a vector that is 0 where all is finite, and NaN in some
 * lane where not. */
FC_INLINE vec FC(winograd_weights_back_by)(const int R, const int S, const int points, const fc_winograd_weight *d,
                                           const real *m, ptrdiff_t channels, ptrdiff_t vectors, real *turned) {
    const int points_h = R == 1 ? 1 : points;
    const int rows = (int)fc_weight_points(points_h), columns = (int)fc_weight_points(points);
    vec poison = {0};
    for (ptrdiff_t c = 0; c < channels; c++, m += d->channel, turned += R * S * vectors * LANES)
        for (ptrdiff_t k = 0; k < vectors; k++) {
            vec half[FC_WINOGRAD_TAPS_2D][FC_WINOGRAD_LINE];
            FC_UNROLL for (int j = 0; j < columns; j++) {
                vec line[FC_WINOGRAD_LINE], g[FC_WINOGRAD_TAPS_2D];
                FC_UNROLL for (int i = 0; i < rows; i++)
                    line[i] = FC(load)(m + ((i * columns + j) * vectors + k) * LANES);
                FC(winograd_taps)(points_h, R, line, g);
                FC_UNROLL for (int r = 0; r < R; r++) half[r][j] = g[r];
            }
            FC_UNROLL for (int r = 0; r < R; r++) {
                vec g[FC_WINOGRAD_TAPS_1D];
                FC(winograd_taps)(points, S, half[r], g);
                FC_UNROLL for (int s = 0; s < S; s++) {
                    poison += g[s] * 0;
                    FC(store)(turned + ((r * S + s) * vectors + k) * LANES, g[s]);
                }
            }
        }
    return poison;
}

FC_NOINLINE vec FC(winograd_weights_back)(const fc_winograd_weight *d, const real *m, ptrdiff_t channels,
                                          ptrdiff_t vectors, real *turned) {
    if (d->x.points == 81)
        return FC(winograd_weights_back_by)(3, 3, 9, d, m, channels, vectors, turned);
    if (d->x.points == 15)
        return FC(winograd_weights_back_by)(1, 3, 15, d, m, channels, vectors, turned);
    if (d->x.h.taps == 1)
        switch (d->x.w.taps) {
        case 2: return FC(winograd_weights_back_by)(1, 2, 8, d, m, channels, vectors, turned);
        case 3: return FC(winograd_weights_back_by)(1, 3, 8, d, m, channels, vectors, turned);
        case 4: return FC(winograd_weights_back_by)(1, 4, 8, d, m, channels, vectors, turned);
        case 5: return FC(winograd_weights_back_by)(1, 5, 8, d, m, channels, vectors, turned);
        case 6: return FC(winograd_weights_back_by)(1, 6, 8, d, m, channels, vectors, turned);
        default: return FC(winograd_weights_back_by)(1, 7, 8, d, m, channels, vectors, turned);
        }
    return d->x.w.taps == 3 ? FC(winograd_weights_back_by)(3, 3, 6, d, m, channels, vectors, turned)
                            : FC(winograd_weights_back_by)(5, 5, 6, d, m, channels, vectors, turned);
}

/* Some input channels of one part of the output channels of a group. */
static void FC(winograd_weight_item)(void *context, ptrdiff_t item, int number) {
    const fc_winograd_weight *d = context;
    const ptrdiff_t run = item % d->runs, part = item / d->runs % d->parts, group = item / d->runs / d->parts;
    const ptrdiff_t c0 = fc_part(d->x.chunks, d->runs, run), c1 = fc_part(d->x.chunks, d->runs, run + 1);
    const ptrdiff_t k0 = fc_part(d->vectors, d->parts, part), vectors = fc_part(d->vectors, d->parts, part + 1) - k0;
    char *own = FC(winograd_weight_space)(d, number);
    real *turned = (real *)(own + FC_LINE + d->columns_bytes), *m = (real *)((char *)turned + d->turned_bytes);
    if (d->kept)
        m = (real *)(d->shared + (size_t)d->x.groups * (d->v_bytes + d->u_bytes)) +
            (group * d->parts + part) * d->part + c0 * LANES * d->channel;
    const real *u = FC(winograd_weight_operand)(d, group, 1) + k0 * d->y.v_chunk;
    FC(winograd_weight_multiply)(d, group, c0, c1, u, vectors, m);
    if (d->block < d->x.blocks - 1)
        return;
    const ptrdiff_t taps = d->x.h.taps * d->x.w.taps, end = fc_min(c1 * LANES, d->x.in);
    const ptrdiff_t outputs = fc_min(vectors * LANES, d->x.out - k0 * LANES);
    real *w = (real *)d->call->w + group * d->x.w_group + k0 * LANES * d->x.w_out;
    for (ptrdiff_t c = c0 * LANES; c < end; c += d->together, m += d->together * d->channel) {
        const ptrdiff_t channels = fc_min(d->together, end - c);
        const vec poison = FC(winograd_weights_back)(d, m, channels, vectors, turned);
        for (ptrdiff_t l = 0; l < LANES; l++)
            *(int *)own |= poison[l] != 0;
        FC(put_turned)(turned, vectors, outputs, channels * taps, w + c * taps, d->x.w_out, 0);
    }
}

static size_t FC(winograd_backward_weight_workspace)(const fc_geometry *g, int threads) {
    const size_t direct = FC(gemm_backward_weight_workspace)(g, threads);
    threads = fc_worthwhile_threads(g, threads);
    const fc_winograd_weight d = fc_winograd_weight_plan(g, threads, LANES, sizeof(real));
    const size_t bytes = fc_winograd_weight_shared(&d) + (size_t)threads * fc_winograd_weight_own(&d);
    return bytes > direct ? bytes : direct;
}

static void FC(winograd_backward_weight)(const fc_call *call) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads), keep = call->keep_denormals;
    fc_winograd_weight d = fc_winograd_weight_plan(&call->geometry, threads, LANES, sizeof(real));
    d.call = d.x.call = d.y.call = call;
    d.shared = call->workspace;
    d.workers = d.shared + fc_winograd_weight_shared(&d);
    int poisoned = 0;
    for (int i = 0; i < threads; i++)
        *(int *)FC(winograd_weight_space)(&d, i) = 0;
    for (d.block = 0; d.block < d.x.blocks; d.block++) {
        d.tiles = fc_block_tiles(&d.x, d.block);
        const ptrdiff_t planes = fc_segments(&d.x, d.block) * d.x.groups * (d.x.chunks + d.y.chunks);
        fc_parallel(threads, planes, keep, FC(winograd_operands_item), &d);
        fc_parallel(threads, d.x.groups * d.parts * d.runs, keep, FC(winograd_weight_item), &d);
    }
    for (int i = 0; i < threads; i++)
        poisoned |= *(int *)FC(winograd_weight_space)(&d, i);
    if (poisoned)
        FC(gemm_backward_weight)(call);
}
