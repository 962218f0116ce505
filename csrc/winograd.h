/* winograd: forward and backward_input of 3x3 kernels at stride 1 by F(4x4, 3x3), a quarter of the multiplications.
 *
 * A tile of 4x4 outputs comes from 6x6 inputs d and the 3x3 weights g as  A^T [(G g G^T) * (B^T d B)] A  (Winograd 1980,
 * Lavin and Gray 2015, https://arxiv.org/abs/1509.09308), the product taken element by element and summed over the input
 * channels: 36 matrix products, one for each element f of the 6x6. The matrices are those of the interpolation points
 * 0, +-1/sqrt(2), +-sqrt(2), infinity: 1e-6 to 4e-6 of the largest output off in float32, where the customary 0, +-1, +-2
 * is 5e-6 to 1e-5 off at the same cost. backward_input is the same with the weights flipped and their channels swapped.
 * Dilation d makes d * d interleaved convolutions of it: the six inputs and four outputs of a tile then lie d apart.
 *
 * Channels are in the lanes. v (inputs), u (weights) and m (products) are
 *     v [row of up to 14 tiles][chunk of LANES in-channels][f][tile][LANES]
 *     u [slab of 8 in-channels][f][in-channel][BLOCK]     m [f][tile][BLOCK]
 * with BLOCK = 2 * LANES out-channels: all 36 f of a tile lie within a few pages, as a store that goes to one of more than 16
 * pages waits for the address translation. Planes are turned to channels-in-lanes some tiles of a row at a time on their way into
 * the transform, and back after the last one, so no transposed image exists. Two orders of work:
 *   many tiles   all weights are transformed once; an item is a block of some 28 to 56 tiles and one group, carried through
 *                all steps while it is in level 2
 *   few tiles    all inputs are transformed once; an item is a block of out-channels, whose weights are transformed, some
 *                in-channels at a time, just before they are used: they are read and written once
 *
 * NaN and infinity would spread over a tile, and large numbers may overflow on the way. Either leaves NaN or infinity in each
 * stored output that depends on it (its coefficients there are not 0, and what is not finite stays so), and may do so in
 * others. So the outputs are watched before the bias is added, one multiply-add a vector, too little to be measured (below
 * 2% of a call); where one is not finite the whole call is done again by direct summation, which then takes 1.5 to 2 times
 * what direct summation alone would.
 *
 * Workspace: that of the direct summation, or  u or v, and for each worker v or u, m, a few half transformed tiles, and one
 * block of outputs before it is turned: whichever is more. */
#ifndef FC_WINOGRAD_H
#define FC_WINOGRAD_H

#if FC_REGISTERS == 32
#define FC_WINOGRAD_ROWS 14 /* tiles of a register tile: 14 x 2 sums, 2 vectors of weights, 1 input in all lanes */
#else
#define FC_WINOGRAD_ROWS 6
#endif

enum {
    FC_WINOGRAD_POINTS = 36,
    FC_WINOGRAD_TILES = 56,         /* at most in a block where many tiles are */
    FC_WINOGRAD_BYTES = 1100 << 10, /* v, m and u together where that is possible: half of a level-2 cache of 2 MB; 315 GF/s
                                       on 64 channels, 56x56, where 1470 KB gives 290 */
    FC_WINOGRAD_FEW = 64,           /* tiles in all up to which the inputs are transformed once and not the weights */
    FC_WINOGRAD_IN = 128,           /* few tiles: in-channels whose weights are transformed at a time */
    FC_WINOGRAD_DEPTH = 8,          /* in-channels of a slab of weights */
    FC_WINOGRAD_SPAN = 8,           /* tiles of a row whose inputs are transformed at a time: 13 KB of columns */
    FC_WINOGRAD_DILATION = 4
};

/* Both operations as one: `to` at (i, j) is the sum of w[r][s] * from[i + r * step - pad][j + s * step - pad]. */
typedef struct {
    const fc_call *call;
    ptrdiff_t images, groups, in, out; /* channels a group */
    ptrdiff_t from_h, from_w, to_h, to_w, pad_h, pad_w, step_h, step_w;
    ptrdiff_t w_out, w_in, w_group; /* distances in w, elements */
    int flipped;
    ptrdiff_t tiles_h, tiles_w;     /* of an image */
    int few;
    /* a block of tiles: `block_images` whole images, or block_h x block_w of the tiles of one */
    ptrdiff_t block_images, block_h, block_w, blocks_h, blocks_w, blocks;
    ptrdiff_t tiles;                /* of the largest block */
    ptrdiff_t chunks, parts;        /* of the in-channels, LANES each; of the out-channels, BLOCK each */
    ptrdiff_t rows;                 /* tiles of a register tile */
    ptrdiff_t v_point, v_chunk, v_group, u_point, u_slab, u_part, m_point; /* elements */
    ptrdiff_t span, columns;        /* tiles of a row that are transformed at a time, and their inputs' columns */
    size_t shared_bytes, own_bytes, columns_bytes, m_bytes, outputs_bytes;
    char *shared, *workers;
} fc_winograd;

