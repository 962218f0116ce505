/* The plan of a Winograd convolution, free of element types: tiles along each axis, blocks of tiles, sizes.
 *
 * Both operations are one problem: `to` at (i, j) is the sum of  w[r][s] * from[i + r * step - pad][j + s * step -
 * pad]. Dilation d makes d interleaved convolutions of an axis: the inputs and outputs of a tile then lie d apart.
 *
 * At stride 2, an axis of 3 taps is two phases of stride 1: taps 0 and 2 with every other sample, tap 1 with those
 * between. Forward adds the phases,  y[i] = (w0 x[2i] + w2 x[2i + 2]) + w1 x[2i + 1];  backward_input interleaves them,
 * x[2i] = w0 y[i] + w2 y[i - 1]  and  x[2i + 1] = w1 y[i].  For n outputs of each, a tile has n + 1 points of two taps
 * and n of one, which all meet the same weight: 2 n + 1 products, where direct summation has 3 n. */
#ifndef FC_WINOGRAD_PLAN_H
#define FC_WINOGRAD_PLAN_H

#include "common.h"
#include "stencil.h"

enum {
    FC_WINOGRAD_POINTS_2D = 6, /* interpolation points of an axis of a plane, and of a row */
    FC_WINOGRAD_POINTS_1D = 8,
    FC_WINOGRAD_PHASE_2D = 4, /* stride 2: outputs of a tile in each phase */
    FC_WINOGRAD_PHASE_1D = 7,
    FC_WINOGRAD_LINE = 2 * FC_WINOGRAD_PHASE_1D + 1, /* points of an axis, at most */
    FC_WINOGRAD_TAPS_2D = 5, /* of an axis, at most: 2 outputs of a tile */
    FC_WINOGRAD_TAPS_1D = 7,
    FC_WINOGRAD_TAPS = 25,
    FC_WINOGRAD_DILATION_2D = 4,
    FC_WINOGRAD_DILATION_1D = 64,
    FC_WINOGRAD_DEPTH = 8,  /* in-channels of a slab of weights */
    FC_WINOGRAD_SUM = 256,  /* in-channels summed in registers; without, 2048 are 8e-6 of the largest output off */
    FC_WINOGRAD_AHEAD = 8,  /* in-channels that weights are asked for before they are needed */
    FC_WINOGRAD_COLUMNS = 34 /* inputs of a row that are transformed at a time: 8 tiles of a plane, 13 KB on AVX-512 */
};

/* A tile takes `inputs` inputs to `outputs` outputs with one product in each of its `points`, at stride 1 outputs =
 * points + 1 - taps. An axis of one tap is left as it is: 1 and 1. */
typedef struct {
    ptrdiff_t taps, points, outputs, step, pad, from, to;
    ptrdiff_t weights;          /* points whose weights differ */
    ptrdiff_t inputs, advance;  /* of a tile; from one tile to the next */
    ptrdiff_t apart, second;    /* inputs of a phase; the first one of the second phase */
    ptrdiff_t lead;             /* backward_input at stride 2: the first output of the first phase, 0 or 1 */
    ptrdiff_t tiles;
} fc_winograd_axis;

typedef struct {
    const fc_call *call;
    fc_winograd_axis h, w;
    ptrdiff_t images, groups, in, out; /* channels a group */
    ptrdiff_t w_out, w_in, w_group;    /* distances in the weights, elements */
    int flipped;                       /* backward_input: the kernel back to front */
    int few;
    ptrdiff_t points, weights;         /* of a tile; those whose weights differ */
    /* a block of tiles: `block_images` whole images, or block_h x block_w of the tiles of one */
    ptrdiff_t block_images, block_h, block_w, blocks_h, blocks_w, blocks;
    ptrdiff_t tiles;                   /* of the largest block */
    ptrdiff_t chunks, parts;           /* of the in-channels, LANES each; of the out-channels, BLOCK each */
    ptrdiff_t depth;                   /* in-channels whose products are summed before they are added to m */
    ptrdiff_t rows;                    /* tiles of a register tile */
    ptrdiff_t v_point, v_chunk, v_group, u_point, u_slab, u_part, m_point; /* elements */
    ptrdiff_t span, columns;           /* tiles of a row that are transformed at a time, and their inputs' columns */
    size_t shared_bytes, own_bytes, columns_bytes, m_bytes, outputs_bytes;
    char *shared, *workers;
} fc_winograd;

