/* winograd: forward and backward_input with fewer multiplications, at stride 1 of 3x3 and 5x5 kernels and of rows of 2
 * to 7 taps, at stride 2 of 3x3 kernels and rows of 3 taps. backward_weight: winograd_weight.h.
 *
 * A tile of 4x4 outputs comes from 6x6 inputs d and the 3x3 weights g as  A^T [(G g G^T) * (B^T d B)] A  (Winograd
 * 1980, Lavin and Gray 2015, https://arxiv.org/abs/1509.09308), the product taken element by element and summed over
 * the input channels: 36 matrix products, one for each element f of the 6x6, a quarter of the multiplications. 5x5
 * kernels have 2x2 outputs of the same 36 (9 of 25 multiplications are left). In a row of R taps, 9 - R outputs come
 * from 8 inputs and 8 products (R = 3: 44% are left, R = 5: 40%, R = 2 or 7: 57%); it may be 1-D or a row of a plane.
 * At stride 2 (winograd_plan.h) 4x4 outputs come from 81 products (56% are left), 7 outputs of a row from 15 (71%).
 * backward_input is the same with the weights flipped and their channels swapped. Which points the matrices interpolate
 * in: winograd_transforms.h. Errors in float32, of the largest output: 1e-6 to 4e-6 (direct summation 2e-7 to 6e-7), as
 * long sums are taken in parts.
 *
 * Channels are in the lanes. v (inputs), u (weights) and m (products) are
 *     v [register tile][chunk of LANES in-channels][f][tile][LANES]
 *     u [slab of 8 in-channels][f][in-channel][BLOCK]     m [f][tile][BLOCK]
 * with BLOCK = 2 * LANES out-channels: all f of a tile lie within a few pages, as a store that goes to one of more than
 * 16 pages waits for the address translation. Planes are turned to channels-in-lanes some tiles of a row at a time on
 * their way into the transform, and back after the last one, so no transposed image exists. Two orders of work:
 *   many tiles   all weights are transformed once; an item is a block of tiles and one group, carried through all steps
 *   few tiles    (one block) all inputs are transformed once; an item is a block of out-channels, whose weights are
 *                transformed, some in-channels at a time, just before they are used: they are read and written once
 *
 * NaN and infinity would spread over a tile, and large numbers may overflow on the way. Either leaves NaN or infinity
 * in each stored output that depends on it (its coefficients there are not 0, and what is not finite stays so), and may
 * do so in others. So the outputs are watched before the bias is added, one multiply-add a vector, too little to be
 * measured (below 2% of a call); where one is not finite the whole call is done again by direct summation, which then
 * takes 1.5 to 2 times what direct summation alone would.
 *
 * Workspace: that of the direct summation, or  u or v, and for each worker v or u, m, a few half transformed tiles, and
 * one block of outputs before it is turned: whichever is more. */
#include "winograd_plan.h"

#ifndef FC_WINOGRAD_ROWS
#if FC_REGISTERS == 32
#define FC_WINOGRAD_ROWS 14 /* tiles of a register tile: 14 x 2 sums, 2 vectors of weights, 1 input in all lanes */
#else
#define FC_WINOGRAD_ROWS 6
#endif
#endif

#define BLOCK (2 * LANES)
#define DEPTH (LANES < FC_WINOGRAD_DEPTH ? LANES : FC_WINOGRAD_DEPTH)
#define POINT (DEPTH * BLOCK + LANES) /* the distance from one f to the next in u */

#include "winograd_transforms.h"

/* Vectors of out-channels in part `part`, and its weights for in-channels in0 .. in1. */
static ptrdiff_t FC(winograd_part)(const fc_winograd *p, ptrdiff_t group, ptrdiff_t part, ptrdiff_t in0, ptrdiff_t in1,
                                   real *u) {
    const ptrdiff_t out = part * BLOCK, vectors = fc_min(fc_ceil_div(p->out - out, LANES), 2);
    const ptrdiff_t first = group * p->w_group + out * p->w_out;
    FC(winograd_weights)(p, (const real *)p->call->w + first, p->out - out, p->groups * p->w_group - first, in0, in1,
                         vectors, u);
    return vectors;
}

/* ---- the products */