/* Tiles h0 .. h1 x w0 .. w1 of one image; the first of them is number `first` of its block. */
typedef struct {
    ptrdiff_t image, h0, h1, w0, w1, first;
} fc_segment;

/* Along an axis, tile t begins at output 4 * step * (t / step) + t % step, and its outputs lie `step` apart. */
static inline ptrdiff_t fc_tile_start(ptrdiff_t t, ptrdiff_t step) { return 4 * step * (t / step) + t % step; }

static inline ptrdiff_t fc_tiles_along(ptrdiff_t outputs, ptrdiff_t step) {
    const ptrdiff_t rest = outputs % (4 * step);
    return outputs / (4 * step) * step + fc_min(rest, step);
}

/* `total` in nearly equal parts of at most `most`, each a multiple of `step`. */
static inline ptrdiff_t fc_even_part(ptrdiff_t total, ptrdiff_t most, ptrdiff_t step) {
    const ptrdiff_t units = fc_ceil_div(total, step), parts = fc_ceil_div(units, fc_max(most / step, 1));
    return fc_ceil_div(units, parts) * step;
}

static inline fc_winograd fc_winograd_problem(const fc_geometry *g, fc_operation operation) {
    const ptrdiff_t C = g->C / g->groups, K = g->K / g->groups;
    fc_winograd p = {.images = g->N, .groups = g->groups, .step_h = g->dilation_h, .step_w = g->dilation_w, .w_group = K * C * 9};
    if (operation == FC_FORWARD) {
        p.in = C, p.out = K;
        p.from_h = g->H, p.from_w = g->W, p.to_h = g->P, p.to_w = g->Q;
        p.pad_h = g->pad_h, p.pad_w = g->pad_w;
        p.w_out = C * 9, p.w_in = 9;
    } else {
        p.in = K, p.out = C;
        p.from_h = g->P, p.from_w = g->Q, p.to_h = g->H, p.to_w = g->W;
        p.pad_h = 2 * g->dilation_h - g->pad_h, p.pad_w = 2 * g->dilation_w - g->pad_w;
        p.w_out = 9, p.w_in = C * 9;
        p.flipped = 1;
    }
    p.tiles_h = fc_tiles_along(p.to_h, p.step_h);
    p.tiles_w = fc_tiles_along(p.to_w, p.step_w);
    return p;
}

static inline fc_winograd fc_winograd_plan(const fc_geometry *g, fc_operation operation, int threads, ptrdiff_t lanes, size_t size) {
    fc_winograd p = fc_winograd_problem(g, operation);
    const ptrdiff_t plane = p.tiles_h * p.tiles_w, total = p.images * plane, block = 2 * lanes;
    p.few = total <= FC_WINOGRAD_FEW;
    const ptrdiff_t all_bytes = FC_WINOGRAD_POINTS * p.in * p.out * (ptrdiff_t)size;
    const ptrdiff_t tile_bytes = FC_WINOGRAD_POINTS * (p.in + block) * (ptrdiff_t)size;
    ptrdiff_t most = FC_WINOGRAD_TILES;
    if (all_bytes < FC_WINOGRAD_BYTES)
        most = fc_clip((FC_WINOGRAD_BYTES - all_bytes) / tile_bytes, FC_WINOGRAD_TILES / 2, FC_WINOGRAD_TILES);
    most = p.few ? total : fc_clip(fc_ceil_div(total, threads), 1, most);
    p.block_h = p.tiles_h, p.block_w = p.tiles_w, p.block_images = 1;
    if (plane <= most)
        p.block_images = fc_even_part(p.images, most / plane, 1);
    else if (p.tiles_w * p.step_h <= most)
        p.block_h = fc_even_part(p.tiles_h, most / p.tiles_w, p.step_h);
    else {
        p.block_h = fc_min(p.step_h, p.tiles_h);
        p.block_w = fc_even_part(p.tiles_w, most / p.block_h, p.step_w);
    }
    p.blocks_h = fc_ceil_div(p.tiles_h, p.block_h), p.blocks_w = fc_ceil_div(p.tiles_w, p.block_w);
    p.blocks = fc_ceil_div(p.images, p.block_images) * p.blocks_h * p.blocks_w;
    p.tiles = p.block_images * p.block_h * p.block_w;
    p.chunks = fc_ceil_div(p.in, lanes), p.parts = fc_ceil_div(p.out, block);
    p.rows = fc_even_part(p.tiles, FC_WINOGRAD_ROWS, 1);
    p.v_point = p.rows * lanes;
    p.v_chunk = FC_WINOGRAD_POINTS * p.v_point + lanes;
    p.v_group = fc_ceil_div(p.tiles, p.rows) * p.chunks * p.v_chunk;
    const ptrdiff_t in = p.few ? fc_even_part(p.in, FC_WINOGRAD_IN, lanes) : p.in;
    const ptrdiff_t depth = fc_min(lanes, FC_WINOGRAD_DEPTH);
    p.u_point = depth * block + lanes;
    p.u_slab = FC_WINOGRAD_POINTS * p.u_point;
    p.u_part = fc_ceil_div(in, depth) * p.u_slab;
    p.m_point = p.tiles * block + lanes;
    p.span = fc_even_part(p.block_w, FC_WINOGRAD_SPAN, p.step_w);
    p.columns = fc_tile_start(p.span - 1, p.step_w) + 5 * p.step_w + 1;
    const ptrdiff_t rows = fc_min(4 * p.step_h * fc_ceil_div(p.block_h, p.step_h), p.to_h);
    const ptrdiff_t cols = fc_min(4 * p.step_w * fc_ceil_div(p.block_w, p.step_w), p.to_w);
    const size_t v_bytes = fc_round_up((size_t)p.v_group * size), u_bytes = fc_round_up((size_t)p.u_part * size);
    p.shared_bytes = (size_t)p.groups * (p.few ? v_bytes : u_bytes * (size_t)p.parts);
    p.own_bytes = p.few ? u_bytes : v_bytes;
    p.columns_bytes = fc_round_up((size_t)(p.columns * 6 * lanes) * size);
    p.m_bytes = fc_round_up((size_t)(FC_WINOGRAD_POINTS * p.m_point) * size);
    p.outputs_bytes = fc_round_up((size_t)((rows * cols + lanes) * lanes) * size);
    return p;
}