/* Tiles h0 .. h1 x w0 .. w1 of one image; the first of them is number `first` of its block. */
typedef struct {
    ptrdiff_t image, h0, h1, w0, w1, first;
} fc_segment;

/* Tile t begins at this output, and its outputs lie `step` apart. */
static inline ptrdiff_t fc_tile_start(const fc_winograd_axis *a, ptrdiff_t t) {
    return a->outputs * a->step * (t / a->step) + t % a->step;
}

/* ... and from this input, but for the padding. */
static inline ptrdiff_t fc_tile_source(const fc_winograd_axis *a, ptrdiff_t t) {
    return a->advance * a->step * (t / a->step) + t % a->step;
}

/* Points of the first phase of an axis, or of the only one. */
static inline ptrdiff_t fc_first_phase(ptrdiff_t points) { return points % 2 ? (points + 1) / 2 : points; }

/* Points of an axis whose weights differ. */
static inline ptrdiff_t fc_weight_points(ptrdiff_t points) {
    return fc_first_phase(points) + (points > fc_first_phase(points));
}

/* The point among those whose weights differ. */
static inline ptrdiff_t fc_weight_point(const fc_winograd_axis *h, const fc_winograd_axis *w, ptrdiff_t point) {
    return fc_min(point / w->points, h->weights - 1) * w->weights + fc_min(point % w->points, w->weights - 1);
}

/* Outputs that tiles t0 .. t1 reach over, t0 a multiple of the step. */
static inline ptrdiff_t fc_tile_reach(const fc_winograd_axis *a, ptrdiff_t t0, ptrdiff_t t1) {
    const ptrdiff_t end = t1 >= a->tiles ? a->to : fc_min(fc_tile_start(a, fc_ceil_div(t1, a->step) * a->step), a->to);
    return end - fc_tile_start(a, t0);
}

/* `total` in nearly equal parts of at most `most`, each a multiple of `step`. */
static inline ptrdiff_t fc_even_part(ptrdiff_t total, ptrdiff_t most, ptrdiff_t step) {
    const ptrdiff_t units = fc_ceil_div(total, step), parts = fc_ceil_div(units, fc_max(most / step, 1));
    return fc_ceil_div(units, parts) * step;
}

static inline fc_winograd_axis fc_winograd_along(ptrdiff_t taps, ptrdiff_t points, ptrdiff_t step, ptrdiff_t pad,
                                                 ptrdiff_t from, ptrdiff_t to) {
    fc_winograd_axis a = {.taps = taps, .points = points, .step = step, .pad = pad, .from = from, .to = to};
    if (taps == 1)
        a.points = a.step = 1; /* one tap is its own interpolation, and has no dilation */
    a.outputs = a.advance = a.points + 1 - taps;
    a.inputs = a.weights = a.points;
    a.apart = 1;
    a.tiles = to / (a.outputs * a.step) * a.step + fc_min(to % (a.outputs * a.step), a.step);
    return a;
}

/* Stride 2 and 3 taps, `phase` outputs of a tile in each phase. */
static inline fc_winograd_axis fc_winograd_strided(int backward, ptrdiff_t phase, ptrdiff_t pad, ptrdiff_t from,
                                                   ptrdiff_t to) {
    fc_winograd_axis a = {.taps = 3, .points = 2 * phase + 1, .step = 1, .from = from, .to = to};
    a.weights = fc_weight_points(a.points);
    if (backward) { /* two taps meet where x's position in the padded plane is even */
        a.lead = pad & 1, a.second = 1 - a.lead;
        a.pad = a.second - (pad - a.lead) / 2;
        a.inputs = phase + 1, a.advance = phase, a.apart = 1, a.outputs = 2 * phase;
    } else {
        a.pad = pad, a.second = 1;
        a.inputs = a.points, a.advance = 2 * phase, a.apart = 2, a.outputs = phase;
    }
    a.tiles = fc_ceil_div(to, a.outputs);
    return a;
}