/* One in-channel of TB tiles x VB vectors. */
FC_INLINE void FC(winograd_multiply_add)(const int TB, const int VB, const real *inputs, const real *weights,
                                         vec sum[][2]) {
    vec w[2];
    FC_UNROLL for (int k = 0; k < VB; k++) w[k] = FC(load)(weights + k * LANES);
    FC_UNROLL for (int t = 0; t < TB; t++) {
        const vec input = FC(splat)(inputs[t * LANES]);
        FC_UNROLL for (int k = 0; k < VB; k++) sum[t][k] += input * w[k];
    }
}

/* TB tiles x VB vectors of out-channels of one f:  m[tile][VB] (+)= sum over `in` channels of v[..][tile] * u[..][VB]
 * */
FC_INLINE void FC(winograd_tile)(const int TB, const int VB, const real *v, ptrdiff_t v_chunk, const real *u,
                                 ptrdiff_t u_slab, ptrdiff_t in, real *m, int add) {
    vec sum[FC_WINOGRAD_ROWS][2];
    FC_UNROLL for (int t = 0; t < TB; t++)
        FC_UNROLL for (int k = 0; k < VB; k++) sum[t][k] = (vec){0};
    for (; in > 0; v += v_chunk)
        for (ptrdiff_t first = 0; first < LANES && in > 0; first += DEPTH, in -= DEPTH, u += u_slab) {
            if (in >= DEPTH) /* without a loop: rolled, as -fwrapv leaves it, rows take 1.4 times as long */
                FC_UNROLL for (int c = 0; c < (int)DEPTH; c++)
                    FC(winograd_multiply_add)(TB, VB, v + first + c, u + c * VB * LANES, sum);
            else
                for (ptrdiff_t c = 0; c < in; c++)
                    FC(winograd_multiply_add)(TB, VB, v + first + c, u + c * VB * LANES, sum);
        }
    if (add) /* what came before last: long sums in parts err less */
        FC_UNROLL for (int t = 0; t < TB; t++)
            FC_UNROLL for (int k = 0; k < VB; k++) sum[t][k] += FC(load)(m + (t * VB + k) * LANES);
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

FC_NOINLINE void FC(winograd_tiles_1)(int tb, const real *v, ptrdiff_t chunk, const real *u, ptrdiff_t slab,
                                      ptrdiff_t in, real *m, int add) {
    FC(winograd_tiles)(tb, 1, v, chunk, u, slab, in, m, add);
}

FC_NOINLINE void FC(winograd_tiles_2)(int tb, const real *v, ptrdiff_t chunk, const real *u, ptrdiff_t slab,
                                      ptrdiff_t in, real *m, int add) {
    FC(winograd_tiles)(tb, 2, v, chunk, u, slab, in, m, add);
}

/* The products of `tiles` tiles with one part of the out-channels, in all points; v: of the first of the `in`
 * channels. */
static void FC(winograd_multiply)(const fc_winograd *p, const real *v, const real *u, ptrdiff_t in, ptrdiff_t tiles,
                                  ptrdiff_t vectors, real *m, int add) {
    const ptrdiff_t rows = p->rows, v_rows = p->chunks * p->v_chunk;
    for (ptrdiff_t f = 0; f < p->points; f++, v += p->v_point, m += p->m_point) {
        const real *weights = u + fc_weight_point(&p->h, &p->w, f) * p->u_point;
        for (ptrdiff_t first = 0, i = 0; first < tiles; first += rows, i++) {
            const int now = (int)fc_min(rows, tiles - first);
            real *to = m + first * vectors * LANES;
            if (vectors == 2)
                FC(winograd_tiles_2)(now, v + i * v_rows, p->v_chunk, weights, p->u_slab, in, to, add);
            else
                FC(winograd_tiles_1)(now, v + i * v_rows, p->v_chunk, weights, p->u_slab, in, to, add);
        }
    }
}

/* One part of the out-channels of all segments of a block. */
static void FC(winograd_finish)(const fc_winograd *p, ptrdiff_t block, ptrdiff_t group, ptrdiff_t part,
                                const fc_winograd_worker *space) {
    const fc_call *call = p->call;
    const ptrdiff_t plane = p->h.to * p->w.to, vectors = fc_min(fc_ceil_div(p->out - part * BLOCK, LANES), 2);
    for (ptrdiff_t i = 0; i < fc_segments(p, block); i++) {
        const fc_segment s = fc_segment_of(p, block, i);
        const ptrdiff_t i0 = fc_tile_start(&p->h, s.h0), j0 = fc_tile_start(&p->w, s.w0);
        const ptrdiff_t rows = fc_tile_reach(&p->h, s.h0, s.h1), cols = fc_tile_reach(&p->w, s.w0, s.w1);
        const ptrdiff_t run = cols == p->w.to ? rows * cols : cols;
        for (ptrdiff_t k = 0; k < vectors; k++) {
            const ptrdiff_t first = part * BLOCK + k * LANES, channels = fc_min(LANES, p->out - first);
            const ptrdiff_t channel = group * p->out + first;
            vec bias = {0};
            if (call->bias && !call->bias_per_position)
                bias = FC(load_lanes)((const real *)call->bias + channel, FC(between)(0, channels));
            const FC(winograd_result) result = {&s, (const real *)space->m + (s.first * vectors + k) * LANES,
                                                vectors * LANES, rows, cols, bias, space->outputs};
            const vec poison = FC(winograd_inverse)(p, &result);
            for (ptrdiff_t l = 0; l < LANES; l++)
                *space->poisoned |= poison[l] != 0;
            const real *untied = NULL;
            if (call->bias && call->bias_per_position)
                untied = (const real *)call->bias + channel * plane;
            real *to = (real *)(p->flipped ? call->x : call->y) + (s.image * p->groups * p->out + channel) * plane;
            for (ptrdiff_t at = 0; at < rows * cols; at += run) {
                const ptrdiff_t there = (i0 + at / cols) * p->w.to + j0;
                FC(winograd_store)((const real *)space->outputs + at * LANES, run, channels, plane, to + there,
                                   untied ? untied + there : NULL);
            }
        }
    }
}

/* ---- items */

static const real *FC(winograd_source)(const fc_winograd *p, ptrdiff_t image, ptrdiff_t group, ptrdiff_t chunk) {
    const real *from = p->flipped ? p->call->y : p->call->x;
    return from + ((image * p->groups + group) * p->in + chunk * LANES) * p->h.from * p->w.from;
}

static real *FC(winograd_shared_v)(const fc_winograd *p, ptrdiff_t group) {
    return (real *)p->shared + group * (ptrdiff_t)(fc_round_up((size_t)p->v_group * sizeof(real)) / sizeof(real));
}

static real *FC(winograd_shared_u)(const fc_winograd *p, ptrdiff_t group, ptrdiff_t part) {
    const size_t bytes = fc_round_up((size_t)p->u_part * sizeof(real));
    return (real *)(p->shared + (size_t)(group * p->parts + part) * bytes);
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
        const real *u = FC(winograd_shared_u)(p, group, part);
        for (ptrdiff_t in = 0; in < p->in; in += p->depth)
            FC(winograd_multiply)(p, (const real *)space.own + in / LANES * p->v_chunk, u + in / DEPTH * p->u_slab,
                                  fc_min(p->depth, p->in - in), tiles, vectors, space.m, in > 0);
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
    const ptrdiff_t group = i / p->parts, part = i % p->parts;
    for (ptrdiff_t in = 0; in < p->in; in += p->depth) {
        const ptrdiff_t end = fc_min(in + p->depth, p->in);
        const ptrdiff_t vectors = FC(winograd_part)(p, group, part, in, end, space.own);
        const real *v = FC(winograd_shared_v)(p, group) + in / LANES * p->v_chunk;
        FC(winograd_multiply)(p, v, space.own, end - in, p->tiles, vectors, space.m, in > 0);
    }
    FC(winograd_finish)(p, 0, group, part, &space);
}

static int FC(winograd_run)(const fc_call *call, fc_operation operation) {
    const int threads = fc_worthwhile_threads(&call->geometry, call->threads);
    fc_winograd p = fc_winograd_plan(&call->geometry, operation, threads, LANES, FC_WINOGRAD_ROWS, sizeof(real));
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
    const fc_winograd p = fc_winograd_plan(g, operation, threads, LANES, FC_WINOGRAD_ROWS, sizeof(real));
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
#undef POINT