static inline size_t fc_winograd_worker_bytes(const fc_winograd *p) {
    return FC_LINE + p->own_bytes + p->columns_bytes + p->m_bytes + p->outputs_bytes;
}

static inline size_t fc_winograd_bytes(const fc_winograd *p, int threads) {
    return p->shared_bytes + (size_t)threads * fc_winograd_worker_bytes(p);
}

/* A worker's share of the workspace. */
typedef struct {
    int *poisoned; /* an output was not finite */
    void *own, *columns, *m, *outputs;
} fc_winograd_worker;

static inline fc_winograd_worker fc_winograd_space(const fc_winograd *p, int number) {
    char *at = p->workers + (size_t)number * fc_winograd_worker_bytes(p);
    fc_winograd_worker space;
    space.poisoned = (int *)at;
    space.own = at += FC_LINE;
    space.columns = at += p->own_bytes;
    space.m = at += p->columns_bytes;
    space.outputs = at + p->m_bytes;
    return space;
}

static inline ptrdiff_t fc_segments(const fc_winograd *p, ptrdiff_t block) {
    return p->block_images == 1 ? 1 : fc_min(p->block_images, p->images - block * p->block_images);
}

static inline fc_segment fc_segment_of(const fc_winograd *p, ptrdiff_t block, ptrdiff_t i) {
    if (p->block_images > 1)
        return (fc_segment){block * p->block_images + i, 0, p->tiles_h, 0, p->tiles_w, i * p->tiles_h * p->tiles_w};
    const ptrdiff_t w0 = block % p->blocks_w * p->block_w, h0 = block / p->blocks_w % p->blocks_h * p->block_h;
    return (fc_segment){block / p->blocks_w / p->blocks_h, h0, fc_min(h0 + p->block_h, p->tiles_h),
                        w0, fc_min(w0 + p->block_w, p->tiles_w), 0};
}

static inline ptrdiff_t fc_segment_tiles(const fc_segment *s) { return (s->h1 - s->h0) * (s->w1 - s->w0); }

static inline ptrdiff_t fc_block_tiles(const fc_winograd *p, ptrdiff_t block) {
    const fc_segment last = fc_segment_of(p, block, fc_segments(p, block) - 1);
    return last.first + fc_segment_tiles(&last);
}

static const char *winograd_unsupported(const fc_geometry *g) {
    if (g->R != 3 || g->S != 3)
        return "not a 3x3 kernel";
    if (g->stride_h != 1 || g->stride_w != 1)
        return "not stride 1";
    if (g->dilation_h > FC_WINOGRAD_DILATION || g->dilation_w > FC_WINOGRAD_DILATION)
        return "dilation above 4";
    return NULL;
}

/* Measured against the direct summation: level at 8 x 16 channels, 1.5 times as fast at 12 x 64; behind on one 5x5 plane, of whose
 * four tiles 39% are outputs, 1.1 times as fast on one of 7x7; behind on one tile alone, 4 times as fast on 16 of them. */
static const char *winograd_unwise(const fc_geometry *g, fc_operation operation) {
    const fc_winograd p = fc_winograd_problem(g, operation);
    if (p.in < 12 || p.out < 12)
        return "fewer than 12 channels a group: the transforms cost more than the products save";
    if ((double)(p.tiles_h * p.tiles_w) * 16 > 2 * (double)(p.to_h * p.to_w))
        return "less than half of the tiles of 4x4 would be outputs";
    if (p.images * p.tiles_h * p.tiles_w < 4)
        return "too few tiles to make up for the transform of the weights";
    return NULL;
}

static const char *winograd_unwise_forward(const fc_geometry *g, int threads) {
    (void)threads;
    return winograd_unwise(g, FC_FORWARD);
}

static const char *winograd_unwise_backward_input(const fc_geometry *g, int threads) {
    (void)threads;
    return winograd_unwise(g, FC_BACKWARD_INPUT);
}

#endif

#define BLOCK (2 * LANES)
#define DEPTH fc_min(LANES, FC_WINOGRAD_DEPTH)

/* ---- the three transforms, one line of 6, 3 or 6 */