static inline fc_winograd fc_winograd_problem(const fc_geometry *g, fc_operation operation) {
    const ptrdiff_t C = g->C / g->groups, K = g->K / g->groups, taps = g->R * g->S;
    const ptrdiff_t points = g->R == 1 ? FC_WINOGRAD_POINTS_1D : FC_WINOGRAD_POINTS_2D;
    const ptrdiff_t phase = g->R == 1 ? FC_WINOGRAD_PHASE_1D : FC_WINOGRAD_PHASE_2D;
    fc_winograd p = {.images = g->N, .groups = g->groups, .w_group = K * C * taps};
    if (operation == FC_FORWARD) {
        p.in = C, p.out = K;
        p.w_out = C * taps, p.w_in = taps;
        p.h = fc_winograd_along(g->R, points, g->dilation_h, g->pad_h, g->H, g->P);
        p.w = fc_winograd_along(g->S, points, g->dilation_w, g->pad_w, g->W, g->Q);
    } else {
        p.in = K, p.out = C;
        p.w_out = taps, p.w_in = C * taps;
        p.flipped = 1;
        p.h = fc_winograd_along(g->R, points, g->dilation_h, (g->R - 1) * g->dilation_h - g->pad_h, g->P, g->H);
        p.w = fc_winograd_along(g->S, points, g->dilation_w, (g->S - 1) * g->dilation_w - g->pad_w, g->Q, g->W);
    }
    const int backward = operation != FC_FORWARD;
    if (g->stride_h == 2)
        p.h = fc_winograd_strided(backward, phase, g->pad_h, p.h.from, p.h.to);
    if (g->stride_w == 2)
        p.w = fc_winograd_strided(backward, phase, g->pad_w, p.w.from, p.w.to);
    p.points = p.h.points * p.w.points;
    p.weights = p.h.weights * p.w.weights;
    return p;
}

/* Tiles that a block may hold. Where all weights stay in level 2, the block should too, and its outputs near level 1
 * (28 to 56 tiles of a plane; 112 are 20% slower at 32 channels). Where not, small blocks fetch the weights from level
 * 3 often and large ones the inputs: on 512 KB and AVX2, 112 instead of 28 are worth 5% at 64 channels and 25% at 256;
 * on 2 MB and AVX-512, 56 were best. At stride 2, 98 instead of 48 are worth 5 to 15% in
 * a plane; in a row 134 were best. */
static inline ptrdiff_t fc_winograd_most(const fc_winograd *p, ptrdiff_t lanes, ptrdiff_t size) {
    const ptrdiff_t room = (ptrdiff_t)fc_level2_bytes() / 2, weights = p->weights * p->in * p->out * size;
    const ptrdiff_t tiles = p->points == 8 ? 126 : p->points == 15 ? 67 : p->points == 81 ? 49 : 56;
    if (weights >= room)
        return lanes * size == 64 ? tiles : 2 * tiles;
    return fc_clip((room - weights) / (p->points * (p->in + 2 * lanes) * size), tiles / 2, tiles);
}

static inline void fc_winograd_blocks(fc_winograd *p, ptrdiff_t most) {
    const ptrdiff_t plane = p->h.tiles * p->w.tiles;
    p->block_h = p->h.tiles, p->block_w = p->w.tiles, p->block_images = 1;
    if (plane <= most)
        p->block_images = fc_even_part(p->images, most / plane, 1);
    else if (p->w.tiles * p->h.step <= most)
        p->block_h = fc_even_part(p->h.tiles, most / p->w.tiles, p->h.step);
    else {
        p->block_h = fc_min(p->h.step, p->h.tiles);
        p->block_w = fc_even_part(p->w.tiles, most / p->block_h, p->w.step);
    }
    p->blocks_h = fc_ceil_div(p->h.tiles, p->block_h), p->blocks_w = fc_ceil_div(p->w.tiles, p->block_w);
    p->blocks = fc_ceil_div(p->images, p->block_images) * p->blocks_h * p->blocks_w;
    p->tiles = p->block_images * p->block_h * p->block_w;
}

/* Tiles of a register tile. The rest of a block waits for its own sums where it is under 4 tiles, so 49 tiles are 9
 * times 5 and 4, not 8 times 6 and 1: 3 to 6% of a call. */
static inline ptrdiff_t fc_winograd_rows(ptrdiff_t tiles, ptrdiff_t most) {
    ptrdiff_t best = fc_min(tiles, most), least = PTRDIFF_MAX;
    for (ptrdiff_t rows = best; rows >= fc_min(best, 4); rows--) {
        const ptrdiff_t rest = tiles % rows, wait = rest ? fc_max(4 - rest, 0) : 0;
        const ptrdiff_t cost = 8 * (tiles + wait) + fc_ceil_div(tiles, rows);
        if (cost < least)
            least = cost, best = rows;
    }
    return best;
}

static inline fc_winograd fc_winograd_plan(const fc_geometry *g, fc_operation operation, int threads, ptrdiff_t lanes,
                                           ptrdiff_t register_tiles, size_t size) {
    fc_winograd p = fc_winograd_problem(g, operation);
    const ptrdiff_t total = p.images * p.h.tiles * p.w.tiles, block = 2 * lanes;
    const ptrdiff_t most = fc_winograd_most(&p, lanes, (ptrdiff_t)size), turns = fc_ceil_div(total, most * threads);
    p.chunks = fc_ceil_div(p.in, lanes), p.parts = fc_ceil_div(p.out, block);
    p.few = total <= most && (threads == 1 || p.parts * p.groups >= 2 * threads);
    fc_winograd_blocks(&p, p.few ? total : fc_ceil_div(total, turns * threads)); /* as many for each thread */
    p.rows = fc_winograd_rows(p.tiles, register_tiles);
    p.v_point = p.rows * lanes;
    p.v_chunk = p.points * p.v_point + lanes;
    p.v_group = fc_ceil_div(p.tiles, p.rows) * p.chunks * p.v_chunk;
    /* the fewer tiles there are, the more of a call are the weights, and the nearer they should stay */
    p.depth = fc_even_part(p.in, p.few ? fc_clip(4 * total, 32, FC_WINOGRAD_SUM) : FC_WINOGRAD_SUM, lanes);
    const ptrdiff_t slab = fc_min(lanes, FC_WINOGRAD_DEPTH);
    p.u_point = slab * block + lanes;
    p.u_slab = p.weights * p.u_point;
    p.u_part = fc_ceil_div(p.few ? p.depth : p.in, slab) * p.u_slab;
    p.m_point = p.tiles * block + lanes;
    p.span = fc_even_part(p.block_w, fc_max((FC_WINOGRAD_COLUMNS - p.w.inputs) / p.w.advance + 1, 1), p.w.step);
    p.columns = fc_tile_source(&p.w, p.span - 1) + (p.w.inputs - 1) * p.w.step + 1;
    const ptrdiff_t rows = fc_tile_reach(&p.h, 0, p.block_h), cols = fc_tile_reach(&p.w, 0, p.block_w);
    const size_t v_bytes = fc_round_up((size_t)p.v_group * size), u_bytes = fc_round_up((size_t)p.u_part * size);
    p.shared_bytes = (size_t)p.groups * (p.few ? v_bytes : u_bytes * (size_t)p.parts);
    p.own_bytes = p.few ? u_bytes : v_bytes;
    p.columns_bytes = fc_round_up((size_t)(p.columns * p.h.points * lanes) * size);
    p.m_bytes = fc_round_up((size_t)(p.points * p.m_point) * size);
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
        return (fc_segment){block * p->block_images + i, 0, p->h.tiles, 0, p->w.tiles, i * p->h.tiles * p->w.tiles};
    const ptrdiff_t w0 = block % p->blocks_w * p->block_w, h0 = block / p->blocks_w % p->blocks_h * p->block_h;
    return (fc_segment){block / p->blocks_w / p->blocks_h, h0, fc_min(h0 + p->block_h, p->h.tiles),
                        w0, fc_min(w0 + p->block_w, p->w.tiles), 0};
}

static inline ptrdiff_t fc_segment_tiles(const fc_segment *s) { return (s->h1 - s->h0) * (s->w1 - s->w0); }

static inline ptrdiff_t fc_block_tiles(const fc_winograd *p, ptrdiff_t block) {
    const fc_segment last = fc_segment_of(p, block, fc_segments(p, block) - 1);
    return last.first + fc_segment_tiles(&last);
}

static const char *winograd_unsupported(const fc_geometry *g) {
    if (g->stride_w == 2) {
        if (g->S != 3 || !((g->R == 3 && g->stride_h == 2) || (g->R == 1 && g->stride_h == 1)))
            return "stride 2 and not a kernel of 3x3, nor of 3 taps in a row";
        return g->dilation_w != 1 || (g->R == 3 && g->dilation_h != 1) ? "stride 2 and dilation" : NULL;
    }
    if (g->stride_h != 1 || g->stride_w != 1)
        return "not stride 1 or 2";
    if (g->R == 1) {
        if (g->S < 2 || g->S > FC_WINOGRAD_TAPS_1D)
            return "not a kernel of 2 to 7 taps in a row, nor 3x3 or 5x5";
        return g->dilation_w > FC_WINOGRAD_DILATION_1D ? "dilation above 64" : NULL;
    }
    if (g->R != g->S || (g->R != 3 && g->R != 5))
        return "not a kernel of 3x3 or 5x5, nor of 2 to 7 taps in a row";
    if (g->dilation_h > FC_WINOGRAD_DILATION_2D || g->dilation_w > FC_WINOGRAD_DILATION_2D)
        return "dilation above 4";
    return NULL;
}