/* t = B^T d */
FC_INLINE void FC(winograd_inputs)(const vec *d, vec *t) {
    const vec even_near = d[4] - 2 * d[2], odd_near = ((real)0.70710678118654752440) * (d[3] - 2 * d[1]);
    const vec even_far = d[4] - (real)0.5 * d[2], odd_far = (real)1.41421356237309504880 * (d[3] - (real)0.5 * d[1]);
    t[0] = d[0] + d[4] - (real)2.5 * d[2];
    t[1] = even_near + odd_near;
    t[2] = even_near - odd_near;
    t[3] = even_far + odd_far;
    t[4] = even_far - odd_far;
    t[5] = d[5] + d[1] - (real)2.5 * d[3];
}

/* t = G g */
FC_INLINE void FC(winograd_kernel)(const vec *g, vec *t) {
    const vec even_near = (real)(-2 / 3.) * g[0] - (real)(1 / 3.) * g[2], odd_near = (real)(-1.41421356237309504880 / 3) * g[1];
    const vec even_far = (real)(1 / 6.) * g[0] + (real)(1 / 3.) * g[2], odd_far = (real)(1.41421356237309504880 / 6) * g[1];
    t[0] = g[0];
    t[1] = even_near + odd_near;
    t[2] = even_near - odd_near;
    t[3] = even_far + odd_far;
    t[4] = even_far - odd_far;
    t[5] = g[2];
}

/* y = A^T m */
FC_INLINE void FC(winograd_outputs)(const vec *m, vec *y) {
    const vec near = m[1] + m[2], near_odd = m[1] - m[2], far = m[3] + m[4], far_odd = m[3] - m[4];
    y[0] = m[0] + near + far;
    y[1] = (real)0.70710678118654752440 * (near_odd + 2 * far_odd);
    y[2] = (real)0.5 * near + 2 * far;
    y[3] = (real)0.35355339059327376220 * (near_odd + 8 * far_odd) + m[5];
}

/* turn() where only some rows or columns are there, to vectors `apart` from each other in memory; of the others, rows come
 * as zero and columns not at all. */
static void FC(turn_some)(const real *p, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns, real *to, ptrdiff_t apart) {
    for (ptrdiff_t c = 0; c < columns; c++)
        for (ptrdiff_t r = 0; r < LANES; r++)
            to[c * apart + r] = r < rows ? p[r * step + c] : 0;
}

/* ---- inputs to v */

/* One row of LANES channels, or of as many as there are, turned: to[6 * j] (vectors) is column left + j of it, 0 <= j < count.
 * `row`: column 0 of the first channel, NULL where the row is outside. */
static void FC(winograd_row)(const fc_winograd *p, const real *row, ptrdiff_t left, ptrdiff_t count, ptrdiff_t channels, real *to) {
    const ptrdiff_t plane = p->from_h * p->from_w, apart = 6 * LANES;
    const ptrdiff_t lo = row ? fc_clip(-left, 0, count) : count, hi = fc_clip(p->from_w - left, lo, count);
    for (ptrdiff_t j = 0; j < lo; j++)
        FC(store)(to + j * apart, (vec){0});
    for (ptrdiff_t j = hi; j < count; j++)
        FC(store)(to + j * apart, (vec){0});
    if (channels < LANES || hi - lo < FC_TURN) {
        if (lo < hi)
            FC(turn_some)(row + left + lo, plane, channels, hi - lo, to + lo * apart, apart);
        return;
    }
    for (ptrdiff_t next = lo; next < hi; next += FC_TURN) {
        const ptrdiff_t j = fc_min(next, hi - FC_TURN); /* the last ones overlap those before: the same numbers once more */
        vec out[FC_TURN];
        FC(turn)(row + left + j, plane, out);
        FC_UNROLL for (int c = 0; c < FC_TURN; c++) FC(store)(to + (j + c) * apart, out[c]);
    }
}

/* One chunk of channels of a segment, the first at `from`, to the v of that chunk. Some tiles of a row at a time, so that what
 * is half done, columns[column][6], stays in level 1. */