/* Stride 1, measured against the direct summation and gemm on AVX2: 1.2 to 2 times as fast under 3x3 at 6 x 16 and
 * 32 x 6 channels and under 3 taps at 8 x 8, level at 3 x 32 and under 5 taps at 8 x 8, behind under 7; on AVX-512
 * level at 8 x 16 channels and 1.5 times as fast at 12 x 64. One plane of 5x5, of whose four tiles 39% are outputs:
 * 0.75; one of 7x7: 1.2; a row of 4 tiles 0.8 to 1, of 16 tiles 1.3.
 * Stride 2, AVX2: forward 1.1 to 1.5 times as fast as gemm under 3x3 from 16 channels up (0.9 at 8), but 0.6 to 0.9
 * where tiles reach over 1.8 times the outputs; under 3 taps 1.1 to 1.4 from 64 channels and 16 tiles up, 0.9 to 1.05
 * at 16 and 32, 0.7 at 5 tiles. backward_input 1.3 to 2, at 8 channels under 3x3 too. */
static const char *winograd_unwise(const fc_geometry *g, fc_operation operation) {
    const fc_winograd p = fc_winograd_problem(g, operation);
    const int strided = p.weights < p.points, forward = operation == FC_FORWARD, row = p.h.taps == 1;
    const ptrdiff_t few = FC_VECTOR_BYTES == 64 ? 12 : p.h.taps == 3 ? 6 : 8;
    const ptrdiff_t least = strided && (forward || row) ? 2 * few : few;
    const ptrdiff_t least_products = p.w.taps > 5 ? 512 : p.w.taps > 3 ? 128 : 0;
    const ptrdiff_t tiles = p.images * p.h.tiles * p.w.tiles;
    if (p.in < (strided && forward && row ? 4 * least : least) || p.out < least || p.in * p.out < least_products)
        return "too few channels a group: the transforms cost more than the products save";
    const double outputs = (double)p.h.to * (double)p.w.to;
    const double computed = (double)(p.h.tiles * p.h.outputs) * (double)(p.w.tiles * p.w.outputs);
    if (!strided && computed > 2 * outputs)
        return "less than half of the outputs of its tiles are there";
    if (strided && 3 * computed > 4 * outputs)
        return "less than three quarters of the outputs of its tiles are there";
    if (tiles < (!row || (strided && !forward) ? 4 : strided ? 16 : 12))
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

/* Channels of an operand whose transform takes as long: of those that do not fill a vector, one number is moved at a
 * time. */
static inline double fc_winograd_transformed(ptrdiff_t channels) {
    const ptrdiff_t lanes = FC_VECTOR_BYTES / 4;
    return (double)(channels / lanes * lanes + (channels % lanes ? 3 * lanes : 0));
}

/* Times are in multiply-adds of a vector for each pair of channels, fitted to 190 layers on AVX2: the products, 16 for
 * each sum that is taken back to a weight, 10 for each number that is transformed. gemm reaches nine tenths of the
 * peak. At stride 2 a plane's transforms spill registers. */
static const char *winograd_unwise_backward_weight(const fc_geometry *g, int threads) {
    (void)threads;
    const fc_winograd p = fc_winograd_problem(g, FC_FORWARD);
    if (p.in < 8 || p.out < 8)
        return "too few channels a group: the transforms cost more than the products save";
    const double products = (double)p.images * (double)(p.h.tiles * p.w.tiles) * (double)p.points;
    const double moved = fc_winograd_transformed(p.in) + fc_winograd_transformed(p.out);
    const double own = products * ((p.points == 81 ? 1.25 : 1.1) + 10 * moved / ((double)p.in * (double)p.out)) +
                       16 * (double)p.weights;
    const double direct = (double)p.images * (double)(p.h.to * p.w.to) * (double)(p.h.taps * p.w.taps);
    if (1.05 * own > 1.15 * direct)
        return "too few tiles or channels: the transforms cost more than the products save";
    return NULL;
}

#endif