static void FC(winograd_transform)(const fc_winograd *p, const fc_segment *s, const real *from, ptrdiff_t channels, real *columns,
                                   real *v) {
    const ptrdiff_t step_h = p->step_h, step_w = p->step_w, v_rows = p->chunks * p->v_chunk;
    v += s->first / p->rows * v_rows;
    ptrdiff_t tile = s->first % p->rows;
    for (ptrdiff_t th = s->h0; th < s->h1; th++)
        for (ptrdiff_t w0 = s->w0; w0 < s->w1; w0 += p->span) {
            const ptrdiff_t tiles = fc_min(p->span, s->w1 - w0), left = fc_tile_start(w0, step_w) - p->pad_w;
            const ptrdiff_t count = fc_tile_start(tiles - 1, step_w) + 5 * step_w + 1;
            for (ptrdiff_t i = 0; i < 6; i++) {
                const ptrdiff_t h = fc_tile_start(th, step_h) + i * step_h - p->pad_h;
                FC(winograd_row)(p, h >= 0 && h < p->from_h ? from + h * p->from_w : NULL, left, count, channels, columns + i * LANES);
            }
            for (real *at = columns; at < columns + count * 6 * LANES; at += 6 * LANES) {
                vec line[6], t[6];
                FC_UNROLL for (int i = 0; i < 6; i++) line[i] = FC(load)(at + i * LANES);
                FC(winograd_inputs)(line, t);
                FC_UNROLL for (int i = 0; i < 6; i++) FC(store)(at + i * LANES, t[i]);
            }
            for (ptrdiff_t tw = 0; tw < tiles; tw++) {
                const real *at = columns + fc_tile_start(tw, step_w) * 6 * LANES;
                real *to = v + tile * LANES;
                for (int i = 0; i < 6; i++, at += LANES) {
                    vec line[6], t[6];
                    FC_UNROLL for (int j = 0; j < 6; j++) line[j] = FC(load)(at + j * step_w * 6 * LANES);
                    FC(winograd_inputs)(line, t);
                    FC_UNROLL for (int j = 0; j < 6; j++, to += p->v_point) FC(store)(to, t[j]);
                }
                if (++tile == p->rows) {
                    tile = 0;
                    v += v_rows;
                }
            }
        }
}

/* ---- weights to u */

/* In-channels in0 .. in1 of LANES out-channels from `out` on, of which `there` exist, to u[f][in][width]. */
static void FC(winograd_weights)(const fc_winograd *p, const real *w, ptrdiff_t there, ptrdiff_t in0, ptrdiff_t in1, ptrdiff_t width,
                                 real *u) {
    for (ptrdiff_t c = in0; c < in1; c++) {
        const real *at = w + c * p->w_in;
        vec g[9], t[3][6];
        if (there >= LANES) {
            FC_UNROLL for (int k = 0; k < 9; k += FC_TURN) {
                const int first = k > 9 - FC_TURN ? 9 - FC_TURN : k; /* the last ones overlap */
                FC(turn)(at + first, p->w_out, g + first);
            }
        } else {
            real held[9 * (FC_VECTOR_BYTES / sizeof(real))];
            FC(turn_some)(at, p->w_out, there, 9, held, LANES);
            FC_UNROLL for (int k = 0; k < 9; k++) g[k] = FC(load)(held + k * LANES);
        }
        if (p->flipped)
            FC_UNROLL for (int k = 0; k < 4; k++) {
                const vec swap = g[k];
                g[k] = g[8 - k];
                g[8 - k] = swap;
            }
        FC_UNROLL for (int s = 0; s < 3; s++) {
            const vec line[3] = {g[s], g[3 + s], g[6 + s]};
            FC(winograd_kernel)(line, t[s]);
        }
        real *to = u + (c - in0) / DEPTH * p->u_slab + (c - in0) % DEPTH * width;
        for (int i = 0; i < 6; i++) {
            const vec line[3] = {t[0][i], t[1][i], t[2][i]};
            vec all[6];
            FC(winograd_kernel)(line, all);
            FC_UNROLL for (int j = 0; j < 6; j++, to += p->u_point) FC(store)(to, all[j]);
        }
    }
}

/* Vectors of out-channels in part `part`, and its weights for in-channels in0 .. in1. */
static ptrdiff_t FC(winograd_part)(const fc_winograd *p, ptrdiff_t group, ptrdiff_t part, ptrdiff_t in0, ptrdiff_t in1, real *u) {
    const ptrdiff_t out = part * BLOCK, vectors = fc_min(fc_ceil_div(p->out - out, LANES), 2);
    for (ptrdiff_t k = 0; k < vectors; k++) {
        const ptrdiff_t first = out + k * LANES;
        FC(winograd_weights)(p, (const real *)p->call->w + group * p->w_group + first * p->w_out, p->out - first, in0, in1,
                             vectors * LANES, u + k * LANES);
    }
    return vectors;
}

/* ---- the products */

/* TB tiles x VB vectors of out-channels of one f:  m[tile][VB] (+)= sum over `in` channels of v[..][tile] * u[..][VB] */
FC_INLINE void FC(winograd_tile)(const int TB, const int VB, const real *v, ptrdiff_t v_chunk, const real *u, ptrdiff_t u_slab,
                                 ptrdiff_t in, real *m, int add) {
    vec sum[FC_WINOGRAD_ROWS][2];
    FC_UNROLL for (int t = 0; t < TB; t++)
        FC_UNROLL for (int k = 0; k < VB; k++) sum[t][k] = add ? FC(load)(m + (t * VB + k) * LANES) : (vec){0};
    for (; in > 0; v += v_chunk)
        for (ptrdiff_t first = 0; first < LANES && in > 0; first += DEPTH, in -= DEPTH, u += u_slab) {
            const real *weights = u, *inputs = v + first;
            for (ptrdiff_t left = fc_min(in, DEPTH); left; left--, inputs++, weights += VB * LANES) {
                vec w[2];
                FC_UNROLL for (int k = 0; k < VB; k++) w[k] = FC(load)(weights + k * LANES);
                FC_UNROLL for (int t = 0; t < TB; t++) {
                    const vec input = FC(splat)(inputs[t * LANES]);
                    FC_UNROLL for (int k = 0; k < VB; k++) sum[t][k] += input * w[k];
                }
            }
        }
    FC_UNROLL for (int t = 0; t < TB; t++)
        FC_UNROLL for (int k = 0; k < VB; k++) FC(store)(m + (t * VB + k) * LANES, sum[t][k]);
}

FC_INLINE void FC(winograd_tiles)(int tb, const int VB, const real *v, ptrdiff_t chunk, const real *u, ptrdiff_t slab,
                               ptrdiff_t in, real *m, int add) {
    switch (tb) {
    case 1: FC(winograd_tile)(1, VB, v, chunk, u, slab, in, m, add); break;
    case 2: FC(winograd_tile)(2, VB, v, chunk, u, slab, in, m, add); break;
    case 3: FC(winograd_tile)(3, VB, v, chunk, u, slab, in, m, add); break;
    case 4: FC(winograd_tile)(4, VB, v, chunk, u, slab, in, m, add); break;
    case 5: FC(winograd_tile)(5, VB, v, chunk, u, slab, in, m, add); break;
    case 6: FC(winograd_tile)(6, VB, v, chunk, u, slab, in, m, add); break;
#if FC_REGISTERS == 32
    case 7: FC(winograd_tile)(7, VB, v, chunk, u, slab, in, m, add); break;
    case 8: FC(winograd_tile)(8, VB, v, chunk, u, slab, in, m, add); break;
    case 9: FC(winograd_tile)(9, VB, v, chunk, u, slab, in, m, add); break;
    case 10: FC(winograd_tile)(10, VB, v, chunk, u, slab, in, m, add); break;
    case 11: FC(winograd_tile)(11, VB, v, chunk, u, slab, in, m, add); break;
    case 12: FC(winograd_tile)(12, VB, v, chunk, u, slab, in, m, add); break;
    case 13: FC(winograd_tile)(13, VB, v, chunk, u, slab, in, m, add); break;
    case 14: FC(winograd_tile)(14, VB, v, chunk, u, slab, in, m, add); break;
#endif
    }
}

FC_NOINLINE void FC(winograd_tiles_1)(int tb, const real *v, ptrdiff_t chunk, const real *u, ptrdiff_t slab, ptrdiff_t in,
                                   real *m, int add) {
    FC(winograd_tiles)(tb, 1, v, chunk, u, slab, in, m, add);
}

FC_NOINLINE void FC(winograd_tiles_2)(int tb, const real *v, ptrdiff_t chunk, const real *u, ptrdiff_t slab, ptrdiff_t in,
                                   real *m, int add) {
    FC(winograd_tiles)(tb, 2, v, chunk, u, slab, in, m, add);
}

/* All 36 products of `tiles` tiles with one part of the out-channels; v: of the first of the `in` channels. */
static void FC(winograd_multiply)(const fc_winograd *p, const real *v, const real *u, ptrdiff_t in, ptrdiff_t tiles,
                                  ptrdiff_t vectors, real *m, int add) {
    const ptrdiff_t rows = p->rows, v_rows = p->chunks * p->v_chunk;
    for (ptrdiff_t f = 0; f < FC_WINOGRAD_POINTS; f++, v += p->v_point, u += p->u_point, m += p->m_point)
        for (ptrdiff_t first = 0, i = 0; first < tiles; first += rows, i++) {
            const int now = (int)fc_min(rows, tiles - first);
            real *to = m + first * vectors * LANES;
            if (vectors == 2)
                FC(winograd_tiles_2)(now, v + i * v_rows, p->v_chunk, u, p->u_slab, in, to, add);
            else
                FC(winograd_tiles_1)(now, v + i * v_rows, p->v_chunk, u, p->u_slab, in, to, add);
        }
}

/* ---- m to outputs */

/* LANES channels of one segment's outputs, before they are turned: outputs[row][column][LANES]; m of its first tile. Returns
 * a vector that is 0 where all is finite, and NaN in some lane where not. */
static vec FC(winograd_inverse)(const fc_winograd *p, const fc_segment *s, const real *m, ptrdiff_t width, vec bias, ptrdiff_t rows,
                                ptrdiff_t cols, real *outputs) {
    const ptrdiff_t step_h = p->step_h, step_w = p->step_w, point = p->m_point;
    vec poison = {0};
    for (ptrdiff_t th = 0; th < s->h1 - s->h0; th++) {
        const ptrdiff_t i0 = fc_tile_start(th, step_h);
        for (ptrdiff_t tw = 0; tw < s->w1 - s->w0; tw++, m += width) {
            const ptrdiff_t j0 = fc_tile_start(tw, step_w);
            vec half[4][6];
            FC_UNROLL for (int j = 0; j < 6; j++) {
                vec line[6], y[4];
                FC_UNROLL for (int i = 0; i < 6; i++) line[i] = FC(load)(m + (i * 6 + j) * point);
                FC(winograd_outputs)(line, y);
                FC_UNROLL for (int i = 0; i < 4; i++) half[i][j] = y[i];
            }
            real *to = outputs + (i0 * cols + j0) * LANES;
            const int inside = j0 + 3 * step_w < cols;
            FC_UNROLL for (int i = 0; i < 4; i++, to += step_h * cols * LANES) {
                if (i0 + i * step_h >= rows)
                    break;
                vec y[4];
                FC(winograd_outputs)(half[i], y);
                FC_UNROLL for (int j = 0; j < 4; j++)
                    if (inside || j0 + j * step_w < cols) {
                        poison += y[j] * 0;
                        FC(store)(to + j * step_w * LANES, y[j] + bias);
                    }
            }
        }
    }
    return poison;
}

/* Up to LANES channels of `outputs`, `pixels` of them one after the other, to planes. */
static void FC(winograd_store)(const real *outputs, ptrdiff_t pixels, ptrdiff_t channels, ptrdiff_t plane, real *to, const real *bias) {
    for (ptrdiff_t c = 0; c < channels; c += FC_TURN) { /* outer, so that stores go to few pages at a time */
        /* the first vector ends where a line does: a store across two lines costs twice as much */
        const ptrdiff_t head = LANES - (ptrdiff_t)((uintptr_t)(to + c * plane) / sizeof(real)) % LANES;
        for (ptrdiff_t j = 0, next; j < pixels; j = next) {
            next = fc_min(j ? j + LANES : head, pixels);
            const FC(lanes) lanes = FC(between)(0, next - j);
            vec row[FC_TURN];
            FC(turn)(outputs + j * LANES + c, LANES, row);
            FC_UNROLL for (int k = 0; k < FC_TURN; k++) {
                if (c + k >= channels)
                    break;
                const ptrdiff_t at = (c + k) * plane + j;
                const vec all = bias ? row[k] + FC(load_lanes)(bias + at, lanes) : row[k];
                if (next - j == LANES)
                    FC(store)(to + at, all);
                else
                    FC(store_lanes)(to + at, all, lanes);
            }
        }
    }
}

/* One part of the out-channels of all segments of a block. */
static void FC(winograd_finish)(const fc_winograd *p, ptrdiff_t block, ptrdiff_t group, ptrdiff_t part, const fc_winograd_worker *space) {
    const fc_call *call = p->call;
    const ptrdiff_t plane = p->to_h * p->to_w, vectors = fc_min(fc_ceil_div(p->out - part * BLOCK, LANES), 2);
    for (ptrdiff_t i = 0; i < fc_segments(p, block); i++) {
        const fc_segment s = fc_segment_of(p, block, i);
        const ptrdiff_t i0 = fc_tile_start(s.h0, p->step_h), j0 = fc_tile_start(s.w0, p->step_w);
        const ptrdiff_t rows = fc_min(4 * s.h1, p->to_h) - i0, cols = s.w1 == p->tiles_w ? p->to_w - j0 : 4 * (s.w1 - s.w0);
        const ptrdiff_t run = cols == p->to_w ? rows * cols : cols;
        for (ptrdiff_t k = 0; k < vectors; k++) {
            const ptrdiff_t first = part * BLOCK + k * LANES, channels = fc_min(LANES, p->out - first);
            const ptrdiff_t channel = group * p->out + first;
            vec bias = {0};
            if (call->bias && !call->bias_per_position)
                bias = FC(load_lanes)((const real *)call->bias + channel, FC(between)(0, channels));
            const vec poison = FC(winograd_inverse)(p, &s, (const real *)space->m + (s.first * vectors + k) * LANES, vectors * LANES,
                                                    bias, rows, cols, space->outputs);
            for (ptrdiff_t l = 0; l < LANES; l++)
                *space->poisoned |= poison[l] != 0;
            const real *untied = call->bias && call->bias_per_position ? (const real *)call->bias + channel * plane : NULL;
            real *to = (real *)(p->flipped ? call->x : call->y) + (s.image * p->groups * p->out + channel) * plane;
            for (ptrdiff_t at = 0; at < rows * cols; at += run) {
                const ptrdiff_t there = (i0 + at / cols) * p->to_w + j0;
                FC(winograd_store)((const real *)space->outputs + at * LANES, run, channels, plane, to + there,
                                   untied ? untied + there : NULL);
            }
        }
    }
}

/* ---- items */

static const real *FC(winograd_source)(const fc_winograd *p, ptrdiff_t image, ptrdiff_t group, ptrdiff_t chunk) {
    const real *from = p->flipped ? p->call->y : p->call->x;
    return from + ((image * p->groups + group) * p->in + chunk * LANES) * p->from_h * p->from_w;
}

static real *FC(winograd_shared_v)(const fc_winograd *p, ptrdiff_t group) {
    return (real *)p->shared + group * (ptrdiff_t)(fc_round_up((size_t)p->v_group * sizeof(real)) / sizeof(real));
}

static real *FC(winograd_shared_u)(const fc_winograd *p, ptrdiff_t group, ptrdiff_t part) {
    return (real *)p->shared + (group * p->parts + part) * (ptrdiff_t)(fc_round_up((size_t)p->u_part * sizeof(real)) / sizeof(real));
}

/* Many tiles, first: the weights of one part. */
static void FC(winograd_weights_item)(void *context, ptrdiff_t i, int number) {
    const fc_winograd *p = context;
    (void)number;
    const ptrdiff_t group = i / p->parts, part = i % p->parts;
    FC(winograd_part)(p, group, part, 0, p->in, FC(winograd_shared_u)(p, group, part));
}

/* Many tiles, then: a block of them and a group. */
static void FC(winograd_block_item)(void *context, ptrdiff_t item, int number) {
    const fc_winograd *p = context;
    const fc_winograd_worker space = fc_winograd_space(p, number);
    const ptrdiff_t group = item % p->groups, block = item / p->groups, tiles = fc_block_tiles(p, block);
    for (ptrdiff_t i = 0; i < fc_segments(p, block); i++) {
        const fc_segment s = fc_segment_of(p, block, i);
        for (ptrdiff_t c = 0; c < p->chunks; c++)
            FC(winograd_transform)(p, &s, FC(winograd_source)(p, s.image, group, c), fc_min(LANES, p->in - c * LANES),
                                   space.columns, (real *)space.own + c * p->v_chunk);
    }
    for (ptrdiff_t part = 0; part < p->parts; part++) {
        const ptrdiff_t vectors = fc_min(fc_ceil_div(p->out - part * BLOCK, LANES), 2);
        FC(winograd_multiply)(p, space.own, FC(winograd_shared_u)(p, group, part), p->in, tiles, vectors, space.m, 0);
        FC(winograd_finish)(p, block, group, part, &space);
    }
}

/* Few tiles, first: one chunk of the channels of one image. */
static void FC(winograd_inputs_item)(void *context, ptrdiff_t i, int number) {
    const fc_winograd *p = context;
    const ptrdiff_t chunk = i % p->chunks, group = i / p->chunks % p->groups, image = i / p->chunks / p->groups;
    const fc_segment s = fc_segment_of(p, 0, image);
    FC(winograd_transform)(p, &s, FC(winograd_source)(p, s.image, group, chunk), fc_min(LANES, p->in - chunk * LANES),
                           fc_winograd_space(p, number).columns,
                           FC(winograd_shared_v)(p, group) + chunk * p->v_chunk);
}

/* Few tiles, then: one part of the out-channels. */
static void FC(winograd_part_item)(void *context, ptrdiff_t i, int number) {
    const fc_winograd *p = context;
    const fc_winograd_worker space = fc_winograd_space(p, number);
    const ptrdiff_t group = i / p->parts, part = i % p->parts, step = fc_even_part(p->in, FC_WINOGRAD_IN, LANES);
    for (ptrdiff_t in = 0; in < p->in; in += step) {
        const ptrdiff_t end = fc_min(in + step, p->in);
        const ptrdiff_t vectors = FC(winograd_part)(p, group, part, in, end, space.own);
        FC(winograd_multiply)(p, FC(winograd_shared_v)(p, group) + in / LANES * p->v_chunk, space.own, end - in, p->tiles,
                              vectors, space.m, in > 0);
    }
    FC(winograd_finish)(p, 0, group, part, &space);
}

static int FC(winograd_run)(const fc_call *call, fc_operation operation) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    fc_winograd p = fc_winograd_plan(&call->geometry, operation, threads, LANES, sizeof(real));
    p.call = call;
    p.shared = call->workspace;
    p.workers = p.shared + p.shared_bytes;
    for (int i = 0; i < threads; i++)
        *fc_winograd_space(&p, i).poisoned = 0;
    const int keep = call->keep_denormals;
    if (p.few) {
        fc_parallel(threads, p.images * p.groups * p.chunks, keep, FC(winograd_inputs_item), &p);
        fc_parallel(threads, p.groups * p.parts, keep, FC(winograd_part_item), &p);
    } else {
        fc_parallel(threads, p.groups * p.parts, keep, FC(winograd_weights_item), &p);
        fc_parallel(threads, p.blocks * p.groups, keep, FC(winograd_block_item), &p);
    }
    int poisoned = 0;
    for (int i = 0; i < threads; i++)
        poisoned |= *fc_winograd_space(&p, i).poisoned;
    return !poisoned;
}

static size_t FC(winograd_workspace)(const fc_geometry *g, fc_operation operation, int threads, size_t direct) {
    threads = fc_worthwhile_threads(g, threads);
    const fc_winograd p = fc_winograd_plan(g, operation, threads, LANES, sizeof(real));
    const size_t bytes = fc_winograd_bytes(&p, threads);
    return bytes > direct ? bytes : direct;
}

static size_t FC(winograd_forward_workspace)(const fc_geometry *g, int threads) {
    return FC(winograd_workspace)(g, FC_FORWARD, threads, FC(direct_forward_workspace)(g, threads));
}

static size_t FC(winograd_backward_input_workspace)(const fc_geometry *g, int threads) {
    return FC(winograd_workspace)(g, FC_BACKWARD_INPUT, threads, FC(direct_backward_input_workspace)(g, threads));
}

static void FC(winograd_forward)(const fc_call *call) {
    if (!FC(winograd_run)(call, FC_FORWARD))
        FC(direct_forward)(call);
}

static void FC(winograd_backward_input)(const fc_call *call) {
    if (!FC(winograd_run)(call, FC_BACKWARD_INPUT))
        FC(direct_backward_input)(call);
}

#undef BLOCK
#undef DEPTH
